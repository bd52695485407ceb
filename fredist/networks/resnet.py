"""ResNet-50 for small images: a 3x3 stride-1 stem without pooling, bottlenecks [3, 4, 6, 3]."""

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

    def __init__(self, filters, num_classes=10, in_chans=3):
        super().__init__(Bottleneck, (3, 4, 6, 3), num_classes, in_chans, channels=filters)
        # timm's plain stem is 64 wide whatever the stages are: the stem, and the one block that
        # reads it, are replaced.
        first = filters[0]
        self.conv1 = nn.Conv2d(in_chans, first, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.maxpool = nn.Identity()
        shortcut = downsample_conv(first, 4 * first, kernel_size=1)
        self.layer1[0] = Bottleneck(first, first, downsample=shortcut)
        for layer in (self.layer2, self.layer3, self.layer4):
            conv = layer[0].downsample[0]
            inputs, outputs = conv.in_channels, conv.out_channels
            layer[0].downsample[0] = Shortcut(inputs, outputs, 1, stride=2, bias=False)
        self.feature_info[0]["num_chs"] = first
        for info, reduction in zip(self.feature_info, (1, 1, 2, 4, 8), strict=True):
            info["reduction"] = reduction
