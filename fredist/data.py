"""Image sets as tensors: one short reader per format, everything after the reader shared.

A set is found as parquet files, official archive or image folders, decoded once into a validated
cache, and brought into one canonical order: every format of a set gives the same tensors and the
same fingerprint, hence the same run and the same record.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import io
import os
import uuid
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from . import download as net
from .readers import (
    DataError,
    Row,
    parquet_files,
    read_cifar,
    read_folders,
    read_parquet,
    read_zip,
)


class DataNotFound(FileNotFoundError):
    """The data set is in none of the places looked at; says which, and the ways to get it."""


@dataclass(frozen=True)
class Info:
    """What is known of a data set without its data.

    Examples
    --------
    >>> DATASETS["cifar100"].label, DATASETS["cifar100"].classes
    ('CIFAR-100', 100)
    """

    label: str  # for tables and captions
    classes: int
    size: int  # height and width in pixels
    train: int  # number of images
    test: int
    fingerprint: str | None  # None: not known, hence not checked
    url: str = ""  # of the official archive
    md5: str = ""  # of the official archive
    part: bool = False  # of each class in the official archive, the first files by number
    flip: bool = True  # whether a mirrored image keeps its label


_TORONTO = "https://www.cs.toronto.edu/~kriz/"
_STANFORD = "http://cs231n.stanford.edu/"
_TINY = (_STANFORD + "tiny-imagenet-200.zip", "90528d7ca1a48142e341f4ef8d21d0de")
DATASETS: dict[str, Info] = {
    "cifar10": Info(
        "CIFAR-10", 10, 32, 50_000, 10_000, "4e56c7c37019b883",
        _TORONTO + "cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a",
    ),
    "cifar100": Info(
        "CIFAR-100", 100, 32, 50_000, 10_000, "255517b1d052745a",
        _TORONTO + "cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85",
    ),
    # The full set was not at hand when this was written.
    "tiny-imagenet": Info("Tiny-ImageNet", 200, 64, 100_000, 10_000, None, *_TINY),
    "tiny-imagenet-subset": Info(
        "Tiny-ImageNet subset", 200, 64, 20_200, 4_000, "b5488f3815cf0594", *_TINY, part=True
    ),
    "digits": Info("Digits", 10, 32, 1_437, 360, "047debcd4a476e65", flip=False),
}  # fmt: skip
FINGERPRINTS = {name: info.fingerprint for name, info in DATASETS.items() if info.fingerprint}


@dataclass(frozen=True)
class ImageSet:
    """A train and a test split on the CPU, in canonical order.

    Examples
    --------
    >>> load("digits").train_images.shape, load("digits").num_classes
    (torch.Size([1437, 3, 32, 32]), 10)
    """

    name: str
    train_images: torch.Tensor  # uint8, (N, 3, H, W), contiguous
    train_labels: torch.Tensor  # int64, (N,), sorted
    test_images: torch.Tensor
    test_labels: torch.Tensor
    class_names: tuple[str, ...]
    fingerprint: str  # 16 hexadecimal digits over all images and labels
    flip: bool
    source: str  # where the images came from, in words for a caption

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def image_size(self) -> int:
        """Height and width of an image in pixels."""
        return self.train_images.shape[-1]


# -- where the data is


def _folder(variable: str, default: Callable[[], Path]) -> Path:
    """Return the folder an environment variable names, else the default."""
    if not os.environ.get(variable):
        return default()
    # Made absolute once, for this process and its children: notebooks run from other folders.
    os.environ[variable] = str(Path(os.environ[variable]).expanduser().absolute())
    return Path(os.environ[variable])


def cache_root() -> Path:
    """Return the folder for what can be made again: ``FREDIST_CACHE``, else the user's cache.

    Examples
    --------
    >>> cache_root().is_absolute()
    True
    """
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"  # as torch chooses its own
    return _folder("FREDIST_CACHE", lambda: Path(home).expanduser().absolute() / "fredist")


def data_folder(folder: str | os.PathLike | None = None) -> Path:
    """Return where the data sets are: `folder`, else ``FREDIST_DATA``, else the user's cache.

    Examples
    --------
    >>> data_folder("here").is_absolute()
    True
    """
    if folder:
        return Path(folder).expanduser().absolute()
    return _folder("FREDIST_DATA", lambda: cache_root() / "data")


def _places(name: str, root: Path) -> list[tuple]:
    """Return (source, reader, path, is it there) of every place of a set, the preferred first."""
    if name not in DATASETS:
        close = difflib.get_close_matches(str(name), DATASETS, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"expected a data set among {', '.join(DATASETS)}, got {name!r}.{hint}")
    if name == "digits":
        return [("scikit-learn's bundled digits", None, None, True)]
    homes = [root / name, root] + [root / "tiny-imagenet"] * DATASETS[name].part
    archive = DATASETS[name].url.rpartition("/")[2]
    read = read_zip if archive.endswith(".zip") else read_cifar
    trees = [root / name, *(home / "tiny-imagenet-200" for home in homes if read is read_zip)]
    return [
        ("parquet", read_parquet, root / name, bool(parquet_files(root / name))),
        *(("official archive", read, p / archive, (p / archive).is_file()) for p in homes),
        *(("image folders", read_folders, p, (p / "train").is_dir()) for p in trees),
    ]


def at_hand(name: str, folder: str | os.PathLike | None = None) -> bool:
    """Return whether a set's files are there, without opening them.

    Examples
    --------
    >>> at_hand("digits")
    True
    """
    return any(there for *_, there in _places(name, data_folder(folder)))


# -- one form for all


def _canonical(rows: list[tuple], size: int, progress: net.Progress, label: str) -> list:
    """Return images ``(N, 3, H, W)``, labels ``(N,)`` and digests ``(N, 32)`` in canonical order.

    `rows` has (label, image, where). The order is by label, then by SHA-256 of the image, then by
    place in the source; within a label hence a fixed random order, which `subset` and the digits'
    split rely on. Hashed are the pixels in height, width, channel order; for JPEG, whose decoders
    may differ in the last bit, the file's bytes.
    """
    images, digests = np.empty((len(rows), 3, size, size), np.uint8), []
    # One by one: 0.1 ms an image, and threads were measured not to help.
    for i, (_, image, where) in enumerate(progress(rows, len(rows), label)):
        pixels = image if isinstance(image, np.ndarray) else _pixels(image, where)
        if pixels.shape != (size, size, 3):
            raise DataError(where, f"an image of {size}x{size} pixels", pixels.shape)
        is_jpeg = pixels is not image and image.startswith(b"\xff\xd8")
        digests.append(hashlib.sha256(image if is_jpeg else pixels.tobytes()).digest())
        images[i] = pixels.transpose(2, 0, 1)
    order = sorted(range(len(rows)), key=lambda i: (rows[i][0], digests[i], i))
    labels = np.array([row[0] for row in rows], np.int64)
    digests = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)
    return [images[order], labels[order], digests[order]]


def _pixels(file: bytes, where: str) -> np.ndarray:
    """Decode an image file to ``(H, W, 3)``; its format is told from the bytes."""
    try:
        with Image.open(io.BytesIO(file)) as image:
            return np.asarray(image.convert("RGB"))  # some of Tiny-ImageNet is grey
    except (OSError, SyntaxError, ValueError, TypeError) as error:
        raise DataError(where, "an image file", error) from error


def _assemble(name: str, source: str, train, test, class_names) -> ImageSet:
    """Return the image set of two splits in canonical form."""
    info, total = DATASETS[name], hashlib.sha256()
    for _, labels, digests in (train, test):
        total.update(len(labels).to_bytes(8, "little"))
        total.update(labels.astype("<i8").tobytes() + digests.tobytes())
    tensors = [torch.from_numpy(array) for array in (*train[:2], *test[:2])]
    fingerprint = total.hexdigest()[:16]
    return ImageSet(name, *tensors, tuple(class_names), fingerprint, info.flip, source)


def _decode(name: str, source: str, rows: Iterable[Row], path: Path, progress) -> ImageSet:
    """Return the image set of a reader's rows, complete and in canonical form."""
    info, done = DATASETS[name], []
    files = {"train": {}, "test": {}}
    for split, label, image, where in rows:
        files[split].setdefault(label, []).append((image, where))
    class_names = sorted(files["train"])  # alphabetical: the official order of all our sets
    for split, count in (("train", info.train), ("test", info.test)):
        each = count // info.classes
        keep = each if info.part else None
        found = {label: of_label[:keep] for label, of_label in files[split].items()}
        sizes = sorted({len(of_label) for of_label in found.values()})
        if sizes != [each] or sorted(found) != class_names or len(found) != info.classes:
            expected = f"{info.label} with {count} {split} images, {each} of each of {info.classes}"
            raise DataError(path, f"{expected} classes", f"{len(found)} classes, {sizes} of each")
        ordered = [(i, *file) for i, label in enumerate(class_names) for file in found[label]]
        done.append(_canonical(ordered, info.size, progress, f"{info.label} {split}"))
    images = _assemble(name, source, *done, class_names)
    if info.fingerprint not in (None, images.fingerprint):
        expected = f"{info.label} stored without loss, of fingerprint {info.fingerprint}"
        raise DataError(path, expected, images.fingerprint)
    return images


