"""VGG-19 with batch norm: sixteen 3x3 convs, five max-pools, one linear classifier."""

from timm.layers import ClassifierHead
from timm.models.vgg import VGG
from torch import nn

_CONVS_BEFORE_POOL = (2, 2, 4, 4, 4)


class FilterVGG(VGG):
    """VGG with one width per conv (16 of them) and a small head.

    Parameters
    ----------
    filters : (16,) integers
    num_classes, in_chans : int
    head : {"pool", "flatten7x7"}
        "pool" averages the final map and has one Linear f_D -> classes: the CIFAR counts.
        "flatten7x7" pools to 7x7 and has one Linear 49 f_D -> classes: the only head that fits
        the published Tiny-ImageNet counts.
    """

    def __init__(self, filters, num_classes=10, in_chans=3, head="pool"):
        widths = iter(filters)
        cfg = [
            entry for n in _CONVS_BEFORE_POOL for entry in [*(next(widths) for _ in range(n)), "M"]
        ]
        # timm's own head is a 4096-wide convolutional MLP of over 100 M parameters; it is made one
        # filter wide here because it is replaced at once.
        super().__init__(cfg, num_classes, in_chans, mlp_ratio=1 / 4096, norm_layer=nn.BatchNorm2d)
        features = filters[-1]
        self.pre_logits = nn.Identity()
        if head == "flatten7x7":  # as 49 f_D channels of 1x1, so that timm's head stays as it is
            features *= 49
            self.pre_logits = nn.Sequential(
                nn.AdaptiveAvgPool2d(7), nn.Flatten(1), nn.Unflatten(1, (-1, 1, 1))
            )
        self.head = ClassifierHead(features, num_classes)
        self.head_hidden_size = features
        if num_classes:
            nn.init.normal_(self.head.fc.weight, 0, 0.01)  # as timm initialises VGG's classifier
            nn.init.zeros_(self.head.fc.bias)
