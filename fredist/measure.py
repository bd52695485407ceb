"""What a network costs, counted or measured."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_params(model: nn.Module) -> int:
    """Return the number of parameters.

    Examples
    --------
    >>> count_params(nn.Conv2d(3, 8, 3))
    224
    """
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, image_size: int = 32) -> int:
    """Return the multiply-accumulates of one image's forward pass, convs and linears.

    Counted by PyTorch's own flop counter; on a model built under `torch.device("meta")` nothing
    is computed.

    Examples
    --------
    >>> with torch.device("meta"):
    ...     count_macs(nn.Conv2d(3, 8, 3, padding=1), image_size=32)
    221184
    """
    weight = next(model.parameters())
    channels = getattr(model, "in_chans", 3)
    image = torch.zeros(
        1, channels, image_size, image_size, device=weight.device, dtype=weight.dtype
    )
    training = model.training
    model.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(image)
    model.train(training)
    return counter.get_total_flops() // 2
