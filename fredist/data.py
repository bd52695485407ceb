"""Image sets as tensors: found, decoded once, and brought into one canonical order.

Every format of a set gives the same tensors and fingerprint, hence the same run and record.
"""

from __future__ import annotations

import hashlib
import io
import os
import urllib.request
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from . import readers
from .checks import check_choice, check_integer
from .paths import cache_folder, clear, data_folder, write_whole
from .readers import DataError

if TYPE_CHECKING:  # data sets are named where no torch is needed
    from torch import Tensor

Folder = str | os.PathLike | None  # None: FREDIST_DATA
Progress = Callable[[Iterable, int | None, str], Iterable]  # yields the iterable's items
TIMEOUT = 30.0  # seconds without a byte after which a server is given up


class DataNotFound(FileNotFoundError):
    """A data set is in none of its places or could not be fetched; says the ways to get it."""


@dataclass(frozen=True)
class Info:
    """What is known of a data set without its data."""

    label: str  # for tables and captions
    classes: int
    size: int  # height and width in pixels
    train: int  # number of images
    test: int
    fingerprint: str | None  # None: not known, hence not checked
    mean: tuple[float, ...]  # what batches are normalised by, for pixels in 0..1
    std: tuple[float, ...]
    url: str = ""  # of the official archive
    md5: str = ""
    part: bool = False  # of each class in the official archive, the first files by number
    flip: bool = True  # whether a mirrored image keeps its label


# The author's code has these constants of CIFAR-10 for both sets, and ImageNet's for Tiny-ImageNet.
_CIFAR = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_TORONTO = "https://www.cs.toronto.edu/~kriz/"
_TINY = "http://cs231n.stanford.edu/tiny-imagenet-200.zip", "90528d7ca1a48142e341f4ef8d21d0de"
DATASETS: dict[str, Info] = {
    "cifar10": Info(
        "CIFAR-10", 10, 32, 50_000, 10_000, "4e56c7c37019b883", *_CIFAR,
        _TORONTO + "cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a",
    ),
    "cifar100": Info(
        "CIFAR-100", 100, 32, 50_000, 10_000, "255517b1d052745a", *_CIFAR,
        _TORONTO + "cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85",
    ),
    "tiny-imagenet": Info("Tiny-ImageNet", 200, 64, 100_000, 10_000, None, *_IMAGENET, *_TINY),
    "tiny-imagenet-subset": Info(
        "Tiny-ImageNet subset", 200, 64, 20_200, 4_000, "b5488f3815cf0594", *_IMAGENET, *_TINY, True
    ),
    "digits": Info(
        "Digits", 10, 32, 1_437, 360, "047debcd4a476e65", (0.3054,) * 3, (0.3761,) * 3, flip=False
    ),
}  # fmt: skip


@dataclass(frozen=True)
class ImageSet:
    """A train and a test split on the CPU, in canonical order; shared, so never written into.

    Examples
    --------
    >>> load("digits").train_images.shape, load("digits").num_classes
    (torch.Size([1437, 3, 32, 32]), 10)
    """

    name: str
    source: str  # where the images came from, in words for a caption
    class_names: tuple[str, ...]
    fingerprint: str  # 16 hexadecimal digits over all images and labels
    train_images: Tensor  # uint8, (N, 3, H, W), contiguous
    train_labels: Tensor  # int64, (N,), sorted
    test_images: Tensor
    test_labels: Tensor

    num_classes = property(lambda self: len(self.class_names))
    image_size = property(lambda self: self.train_images.shape[-1])


def _root(folder: Folder) -> Path:
    return Path(folder).expanduser().absolute() if folder else data_folder()


def _places(name: str, root: Path) -> Iterator[tuple]:
    """Yield (source, reader, path, is it there) of every place of a set, the preferred first."""
    if check_choice("data set", name, DATASETS) == "digits":
        path = Path(find_spec("sklearn").origin).parent / "datasets/data"
        yield "scikit-learn's bundled digits", readers.read_digits, path, True
        return
    # The hub's download cache keeps each revision: the newest goes first. Old sets have no owner.
    revisions = [f"datasets--{owner}{name}/snapshots/*" for owner in ("", "*--")]
    kept = [path for way in revisions for path in root.glob(way) if path.exists()]  # no broken link
    for path in (root / name, *sorted(kept, key=os.path.getmtime, reverse=True)):
        yield "parquet", readers.read_parquet, path, bool(readers.parquet_files(path))
    whole = [root / "tiny-imagenet"] * DATASETS[name].part
    homes = [root / name, root, *whole]
    archive = DATASETS[name].url.rpartition("/")[2]
    for path in (home / archive for home in homes):
        yield "official archive", readers.read_archive, path, path.is_file()
    trees = [home / "tiny-imagenet-200" for home in homes if archive == "tiny-imagenet-200.zip"]
    # Rows of parquet have no numbers by which to take a part.
    trees += [path for path in whole if not readers.parquet_files(path)]
    for path in (root / name, *trees):
        yield "image folders", readers.read_folders, path, readers.is_tree(path)


