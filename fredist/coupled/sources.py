"""Newly built networks by name, timm's and torchvision's, or after a module of one's own."""

import copy
from collections.abc import Iterable

import torch
from torch import nn
from torch.nn.parameter import UninitializedTensorMixin

from ..checks import check_integer, closest

LIBRARIES = ("timm", "torchvision")
_WRAPPERS = ("torch.nn.parallel.", "torch.distributed.", "torch.optim.", "torch._dynamo.")
_WEIGHTS = ("pretrained", "checkpoint_path", "weights")  # options of both


def find(name: str) -> tuple[str, str]:
    """Return the library and the name of a network there; timm comes first unless one is named.

    Examples
    --------
    >>> find("efficientnet_b0"), find("torchvision/efficientnet_b0"), find("googlenet")
    (('timm', 'efficientnet_b0'), ('torchvision', 'efficientnet_b0'), ('torchvision', 'googlenet'))
    """
    library, _, own = name.rpartition("/")
    for there in (library,) if library in LIBRARIES else LIBRARIES:
        if (own if library in LIBRARIES else name) in _names(there):
            return there, own
    known = sorted({known for there in LIBRARIES for known in _names(there)})
    raise ValueError(
        f"expected one of the paper's networks, timm's or torchvision's (timm/name, "
        f"torchvision/name), got {name!r}{closest(own, known)}"
    )


def create(library: str, name: str, num_classes=None, in_chans=3, **options) -> nn.Module:
    """Return a newly built network; None classes are as many as the library has by default."""
    if given := [option for option in _WEIGHTS if options.pop(option, None)]:
        raise ValueError(
            f"expected no {', '.join(given)}: a network with other filters is trained anew"
        )
    if num_classes is not None:
        options["num_classes"] = num_classes
    if library == "timm":
        import timm

        return timm.create_model(name, in_chans=in_chans, **options)
    import torchvision

    if in_chans != 3:
        raise ValueError(f"expected in_chans=3 with torchvision's networks, got {in_chans}")
    if name in torchvision.models.list_models(module=torchvision.models.segmentation):
        options = {"weights_backbone": None} | options  # which it would fetch
    return torchvision.models.get_model(name, weights=None, **options)


def check_own(model: nn.Module) -> None:
    """Raise an error for what is wrapped around a network, or was compiled from one."""
    kind, made_by = type(model).__name__, type(model).__module__
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            made = type(module).__name__ + f" as its {name}" * bool(name)
            raise ValueError(f"expected the network itself, got what torch.jit made, a {made}")
    for inside in ("module", "_orig_mod"):  # DataParallel's and its kind's, torch.compile's
        if made_by.startswith(_WRAPPERS) and isinstance(getattr(model, inside, None), nn.Module):
            raise ValueError(
                f"expected the network itself, got {kind} around it: give its .{inside}, and wrap "
                "what comes back"
            )


def copied(model: nn.Module, memo: dict | None = None) -> nn.Module:
    """Return a copy of a network; a `ValueError` says of what kind its is that has none."""
    try:
        return copy.deepcopy(model, memo)
    except (RuntimeError, TypeError) as error:
        held = (
            "a computed tensor, such as an activation or what torch.nn.utils.weight_norm makes "
            "(use parametrizations.weight_norm)"
        )
        if isinstance(error, TypeError):
            held = "what Python cannot copy, such as a lock or an open file (open it when needed)"
        raise ValueError(
            f"expected modules that can be copied, got one that holds {held}: {str(error)[:60]}"
        ) from error


def on_meta(model: nn.Module) -> nn.Module:
    """Return a copy of a model on the meta device, without copying its tensors first."""
    memo = {}
    for t in (*model.parameters(), *model.buffers()):
        if isinstance(t, UninitializedTensorMixin):
            raise ValueError(
                "expected tensors with sizes, got lazy modules without: run the network once first"
            )
        twin = torch.empty_like(t, device="meta")
        memo[id(t)] = nn.Parameter(twin, t.requires_grad) if isinstance(t, nn.Parameter) else twin
    return copied(model, memo)


def create_bare(library: str, name: str, **options) -> nn.Module:
    """Return a network to look at: on the meta device, if its constructor reads no values."""
    try:
        with torch.device("meta"):
            return create(library, name, **options)
    except Exception:
        return create(library, name, **options)


def own_size(library: str, name: str) -> int | None:
    """Return the size of the images that torchvision's weights are for; timm's networks say it."""
    if library == "timm":
        return None
    from torchvision import models

    sizes = models.get_model_weights(name).DEFAULT.transforms.keywords
    return sizes.get("crop_size") or sizes["resize_size"]  # of segmentation


def first_channels(model: nn.Module) -> int:
    """Return what a module's first convolution reads: most likely an image."""
    convs = (m for m in model.modules() if isinstance(m, nn.modules.conv._ConvNd))
    return getattr(next(convs, None), "in_channels", 3)


def image_shape(model: nn.Module, in_chans: int, image_size) -> tuple[int, int, int]:
    """Return (channels, height, width) of the images a network is made for, or of that size."""
    if image_size is not None:
        sizes = image_size if isinstance(image_size, tuple | list) else (image_size, image_size)
        return in_chans, *(check_integer("image_size", size) for size in sizes)
    config = getattr(model, "default_cfg", None) or {}
    return in_chans, *config.get("input_size", (3, 224, 224))[1:]


def images(model: nn.Module, image_shape: tuple[int, int, int], count: int = 1) -> torch.Tensor:
    """Return random images that a model takes: of its weights' type, and where they are."""
    weight = next((p for p in model.parameters() if p.is_floating_point()), None)
    if weight is None:
        raise ValueError(f"expected a network with weights, got {type(model).__name__} with none")
    return torch.rand(count, *image_shape, dtype=weight.dtype, device=weight.device)


def _names(library: str) -> Iterable[str]:
    if library == "timm":
        import timm

        from ..networks import registry  # noqa: F401 - the paper's are timm's, too, by its names

        return timm.list_models()
    from torchvision import models

    return [n for one in (models, models.segmentation) for n in models.list_models(module=one)]
