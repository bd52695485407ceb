"""VGG-19 with batch norm: sixteen 3x3 convs, four max-pools, one linear classifier."""

from functools import partial
from itertools import pairwise

import torch
from timm.layers import ClassifierHead, get_device_dtype
from timm.models import checkpoint_seq
from timm.models.vgg import VGG
from torch import nn

from .families import check_vggs_images


class SmallHead(VGG):
    """timm's VGG, a stack of layers, with one Linear behind it: Inception is such a stack too."""

    def __init__(self, cfg, num_classes, in_chans, **options):
        # timm's own head is a 4096-wide convolutional MLP of over 100 M parameters; it is made one
        # filter wide here because it is replaced at once.
        layers = {"conv_layer": partial(nn.Conv2d, bias=False), "norm_layer": nn.BatchNorm2d}
        super().__init__(cfg, num_classes, in_chans, mlp_ratio=1 / 4096, **layers, **options)

    def set_head(self, features, head="pool"):
        """Replace timm's head, whose pooling and dropout stay, given the last layer's width."""
        self.num_features = features
        self.pre_logits = Flatten7x7() if head == "flatten7x7" else nn.Identity()
        features *= 49 if head == "flatten7x7" else 1
        pooling, place = self.head.global_pool.pool_type, get_device_dtype(self)
        self.head = ClassifierHead(features, self.num_classes, pooling, self.drop_rate, **place)
        self.head_hidden_size = self.head.num_features  # twice as many where two poolings are asked

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable=True):
        """Keep only the maps between stages for the backward pass; timm's VGG cannot."""
        self.grad_checkpointing = enable

    def forward_features(self, x):
        """Return the last layer's map."""
        if self.grad_checkpointing and not torch.jit.is_scripting():
            # A stage, unlike VGG's single layers, does not begin with a ReLU that overwrites what
            # the stage before it has made.
            ends = pairwise([-1, *self.feature_ends])
            return checkpoint_seq([self.features[a + 1 : b + 1] for a, b in ends], x)
        return self.features(x)


class FilterVGG(SmallHead):
    """VGG with one width per conv (16 of them), no conv biases, and one Linear of f_D or 49 f_D."""

    def __init__(self, filters, num_classes=10, in_chans=3, head="pool", **options):
        cfg = list(filters)
        for place in (12, 8, 4, 2):  # the convs before each max-pool
            cfg.insert(place, "M")
        super().__init__(cfg, num_classes, in_chans, **options)
        self.features[0].register_forward_pre_hook(_check_images)
        self.set_head(filters[-1], head)
        # The author's own initialisation is timm's (convs normal with a variance of 2 / (9 out),
        # the classifier with a deviation of 0.01) but for the batch norms.
        self._initialize_weights()
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.constant_(module.weight, 0.5)


def _check_images(_, inputs: tuple[torch.Tensor]) -> None:  # TorchScript needs the types
    check_vggs_images(inputs[0].shape[-2], inputs[0].shape[-1])


class Flatten7x7(nn.Module):
    """(N, C, H, W) -> (N, 49 C, 1, 1): adaptive average pooling to 7x7, one channel per cell.

    As two matrix products, because the backward pass of PyTorch's own adaptive pooling is not
    deterministic on CUDA. PyTorch's FLOP counter sees the products; `macs` counts no pooling.
    """

    def forward(self, maps):
        rows, columns = _averaging(maps.shape[-2], maps), _averaging(maps.shape[-1], maps)
        # One channel per cell lets timm's head stay as it is, whose own pooling then has no effect.
        return (rows @ maps @ columns.mT).flatten(1)[..., None, None]


def _averaging(size: int, maps: torch.Tensor) -> torch.Tensor:
    """Return the (7, size) matrix that averages `size` pixels into PyTorch's seven windows."""
    cell = torch.arange(7, device=maps.device)[:, None]
    pixel = torch.arange(size, device=maps.device)
    inside = (pixel >= cell * size // 7) & (pixel < ((cell + 1) * size + 6) // 7)
    return (inside / inside.sum(1, keepdim=True)).to(maps.dtype)