def _digits(name: str, source: str) -> ImageSet:
    """Return scikit-learn's bundled digits, which need no network."""
    from sklearn.datasets import load_digits

    bunch, info = load_digits(), DATASETS[name]
    # Grey 0..16 to 0..255, each pixel 4x4 times: in integers, hence equal with every version.
    grey = ((bunch.images.astype(np.int64) * 255 + 8) // 16).astype(np.uint8)
    images = np.repeat(grey.repeat(4, axis=1).repeat(4, axis=2)[..., None], 3, axis=3)
    rows = [(label, image, source) for label, image in zip(bunch.target, images, strict=True)]
    whole = _canonical(rows, info.size, net.silent, "")
    # Stratified, 36 of each label, the first by hash: the hash is the seed, for the streams of
    # random generators may change between versions.
    test = _rank(whole[1]) < info.test // info.classes
    train, test = ([array[chosen] for array in whole] for chosen in (~test, test))
    return _assemble(name, source, train, test, "0123456789")


def _rank(labels: np.ndarray) -> np.ndarray:
    """Return each row's place within its label, for sorted labels."""
    return np.arange(len(labels)) - np.searchsorted(labels, labels)


# -- decoded once


def _cache_path(name: str, path: Path) -> Path:
    """Return the cache file of a source: another source, or a changed one, has another."""
    files = [p for p in path.glob("**/*") if p.is_file()] if path.is_dir() else [path]
    stats = sorted((p.relative_to(path.parent).as_posix(), p.stat()) for p in files)
    key = [(file, stat.st_size, stat.st_mtime_ns) for file, stat in stats]
    digest = hashlib.sha256(repr((1, DATASETS[name], key)).encode()).hexdigest()[:16]
    return cache_root() / "decoded" / f"{name}-{digest}.pt"


def _checksum(path: Path, images: ImageSet) -> str:
    total = hashlib.sha256(path.name.encode())
    for value in vars(images).values():
        if isinstance(value, torch.Tensor):
            total.update(value.numpy())
            value = value.dtype, value.shape
        total.update(repr(value).encode())
    return total.hexdigest()


def _read_cache(path: Path) -> ImageSet | None:
    """Return the set kept at `path`, or None unless it is exactly what was written there."""
    try:
        content = torch.load(path, weights_only=True)
        checksum, images = content.pop("checksum"), ImageSet(**content)
        return images if checksum == _checksum(path, images) else None
    except Exception:  # whatever is wrong with it, the answer is to decode again
        return None


def _write_cache(path: Path, images: ImageSet) -> None:
    """Keep a decoded set; where that cannot be, warn and go on."""
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"checksum": _checksum(path, images), **vars(images)}, part)
        os.replace(part, path)
    except (OSError, RuntimeError) as error:  # torch gives RuntimeError for a full disk
        warnings.warn(
            f"expected to keep {images.name} decoded at {path}, got {error}. It is decoded again "
            "next time, unless FREDIST_CACHE names a folder that can be written.",
            stacklevel=3,
        )
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


