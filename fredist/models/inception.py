"""Inception (GoogLeNet) for small images: one 3x3 pre-layer and nine modules with batch norm."""

from timm.layers import ConvNormAct, create_classifier
from timm.models.vgg import VGG
from torch import nn
from torchvision.models.googlenet import Inception

from .families import INCEPTION_PRE, expand

_NAMES = ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b")


class FilterInception(nn.Module):
    """GoogLeNet with free widths; max-pools after 3b and 4e, the 5x5 branch as two 3x3 convs.

    Parameters
    ----------
    filters : (9,) of integers, or of six integers each
        One number gives every conv of the module that many filters; six are its sizes
        (1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool projection).
    num_classes, in_chans : int
    pre : int
        Width of the pre-layer, which no template touches.
    """

    def __init__(self, filters, num_classes=10, in_chans=3, pre=INCEPTION_PRE):
        super().__init__()
        self.num_classes, self.in_chans = num_classes, in_chans
        self.pre = _conv(in_chans, pre, kernel_size=3)
        self.feature_info = []
        channels, reduction = pre, 1
        for name, module in zip(_NAMES, filters, strict=True):
            if name in ("4a", "5a"):
                self.add_module(f"pool{name[0]}", nn.MaxPool2d(3, stride=2, padding=1))
                reduction *= 2
            sizes = expand(module)
            block = Inception(channels, *sizes, conv_block=_conv)
            block.branch3.append(_conv(sizes[4], sizes[4], kernel_size=3))
            channels = sizes[0] + sizes[2] + sizes[4] + sizes[5]
            self.add_module(f"inception{name}", block)
            if name in ("3b", "4e", "5b"):
                self.feature_info.append(
                    {"num_chs": channels, "reduction": reduction, "module": f"inception{name}"}
                )
        self.num_features = self.head_hidden_size = channels
        self.reset_classifier(num_classes, "avg")
        VGG._initialize_weights(self)  # timm's plain conv-bn-linear scheme; torchvision's is slow

    def forward_features(self, x):
        """Return the last module's map: (N, C, H, W) -> (N, num_features, H / 4, W / 4)."""
        for name, child in self.named_children():
            if name not in ("global_pool", "fc"):
                x = child(x)
        return x

    def forward_head(self, x, pre_logits=False):
        """Return the logits (N, classes), or the pooled features with `pre_logits`."""
        x = self.global_pool(x)
        return x if pre_logits else self.fc(x)

    def forward(self, x):
        return self.forward_head(self.forward_features(x))

    def get_classifier(self):
        """Return the linear classifier."""
        return self.fc

    def reset_classifier(self, num_classes, global_pool=None):
        """Replace the classifier; 0 classes removes it."""
        self.num_classes = num_classes
        pool = self.global_pool.pool_type if global_pool is None else global_pool
        like = self.pre.conv.weight
        self.global_pool, self.fc = create_classifier(
            self.num_features, num_classes, pool_type=pool, device=like.device, dtype=like.dtype
        )
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult()


def _conv(in_channels, out_channels, kernel_size=1, padding=None):
    # The paper's counts include the convs' biases, in front of batch norm.
    return ConvNormAct(in_channels, out_channels, kernel_size, bias=True)