def _found(name: str, root: Path) -> Iterator[list]:
    """Yield (source, reader, path) of each of a set's places that exists."""
    yield from (place for *place, there in _places(name, root) if there)


def at_hand(name: str, folder: Folder = None) -> bool:
    """Return whether a set's files are there, without opening them.

    Examples
    --------
    >>> at_hand("digits")
    True
    """
    try:
        return any(_found(name, _root(folder)))
    except OSError:  # there are files, which may not be read: `load` says so
        return True


def _download(info: Info, target: Path, progress: Progress) -> None:
    """Fetch an official archive into memory, 250 MB at most, and keep it if it is the right one.

    torchvision's own unpacks beside it and leaves half a file; pooch is a package for these lines.
    """
    try:
        with urllib.request.urlopen(info.url, timeout=TIMEOUT) as response:
            size = int(response.headers.get("Content-Length") or 0)
            chunks = iter(lambda: response.read(1 << 20), b"")
            content = b"".join(progress(chunks, -(-size >> 20) or None, "download, MiB"))
        if (found := readers.md5(content)) != info.md5:  # a short body too
            raise OSError(f"{len(content)} bytes of MD5 sum {found}, which should be {info.md5}")
        clear(target.parent)
        write_whole(target, content)
    except (OSError, HTTPException) as error:
        raise DataNotFound(
            f"expected to fetch {info.url} to {target}, got {error}; nothing was kept: try again "
            "later, or get it by other means and put it there"
        ) from error


def _decode(name: str, source: str, read: Callable, path: Path, progress: Progress) -> list:
    """Return the fields of the image set at a place, complete and in canonical form."""
    info, arrays, total = DATASETS[name], [], hashlib.sha256()
    files = {"train": {}, "test": {}}
    # An archive is verified, for it is unpickled.
    if path.is_file() and (found := readers.md5(path.read_bytes())) != info.md5:
        advice = "half a download? rename it, and `make data` fetches it again"
        raise DataError(path, f"the MD5 sum {info.md5}", f"{found} ({advice})")
    for split, label, image, where in read(path):
        files[split].setdefault(label, []).append((image, where))
    names = sorted({*files["train"], *files["test"]})  # the official order of all our sets
    for split, count in (("train", info.train), ("test", info.test)):
        each, uneven = divmod(count, info.classes)  # all sets but the digits are balanced
        found = [files[split].get(label, [])[: each if info.part else None] for label in names]
        rows = [(k, *image) for k, images in enumerate(found) for image in images]
        sizes = {len(images) for images in found} or {0}
        if (len(rows), len(names)) != (count, info.classes) or (not uneven and sizes != {each}):
            expected = f"{info.label} with {count} {split} images of {info.classes} classes"
            got = f"{len(rows)} of {len(names)} classes, {min(sizes)} to {max(sizes)} of each"
            raise DataError(path, expected, got)
        *pair, digests = readers.canonical(rows, info.size, progress, f"{info.label} {split}")
        total.update(count.to_bytes(8, "little") + pair[1].astype("<i8").tobytes() + digests)
        arrays += pair
    found, known = total.hexdigest()[:16], info.fingerprint
    if known not in (None, found):
        expected = f"{info.label}'s official class names, and its images stored without loss"
        raise DataError(path, f"{expected}, of fingerprint {known}", found)
    return [name, source, names, found, *arrays]


def _cache_file(name: str, path: Path) -> Path:
    """Return where a source is kept decoded: another file once any file of the source changes."""
    key = [(2, DATASETS[name], os.path.realpath(path))]
    for file in [path] if path.is_file() else readers.walk(path):
        stat = file.stat()  # of the real file behind a link
        key.append((str(file), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))
    digest = hashlib.sha256(repr(key).encode()).hexdigest()[:16]
    return cache_folder() / "decoded" / f"{name}-{digest}.npz"


def _read_cache(file: Path, *names: str) -> list | None:
    """Return arrays of a cache file, or None unless they are what was written there."""
    # Whatever is wrong with it, a zip file with checksums, the answer is to decode again.
    with suppress(Exception), np.load(file) as content:
        return [content[name] for name in names]


def _write_cache(file: Path, values: dict) -> None:
    """Keep a decoded set; where that cannot be, warn and go on."""
    np.savez(content := io.BytesIO(), **values)
    clear(file.parent)
    try:
        write_whole(file, content.getbuffer())
    except OSError as error:
        said = f"expected to keep {values['name']} decoded, got {error}: it is decoded each time"
        warnings.warn(f"{said}, unless FREDIST_CACHE names a writable folder", stacklevel=3)