# -- what a run asks for


def load(
    name: str,
    folder: str | os.PathLike | None = None,
    *,
    download: bool = False,
    progress: net.Progress | None = None,
) -> ImageSet:
    """Return a data set of `DATASETS`, from the first of its places in `data_folder` that is there.

    With `download`, its official archive is fetched if it is in none. `progress(iterable, total,
    label)` wraps what takes long. Raises `DataNotFound`, or `DataError` for a damaged file.

    Examples
    --------
    >>> load("digits").source
    "scikit-learn's bundled digits"
    """
    root = data_folder(folder)
    if download and not at_hand(name, root):
        info = DATASETS[name]
        net.download(info.url, root / info.url.rpartition("/")[2], info.md5, progress=progress)
    places = _places(name, root)
    found = [place for place in places if place[-1]]
    if not found:
        looked = "".join(f"\n  {path} ({source})" for source, _, path, _ in places)
        raise DataNotFound(
            f"expected {DATASETS[name].label} in one of these places, got nothing there:{looked}\n"
            f"`make data` or download=True fetch {DATASETS[name].url}; or put a copy into {root}; "
            f"or let FREDIST_DATA name a folder that has {name} in it."
        )
    source, read, path, _ = found[0]
    if name == "digits":
        return _digits(name, source)
    kept = _cache_path(name, path)
    if (images := _read_cache(kept)) is None:
        if path.is_file() and (md5 := net.md5_of(path)) != DATASETS[name].md5:  # then unpickle
            raise DataError(path, f"the MD5 sum {DATASETS[name].md5}", f"{md5} (half a download?)")
        images = _decode(name, source, read(path), path, progress or net.silent)
        _write_cache(kept, images)
    return images


def subset(images: ImageSet, train_images: int | None, test_images: int | None) -> ImageSet:
    """Return the first so many images of each label; what is left over goes to the first labels.

    The order within a label is by hash, so this is a fixed random sample. The fingerprint stays
    that of the whole set. None keeps a split whole.

    Examples
    --------
    >>> small = subset(load("digits"), 25, None)
    >>> small.train_labels.bincount().tolist(), len(small.test_labels)
    ([3, 3, 3, 3, 3, 2, 2, 2, 2, 2], 360)
    """
    changed = {}
    for split, count in (("train", train_images), ("test", test_images)):
        labels = getattr(images, f"{split}_labels").numpy()
        if count is None:
            continue
        if not 0 < count <= len(labels):
            expected = f"1 to {len(labels)} {split} images of {images.name}, or None for all"
            raise ValueError(f"expected {expected}, got {count}")
        rows = torch.from_numpy(np.sort(np.lexsort((labels, _rank(labels)))[:count]))
        for part in (f"{split}_images", f"{split}_labels"):
            changed[part] = getattr(images, part)[rows]
    return replace(images, **changed)
