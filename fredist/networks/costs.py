"""What a network costs, from its filters alone: exact, without building it or importing PyTorch.

The tests hold every count against the networks that are built and against PyTorch's own counter.
"""

from collections.abc import Generator, Iterator
from typing import NamedTuple

from .families import check_vggs_images, six_sizes


class Conv(NamedTuple):
    """A convolution with batch norm behind it, or the classifier: a 1x1 on a map of one pixel."""

    inputs: int
    outputs: int
    kernel: int
    size: int  # height and width of the map it makes
    groups: int = 1
    bias: bool = False
    norm: bool = True

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image."""
        return self._weights * self.size**2

    @property
    def params(self) -> int:
        """Weights, bias, and batch norm's scale and shift."""
        return self._weights + self.outputs * (self.bias + 2 * self.norm)

    @property
    def _weights(self) -> int:
        return self.kernel**2 * self.inputs // self.groups * self.outputs


def layers(network, image_size: int = 32) -> Iterator[Conv]:
    """Walk through a network's convolutions and its classifier.

    Padded strides and pools round a map's odd size up, VGG-19's max-pools round it down.

    Examples
    --------
    >>> from fredist.networks import make_network
    >>> first, *_, last = layers(make_network("vgg19"))
    >>> first.macs, first.params, last.params
    (1769472, 1856, 5130)
    """
    first, *others = network.filters
    yield Conv(network.in_chans, first, 3, image_size, bias=network.model == "inception")
    walks = {"vgg19": _vgg19, "resnet50": _resnet50, "inception": _inception}
    walk = walks.get(network.model, _mobilenet)
    features = yield from walk(first, others, image_size)
    features *= 49 if network.head == "flatten7x7" else 1
    if network.num_classes:
        yield Conv(features, network.num_classes, 1, 1, bias=True, norm=False)


# Each walks through the convolutions after the first, which has `inputs` filters, and returns the
# number of features that the classifier reads.


def _vgg19(inputs: int, filters, size: int) -> Generator[Conv, None, int]:
    check_vggs_images(size, size)
    for i, outputs in enumerate(filters, 1):
        size = size // 2 if i in (2, 4, 8, 12) else size
        yield Conv(inputs, outputs, 3, size)
        inputs = outputs
    return inputs


def _resnet50(inputs: int, filters, size: int) -> Generator[Conv, None, int]:
    stages = zip((3, 4, 6, 3), (inputs, *filters), strict=True)
    for stage, (blocks, width) in enumerate(stages):
        for block in range(blocks):
            yield Conv(inputs, width, 1, size)
            size = -(-size // 2) if stage and not block else size
            yield Conv(width, width, 3, size)
            yield Conv(width, 4 * width, 1, size)
            if not block:
                yield Conv(inputs, 4 * width, 1, size)  # the shortcut's
            inputs = 4 * width
    return inputs


def _mobilenet(inputs: int, filters, size: int) -> Generator[Conv, None, int]:
    for block, outputs in enumerate(filters):
        size = -(-size // 2) if block in (1, 3, 5, 11) else size
        yield Conv(inputs, inputs, 3, size, groups=inputs)
        yield Conv(inputs, outputs, 1, size)
        inputs = outputs
    return inputs


def _inception(inputs: int, filters, size: int) -> Generator[Conv, None, int]:
    for i, module in enumerate(filters):
        size = -(-size // 2) if i in (2, 7) else size
        one, reduce3, three, reduce5, five, pool = six_sizes(module)
        for outputs in (one, reduce3, reduce5, pool):
            yield Conv(inputs, outputs, 1, size, bias=True)
        for before, after in ((reduce3, three), (reduce5, five), (five, five)):
            yield Conv(before, after, 3, size, bias=True)
        inputs = one + three + five + pool
    return inputs
