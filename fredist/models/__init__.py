"""The paper's four networks with free filters, on timm's and torchvision's own blocks.

`create_model` resolves a template to filters and builds the network; the same networks are
registered with timm as `fredist_<name>`. Importing this needs neither: only building does.
"""

from typing import TYPE_CHECKING

from ..templates import TEMPLATES, check_choice
from .families import FAMILIES, SHAPING, Family, default_options, redistribute

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn


def create_model(
    name: str,
    template: str = "base",
    width: float = 1.0,
    num_classes: int = 10,
    *,
    in_chans: int = 3,
    filters: list | None = None,
    convention: str = "equations",
    **options,
) -> "nn.Module":
    """Return one of the paper's networks with its filters redistributed, freshly initialised.

    Section 3 with the conventions that make the published counts come out: 3x3 stride-1 stems for
    32x32 and 64x64 images, `(N, in_chans, H, W) -> (N, num_classes)` for any H, W >= 32.

    Parameters
    ----------
    name : {"vgg19", "resnet50", "inception", "mobilenet"}
    template, width, convention
        As in `apply_template`; width scales the template's list only.
    num_classes : int
        At least 0; 0 leaves the classifier out.
    filters : list, optional
        Filters of one's own in place of a template, as `model.filters` gives them (JSON turns
        its tuples into lists, which are as good).
    **options
        `keep_total`, `round_to`: as in `apply_template`. Inception's total is that of its
        modules' numbers (base: of all sizes): the sizes that "proportional" makes of them are
        rounded one by one.
        `head`: VGG-19's, "pool" or "flatten7x7" (the published Tiny-ImageNet counts).
        `reading`: Inception's, "every_conv" (the text) or "proportional".
        `scale_fixed`: Inception and MobileNet; True also scales by width the one layer that
        templates leave alone (the pre-layer of 192, the last block of 1024).

    Returns
    -------
    nn.Module that timm would recognise, with `filters`, `template`, `width`, `convention` and
    `options` as built.

    Raises
    ------
    TypeError, ValueError
        For unknown names (listing the right ones), wrong types and values out of range.

    Examples
    --------
    >>> model = create_model("vgg19", template="uniform", width=0.5, num_classes=10)
    >>> model.filters[:3], model.num_features
    ((172, 172, 172), 172)
    """
    check_choice("model", name, tuple(FAMILIES))
    from .registry import create  # timm takes seconds to import, which filters alone can spare

    return create(
        name,
        template=template,
        width=width,
        num_classes=num_classes,
        in_chans=in_chans,
        filters=filters,
        convention=convention,
        **options,
    )


def compare(
    name: str,
    width: float = 1.0,
    num_classes: int = 10,
    *,
    convention: str = "equations",
    image_size: int = 32,
    **options,
) -> "pd.DataFrame":
    """Return one row per template: filters, parameters and MACs, and both beside the base's.

    MACs are multiply-accumulates of one `image_size` x `image_size` image. Nothing is allocated:
    the networks are built without storage.

    Examples
    --------
    >>> compare("vgg19")[["params", "params_vs_base"]].round(3)  # doctest: +NORMALIZE_WHITESPACE
                          params  params_vs_base
    template
    base                20040522           1.000
    reverse             20048138           1.000
    uniform             16004610           0.799
    quadratic           19424615           0.969
    negative_quadratic  19989962           0.997
    """
    import pandas as pd  # training needs only torch and timm
    import torch

    from ..measure import count_macs, count_params

    rows = []
    for template in TEMPLATES:
        with torch.device("meta"):
            model = create_model(
                name, template, width, num_classes, convention=convention, **options
            )
        rows.append(
            {
                "template": template,
                "convention": convention,
                "width": width,
                "filters": model.filters,
                "params": count_params(model),
                "macs": count_macs(model, image_size),
            }
        )
    frame = pd.DataFrame(rows).set_index("template")
    for column in ("params", "macs"):
        frame[f"{column}_vs_base"] = frame[column] / frame.loc["base", column]
    return frame


__all__ = [
    "FAMILIES",
    "SHAPING",
    "Family",
    "compare",
    "create_model",
    "default_options",
    "redistribute",
]
