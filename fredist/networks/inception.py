"""Inception (GoogLeNet) for small images: one 3x3 pre-layer and nine modules with batch norm."""

from functools import partial

import torch
from timm.layers import ConvNormAct, get_device_dtype, register_notrace_module
from torch import nn
from torchvision.models.googlenet import Inception

from .families import six_sizes
from .vgg import SmallHead


@register_notrace_module  # what it does depends on the device and type of its maps
class Module(Inception):
    """torchvision's module, whose branches receive gradients that are dense in memory.

    They arrive as slices of the concatenation's, on which a CPU's bfloat16 kernels are several
    times slower: a training step was measured to be 1.1 to 1.2 times as fast with copies.
    """

    def forward(self, x):
        branches = self._forward(x)
        if not torch.jit.is_scripting():
            for branch in filter(_gains, branches):
                branch.register_hook(_dense)
        return torch.cat(branches, 1)


def _gains(branch):
    half = branch.device.type == "cpu" and branch.dtype == torch.bfloat16
    return half and branch.requires_grad


def _dense(gradient):
    return gradient.contiguous(memory_format=torch.channels_last)


class FilterInception(SmallHead):
    """GoogLeNet with free widths; max-pools after 3b and 4e, the 5x5 branch as two 3x3 convs."""

    def __init__(self, filters, num_classes=10, in_chans=3, **options):
        super().__init__([], num_classes, in_chans, **options)
        # The paper's counts include biases before batch norm.
        conv = partial(ConvNormAct, bias=True, **get_device_dtype(self))
        pre, *modules = filters
        layers, ends, channels = [conv(in_chans, pre, 3)], [], [pre]
        for i, module in enumerate(modules):
            if i in (2, 7):  # 4a and 5a
                ends.append(len(layers) - 1)
                layers.append(nn.MaxPool2d(3, stride=2, padding=1))
            sizes = six_sizes(module)
            block = Module(channels[-1], *sizes, conv_block=conv)
            block.branch3.append(conv(sizes[4], sizes[4], 3))
            layers.append(block)
            channels.append(sizes[0] + sizes[2] + sizes[4] + sizes[5])
        self.features = nn.Sequential(*layers)
        self.feature_ends = [*ends, len(layers) - 1]
        self.feature_info = [
            {"num_chs": channels[i], "reduction": reduction, "module": f"features.{end}"}
            for i, reduction, end in zip((2, 7, 9), (1, 2, 4), self.feature_ends, strict=True)
        ]
        self.set_head(channels[-1])