_loaded: dict[Path, ImageSet] = {}  # by cache file; at most two, for memory's sake
_learned: dict[tuple[str, Path], str | None] = {}  # fingerprints of the sets in a folder


def load(
    name: str, folder: Folder = None, *, download: bool = False, progress: Progress | None = None
) -> ImageSet:
    """Return a data set of `DATASETS`, from the first of its places in `folder` that is whole.

    With `download`, the official archive is fetched if there is none. While its files stay as they
    are, a set is decoded once, and read once in a process; `progress(iterable, total, label)` wraps
    what takes long. Warns of damaged ones. Raises `DataNotFound`, or `DataError` if none is whole.

    Examples
    --------
    >>> load("digits").source
    "scikit-learn's bundled digits"
    """
    root, info = _root(folder), DATASETS[check_choice("data set", name, DATASETS)]
    progress = progress or (lambda iterable, total, label: iterable)
    if not (images := _first_whole(name, root, progress)) and download:
        _download(info, root / info.url.rpartition("/")[2], progress)
        images = _first_whole(name, root, progress)
    if not images:
        looked = "".join(f"\n  {path} ({source})" for source, _, path, _ in _places(name, root))
        raise DataNotFound(
            f"expected {info.label} in one of these places, got nothing there:{looked}\n"
            f"`make data` or download=True fetch {info.url}; or put a copy into {root}; "
            f"or let FREDIST_DATA name a folder that has {name} in it."
        )
    _learned[name, root] = images.fingerprint
    return images


def _first_whole(name: str, root: Path, progress: Progress) -> ImageSet | None:
    """Return the set from the first place that is whole, None if there is no place."""
    wrong, images, places = None, None, _found(name, root)
    while not images:
        try:  # a folder that cannot be looked into ends the search
            if not (place := next(places, None)):
                break
            images = _read(name, *place, progress)
        except DataError as error:
            wrong = wrong or error
        except OSError as error:  # another user's, or gone by now
            wrong = wrong or DataError(root / name, "files that can be read", error)
    if wrong and not images:
        raise wrong
    if wrong:
        warnings.warn(f"{wrong}. Read instead: {place[-1]}", stacklevel=3)
    return images


def _read(name: str, source: str, read: Callable, path: Path, progress: Progress) -> ImageSet:
    """Return the set at a place, as it was decoded before if it was."""
    file = _cache_file(name, path)
    if (images := _loaded.get(file)) is None:
        from torch import from_numpy

        names = [field.name for field in fields(ImageSet)]
        if (values := _read_cache(file, *names)) is None:
            values = _decode(name, source, read, path, progress)
            _write_cache(file, dict(zip(names, values, strict=True)))
        _, source, classes, found, *arrays = values
        classes = tuple(map(str, classes))
        images = ImageSet(name, str(source), classes, str(found), *map(from_numpy, arrays))
        if len(_loaded) > 1:
            _loaded.clear()
        _loaded[file] = images
    return images


def fingerprint(name: str, folder: Folder = None, *, decode: bool = True) -> str | None:
    """Return a set's fingerprint: the known one, else that of the data at hand, else None.

    Cheap: files are looked at once in a process, and decoded only if they never were, without
    `decode` not even then. Those that are damaged give None: `load` names what is wrong with them.

    Examples
    --------
    >>> fingerprint("digits")
    '047debcd4a476e65'
    """
    known = DATASETS[check_choice("data set", name, DATASETS)].fingerprint
    key = name, _root(folder)
    looked = key in _learned and not (decode and _learned[key] == "")  # "": never decoded
    if known is None and not looked:
        with suppress(DataError, OSError):
            if place := next(_found(*key), None):
                _learned[key] = None if decode else ""  # unless it can be read
                kept = _read_cache(_cache_file(name, place[-1]), "fingerprint")
                if kept or decode:
                    _learned[key] = str(kept[0]) if kept else load(name, folder).fingerprint
    return known or _learned.get(key) or None


def subset(images: ImageSet, train_images: int | None, test_images: int | None) -> ImageSet:
    """Return so many images in all, a fixed random sample of equally many of each class.

    Larger ones hold the smaller; what is left over goes to the first classes; None keeps a split
    whole. The fingerprint stays that of the whole set.

    Examples
    --------
    >>> subset(load("digits"), 25, None).train_labels.bincount().tolist()
    [3, 3, 3, 3, 3, 2, 2, 2, 2, 2]
    """
    changed = {}
    for split, count in (("train", train_images), ("test", test_images)):
        if count is not None:
            labels = getattr(images, f"{split}_labels").numpy()
            check_integer(f"{split} images of {images.name}", count, most=len(labels))
            rank = np.arange(len(labels)) - np.searchsorted(labels, labels)  # within its class
            rows = np.sort(np.lexsort((labels, rank))[:count])
            for part in (f"{split}_images", f"{split}_labels"):
                changed[part] = getattr(images, part)[rows]
    return replace(images, **changed)
