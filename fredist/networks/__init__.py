"""The paper's four networks with free filters, on timm's and torchvision's own blocks.

Importing this needs neither, nor PyTorch: only building does.
"""

import itertools
from collections.abc import Sequence
from math import nan
from typing import TYPE_CHECKING

from ..templates import TEMPLATES
from .budget import OPTIONS, cost_of, largest, largest_width
from .families import FAMILIES, NETWORKS, check_model
from .network import CONVENTIONS, Network, check_options, make_network

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

__all__ = [
    "FAMILIES",
    "Network",
    "compare",
    "create_model",
    "departures",
    "largest_width",
    "make_network",
]


def create_model(
    name: str,
    template: str = "base",
    width: float = 1.0,
    num_classes: int = 10,
    *,
    in_chans: int = 3,
    filters: Sequence | None = None,
    convention: str = "equations",
    **options,
) -> "nn.Module":
    """Return one of the paper's networks with its filters redistributed, freshly initialised.

    An `nn.Module` that timm recognises, `(N, in_chans, H, W) -> (N, num_classes)`, with `network`,
    `filters`, and `template`, `width` and `convention` as built (None with filters of one's own).
    VGG-19 takes images of 16x16 or larger, the others any size; 0 classes leave the classifier out.

    The `convention` "equations" is the text, rounded half up; "published" are the networks that
    the paper ran, which depart from it in six cases (`departures()`) and truncate what the width
    multiplies. The width scales every layer, also the one that templates leave alone. `filters` of
    one's own, in place of a template, are every layer's, as `model.filters` gives them.

    Options: `keep_total`, `round_to` and `vertex` as in `apply_template` (kept is the total of what
    is rounded: with MobileNet's last block; of Inception's base, all sizes; of its templates, the
    nine modules); `head`, of VGG-19, "pool" or "flatten7x7" (the published Tiny-ImageNet counts);
    and timm's: `drop_rate`, `global_pool`, `device`, `dtype`, `features_only`, and weights by
    `checkpoint_path` or `pretrained` with `pretrained_cfg_overlay`. `output_stride` is the most by
    which an image shrinks, 2 or more with ResNet-50, 1 with MobileNet; `network` counts without it.

    Examples
    --------
    >>> model = create_model("vgg19", template="uniform", width=0.5, num_classes=10)
    >>> model.filters[:3], model.num_features
    ((172, 172, 172), 172)
    """
    check_model(name)
    from .registry import create  # timm takes seconds to import, which filters alone can spare

    arguments = {"template": template, "width": width, "num_classes": num_classes}
    arguments |= {"in_chans": in_chans, "filters": filters, "convention": convention}
    return create(name, **arguments, **options)


def compare(
    name: str,
    width: float = 1.0,
    num_classes: int = 10,
    *,
    convention: str = "equations",
    image_size: int = 32,
    **options,
) -> "pd.DataFrame":
    """Return one row per template: filters, parameters and MACs, and both beside the original's.

    The original is the base at width 1.0; `width_at_params` and `width_at_macs` are the widths
    that `largest_width` gives for as much as that. MACs are multiply-accumulates of one
    `image_size` x `image_size` image; where no width fits, there is none (NaN). `options` are
    `in_chans`, `head`, `keep_total`, `round_to` and `vertex`, as in `create_model`. Nothing is
    built or trained.

    Examples
    --------
    >>> compare("vgg19")["params_vs_original"].round(3).tolist()
    [1.0, 1.0, 0.799, 0.969, 0.997]
    """
    import pandas as pd

    check_options("compare, one row per template,", options, ("width", *OPTIONS, "image_size"))
    shape = {key: value for key, value in options.items() if key in ("in_chans", "head")}
    original = make_network(name, num_classes=num_classes, **shape)
    originals, rows = {"params": original.params, "macs": original.macs(image_size)}, []
    for template in TEMPLATES:
        # Only the quadratic has a vertex: the one choice is meant for it.
        own = {k: v for k, v in options.items() if k != "vertex" or template == "quadratic"}
        own |= {"num_classes": num_classes, "convention": convention}
        network = make_network(name, template, width, **own)
        counts = network.params, network.macs(image_size)
        ratios = [count / most for count, most in zip(counts, originals.values(), strict=True)]
        costs = {what: cost_of(name, template, what, image_size, **own) for what in originals}
        fits = [largest(cost, originals[what]) or nan for what, cost in costs.items()]
        rows.append((template, network.filters, *counts, *ratios, *fits))
    columns = ["template", "filters", "params", "macs", "params_vs_original", "macs_vs_original"]
    frame = pd.DataFrame(rows, columns=[*columns, "width_at_params", "width_at_macs"])
    return frame.set_index("template")


def departures() -> "pd.DataFrame":
    """Return the published networks that are not the equations' solution, one row each.

    Filters and parameters (10 classes) of both, `departure`, what the paper did, and `strength`,
    of the evidence: "before" stands in code compiled before the paper's submission.

    Examples
    --------
    >>> departures()[["model", "template", "params_equations", "params_published"]].loc[[1]]
          model template  params_equations  params_published
    1  resnet50  uniform          18559930          12898610
    """
    import pandas as pd

    rows = []
    for model, template in itertools.product(FAMILIES, TEMPLATES):
        both = {c: make_network(model, template, convention=c) for c in CONVENTIONS}
        if both["equations"] != both["published"]:
            row = {"model": model, "template": template}
            row |= {f"filters_{c}": network.filters for c, network in both.items()}
            row |= {f"params_{c}": network.params for c, network in both.items()}
            entry = NETWORKS[model][template]
            rows.append(row | {key: entry[key] for key in ("departure", "strength")})
    return pd.DataFrame(rows)
