"""A data set resident on the device as uint8, in batches: cropped, flipped and normalised there.

Order, crops and flips are functions of (seed, epoch) alone, drawn on the CPU and sent once an
epoch; crops are computed in integers. So every device sees the same images, a run that stops and
continues does too, and the host never waits for the device.
"""

import hashlib
from collections.abc import Iterator
from math import log

import torch
from torch import Tensor
from torch.nn.functional import pad as add_border

from .checks import check_choice, check_integer

ONE = 1 << 22  # the weight 1 of a pixel in fixed point: Pillow's, so that we round as it does


def generator(*parts: str | int) -> torch.Generator:
    """Return a CPU generator that is a function of its named parts alone.

    NumPy's integers give the same numbers as Python's; floats and booleans are errors.

    Examples
    --------
    >>> generator(0, "order", 3).initial_seed() == generator(0, "order", 3).initial_seed()
    True
    """
    parts = tuple(p if isinstance(p, str) else check_integer("seed or epoch", p, 0) for p in parts)
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


class ResidentImages:
    """Images uint8 (N, C, H, W) and labels (N,), whose batches ((B, C, H, W) float32, (B,)) are
    channels last in memory and normalised by `mean` and `std` of each channel for pixels in 0..1.

    Examples
    --------
    >>> images, labels = torch.full((3, 1, 2, 2), 255, dtype=torch.uint8), torch.arange(3)
    >>> resident = ResidentImages(images, labels, (0.5,), (0.25,), "cpu")
    >>> [(x.shape, x.max().item(), y.tolist()) for x, y in resident.plain(2)]
    [(torch.Size([2, 1, 2, 2]), 2.0, [0, 1]), (torch.Size([1, 1, 2, 2]), 2.0, [2])]
    """

    def __init__(self, images: Tensor, labels: Tensor, mean: tuple, std: tuple, device):
        self.images = images.permute(0, 2, 3, 1).contiguous().to(device)  # (N, H, W, C)
        self.labels = labels.to(device)
        self.mean = torch.tensor([255 * v for v in mean], device=device)
        self.std = torch.tensor([255 * v for v in std], device=device)

    def __len__(self) -> int:
        return len(self.labels)

    def plain(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield every image once, in order and as it is."""
        batches = zip(self.images.split(batch_size), self.labels.split(batch_size), strict=True)
        return ((self._normalise(images), labels) for images, labels in batches)

    def augmented(
        self, batch_size: int, seed: int, epoch: int, *, augmentation: str, pad: int, flip: bool
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield every image once, in random order, cropped and with `flip` one in two mirrored.

        "pad_crop" cuts the set's own size out of `pad` black pixels more on each side;
        "resized_crop" is torchvision's RandomResizedCrop of Pillow images, to that size.
        """
        n, *size, _ = self.images.shape
        ordering, crops, sides = (generator(seed, of, epoch) for of in ("order", "crop", "flip"))
        order = torch.randperm(n, generator=ordering)
        flips = torch.rand(n, generator=sides) < (0.5 if flip else 0.0)
        if check_choice("augmentation", augmentation, ("pad_crop", "resized_crop")) == "pad_crop":
            boxes = torch.randint(2 * pad + 1, (2, n), generator=crops)
            taps = [torch.arange(side) for side in size]
        else:
            boxes, taps = _random_boxes(n, size, crops), [_taps(side) for side in size]
        drawn = (order, flips, boxes, *taps)
        order, flips, boxes, *taps = (t.to(self.images.device, non_blocking=True) for t in drawn)
        for index in order.split(batch_size):
            images = add_border(self.images[index], (0, 0, pad, pad, pad, pad))
            images = _crop(images, boxes[:, index], taps)
            images = torch.where(flips[index, None, None, None], images.flip(2), images)
            yield self._normalise(images), self.labels[index]

    def _normalise(self, images: Tensor) -> Tensor:
        return ((images.float() - self.mean) / self.std).permute(0, 3, 1, 2)


def _random_boxes(n: int, size: list[int], g: torch.Generator) -> Tensor:
    """Return boxes (4, n), top, left, height and width: of ten tries the first that fits."""
    uniform = torch.rand(3, 10, n, generator=g, dtype=torch.float64)
    area = size[0] * size[1] * (0.08 + 0.92 * uniform[0])
    ratio = (log(3 / 4) + (log(4 / 3) - log(3 / 4)) * uniform[1]).exp()
    tries = torch.stack([(area / ratio).sqrt(), (area * ratio).sqrt()]).round().long()
    whole = torch.tensor(size)[:, None]
    fits = ((tries > 0) & (tries <= whole[..., None])).all(0)
    first = tries.gather(1, fits.int().argmax(0).expand(2, 1, n))[:, 0]
    lengths = torch.where(fits.any(0), first, whole)
    return torch.cat([(uniform[2, :2] * (whole - lengths + 1)).long(), lengths])


def _taps(size: int) -> Tensor:
    """Return (2, length, size): which pixels of each length make `size`, the next one's weight."""
    length = torch.arange(size + 1, dtype=torch.float64)[:, None]
    at = ((torch.arange(size) + 0.5) * (length / size) - 0.5).clamp(min=0)
    at = at.minimum((length - 1).clamp(min=0))  # centres of pixels, the outermost repeated
    return torch.stack([at.floor(), ((at - at.floor()) * ONE).round()]).int()


def _crop(images: Tensor, boxes: Tensor, taps: list[Tensor]) -> Tensor:
    """Return a part of each image (B, H, W, C): from (top, left), or a box of four resized."""
    item = torch.arange(len(images), device=images.device)[:, None]
    for axis in (1, 0):  # along the width, rounded, then along the height, as Pillow does
        images, start = images.transpose(1, 2), boxes[axis, :, None]
        if len(boxes) == 2:
            images = images[item, start + taps[axis]]
        else:
            length = boxes[2 + axis]
            low, weight = taps[axis][:, length]
            high = (low + 1).minimum(length[:, None] - 1)
            near, far = images[item, start + low].int(), images[item, start + high].int()
            weight = weight[..., None, None]
            images = (near * (ONE - weight) + far * weight + ONE // 2) >> 22
    return images
