"""ResNet-50 for small images: a 3x3 stride-1 stem without pooling, bottlenecks [3, 4, 6, 3]."""

from timm.layers import get_device_dtype
from timm.models.resnet import Bottleneck, ResNet, downsample_conv
from torch import nn
from torch.nn.functional import conv2d


class Shortcut(nn.Conv2d):
    """A strided 1x1 convolution, computed as a plain one of every second pixel.

    oneDNN's own, channels last with fewer than 16 input channels, writes out of bounds
    (uxlfoundation/oneDNN#6035).
    """

    def forward(self, x):
        return conv2d(x[..., ::2, ::2], self.weight)


class FilterResNet(ResNet):
    """ResNet-50 with one width per stage; the stem takes the first stage's, the expansion is 4."""

    def __init__(self, filters, num_classes=10, in_chans=3, output_stride=32, **options):
        options["output_stride"] = min(4 * output_stride, 32)  # timm's own stem has a stride of 4
        blocks = (3, 4, 6, 3)
        super().__init__(Bottleneck, blocks, num_classes, in_chans, channels=filters, **options)
        # timm's plain stem is 64 wide whatever the stages are: the stem, and the one block that
        # reads it, are replaced.
        first, place = filters[0], get_device_dtype(self)
        self.conv1 = nn.Conv2d(in_chans, first, 3, padding=1, bias=False, **place)
        self.bn1 = nn.BatchNorm2d(first, **place)
        self.maxpool = nn.Identity()
        shortcut = downsample_conv(first, 4 * first, kernel_size=1, **place)
        self.layer1[0] = Bottleneck(first, first, downsample=shortcut, **place)
        for layer in (self.layer2, self.layer3, self.layer4):
            if layer[0].downsample is None:  # timm's, dilated and as wide as the stage before it
                ends = layer[0].conv1.in_channels, layer[0].conv3.out_channels
                layer[0].downsample = downsample_conv(*ends, kernel_size=1, **place)
            conv = layer[0].downsample[0]
            if conv.stride == (2, 2):  # and not dilated instead, as `output_stride` asks
                sizes = conv.in_channels, conv.out_channels, 1
                layer[0].downsample[0] = Shortcut(*sizes, stride=2, bias=False, **place)
        self.feature_info[0]["num_chs"] = first
        for info in self.feature_info:
            info["reduction"] = max(1, info["reduction"] // 4)
