"""MobileNet v1 for small images: a stride-1 stem and 13 depthwise-separable blocks."""

from timm.models._efficientnet_builder import decode_arch_def
from timm.models.efficientnet import EfficientNet
from torch import nn

_STAGES = ((1, 1), (2, 2), (2, 2), (6, 2), (2, 2))  # blocks, stride of the first


class FilterMobileNet(EfficientNet):
    """MobileNet v1 with one width for the stem and each of the 13 blocks."""

    def __init__(self, filters, num_classes=10, in_chans=3, output_stride=32, **options):
        widths = iter(filters[1:])
        stages = [
            [f"dsa_r1_k3_s{stride if i == 0 else 1}_c{next(widths)}" for i in range(blocks)]
            for blocks, stride in _STAGES
        ]
        super().__init__(
            decode_arch_def(stages),
            num_classes,
            num_features=0,
            in_chans=in_chans,
            stem_size=filters[0],
            fix_stem=True,
            act_layer=nn.ReLU,
            round_chs_fn=lambda channels: channels,  # timm would round to multiples of 8
            output_stride=2 * output_stride,  # timm's own stem has a stride of 2
            **options,
        )
        self.conv_stem.stride = (1, 1)
        for info in self.feature_info:
            info["reduction"] //= 2
