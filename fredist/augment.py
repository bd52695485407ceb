"""A data set resident on the device, in batches: pad, crop, flip and normalise, all batched.

The images stay uint8 on the device; each batch is one gather. Order, crops and flips are a
function of (seed, epoch) alone, drawn on the CPU, so that every device sees the same ones and a
run that stops and continues does too.
"""

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import pad


def generator(*parts) -> torch.Generator:
    """Return a CPU generator that is a function of its named parts alone.

    Examples
    --------
    >>> a, b = generator(0, "order", 3), generator(0, "order", 3)
    >>> bool((torch.randperm(9, generator=a) == torch.randperm(9, generator=b)).all())
    True
    """
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


class ResidentImages:
    """Images and labels on a device, given out as normalised batches.

    Parameters
    ----------
    images : uint8 (N, C, H, W)
    labels : int64 (N,)
    mean, std : (C,) of the training set, pixels in 0..255
    """

    def __init__(self, images: Tensor, labels: Tensor, mean: Tensor, std: Tensor, device):
        self.images = images.permute(0, 2, 3, 1).contiguous().to(device)  # (N, H, W, C)
        self.labels = labels.to(device)
        self.mean, self.std = mean.to(device), std.to(device)

    def __len__(self) -> int:
        return len(self.labels)

    def plain(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield every image once, in order: ((B, C, H, W) float32, (B,) int64)."""
        pairs = zip(self.images.split(batch_size), self.labels.split(batch_size), strict=True)
        for images, labels in pairs:
            yield self._normalise(images), labels

    def augmented(
        self, batch_size: int, seed: int, epoch: int, *, padding: int, flip: bool
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield one epoch in random order, each image padded, cropped and perhaps flipped."""
        n, height, width, _ = self.images.shape
        device = self.images.device
        order = torch.randperm(n, generator=generator(seed, "order", epoch))
        crops = torch.randint(2 * padding + 1, (2, n), generator=generator(seed, "crop", epoch))
        flips = torch.rand(n, generator=generator(seed, "flip", epoch)) < (0.5 if flip else 0.0)
        tops = crops[0, :, None] + torch.arange(height)
        lefts = crops[1, :, None] + torch.arange(width)
        lefts = torch.where(flips[:, None], lefts.flip(1), lefts)
        order, tops, lefts = (t.to(device, non_blocking=True) for t in (order, tops, lefts))
        padded = self._padded(padding)
        for index in order.split(batch_size):
            rows, columns = tops[index][:, :, None], lefts[index][:, None, :]
            yield self._normalise(padded[index[:, None, None], rows, columns]), self.labels[index]

    def _padded(self, padding: int) -> Tensor:
        return (
            pad(self.images, (0, 0, padding, padding, padding, padding)) if padding else self.images
        )

    def _normalise(self, images: Tensor) -> Tensor:
        """(B, H, W, C) uint8 -> (B, C, H, W) float32, channels last in memory."""
        return ((images.float() - self.mean) / self.std).permute(0, 3, 1, 2)


def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation per channel of uint8 (N, C, H, W), each (C,) in 0..255.

    Examples
    --------
    >>> mean, std = channel_statistics(torch.tensor([[[[0, 255]]]], dtype=torch.uint8))
    >>> mean.tolist(), std.tolist()
    ([127.5], [127.5])
    """
    means, deviations = [], []
    for channel in range(images.shape[1]):
        # Counting the 256 values keeps it exact, whatever the number of images and of threads.
        counts = torch.bincount(images[:, channel].flatten(), minlength=256).double()
        values = torch.arange(256, dtype=torch.float64)
        mean = (counts * values).sum() / counts.sum()
        means.append(mean)
        deviations.append(((counts * (values - mean) ** 2).sum() / counts.sum()).sqrt())
    return torch.stack(means).float(), torch.stack(deviations).float()
