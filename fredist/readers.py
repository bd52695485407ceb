"""Readers of image sets: one short function per format, each yielding the same kind of rows."""

import hashlib
import io
import json
import os
import pickle
import re
import tarfile
import zipfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import numpy as np

# What a reader yields: train or test, class name, image file or (H, W, 3) pixels, where it is.
Row = tuple[str, str, bytes | np.ndarray, str]

SPLITS = {"train": "train", "test": "test", "val": "val", "valid": "val", "validation": "val"}
SUFFIXES = (".jpeg", ".jpg", ".png", ".webp", ".bmp", ".ppm", ".pgm")
# Named, for Pillow would try every decoder it has, and EPS starts Ghostscript.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "PPM")


class DataError(ValueError):
    """A file is wrong, damaged or incomplete; says which, what was expected and what to do."""

    def __init__(self, what: object, expected: str, got: object):
        advice = "get a whole copy of it, or let FREDIST_DATA name another folder"
        super().__init__(f"{what}: expected {expected}, got {got}; {advice}")


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def walk(folder: Path, depth: int = 4, above: tuple[str, ...] = ()) -> Iterator[Path]:
    """Yield the files of a tree in order of name: links are followed, hidden names left out."""
    real = os.path.realpath(folder)
    if depth and os.path.isdir(real) and real not in above:  # a link may lead to where it lies
        for path in sorted(folder.iterdir()):
            if path.is_file() and path.name[0] != ".":  # ._x.png, or a broken link
                yield path
            elif path.name[0] != ".":  # .ipynb_checkpoints, the hub's .cache
                yield from walk(path, depth - 1, (*above, real))


def _labelled(found: dict[str, list]) -> dict[str, list]:
    """Return what there is of train and test, which is validation where test has no labels."""
    if "val" in found:
        found["test"] = found.pop("val")
    return found


def parquet_files(root: Path) -> dict[str, list[Path]]:
    """Return the parquet files of a data set below `root` by split, train and test."""
    found: dict[str, list[Path]] = {}
    for path in walk(root, 3):
        # The file's name tells its split, or its folder's does: train/0000.parquet.
        words = (*re.split("[^a-z]+", path.stem.lower()), path.parent.name.lower())
        split = next((SPLITS[word] for word in words if word in SPLITS), None)
        # The hub's image folders may have a metadata.parquet, of what else is known of the images.
        if split and path.suffix.lower() == ".parquet" and path.stem != "metadata":
            found.setdefault(split, []).append(path)
    return _labelled(found)


def read_parquet(root: Path) -> Iterator[Row]:
    """Yield the images of parquet files in the hub's layouts."""
    for split, files in parquet_files(root).items():
        names = ", ".join(file.name for file in files)
        if shards := re.findall(r"(\d+)-of-(\d+)", names):
            numbers, total = sorted(int(i) for i, _ in shards), int(shards[0][1])
            if len(files) != total or numbers != [*range(len(files))]:
                expected = f"{total} parquet files of {split}, of each number one"
                raise DataError(files[0].parent, expected, names)
        for file in files:
            yield from _parquet_rows(split, file)


def _parquet_rows(split: str, file: Path) -> Iterator[Row]:
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(file, partitioning=None)
        image, label = (
            next((one for one in names if one in table.column_names), None)
            for names in (("img", "image"), ("fine_label", "label"))
        )
        if None in (image, label):
            raise ValueError(f"columns {', '.join(table.column_names)}")
        images = [v["bytes"] if isinstance(v, dict) else v for v in table[image].to_pylist()]
        # The hub's library keeps the class names in the schema.
        known = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}"))
        names = known.get("info", {}).get("features", {}).get(label, {}).get("names")
        if names is not None and [*dict.fromkeys(map(str, names))] != names:
            raise ValueError(f"the class names {names}")
    except Exception as error:  # whatever decoders of damaged files raise
        expected = "a parquet file with columns img or image (bytes, path), label or fine_label"
        expected += ", and a list of class names or nothing in its metadata"
        raise DataError(file, expected, str(error)[:200] or type(error).__name__) from error
    names = names or [f"{k:03d}" for k in range(1000)]
    expected = f"bytes in column {image}, an integer from 0 to {len(names) - 1} in {label}"
    for i, (content, k) in enumerate(zip(images, table[label].to_pylist(), strict=True)):
        if not (isinstance(content, bytes) and type(k) is int and 0 <= k < len(names)):
            raise DataError(f"row {i} of {file}", expected, f"{content!r:.40} and {k!r:.40}")
        yield split, names[k], content, f"row {i} of {file}"


def read_archive(path: Path) -> Iterator[Row]:
    """Yield the images of an official archive, whose checksum must have been verified."""
    if path.suffix == ".zip":  # Tiny-ImageNet's, in one top folder, which plays no part
        with zipfile.ZipFile(path) as archive:
            inside = {n.partition("/")[2]: n for n in archive.namelist() if n[-1] != "/"}
            yield from _tree(inside, lambda name: archive.read(inside[name]), path)
        return
    content, wanted = {}, r"data_batch_\d|test_batch|train|test|meta|batches\.meta"
    with tarfile.open(path) as archive:
        for member in archive:
            if re.fullmatch(wanted, stem := member.name.rpartition("/")[2]):
                content[stem] = pickle.load(archive.extractfile(member), encoding="bytes")
    meta = content.pop("meta", None) or content.pop("batches.meta")
    names = meta.get(b"fine_label_names") or meta[b"label_names"]
    for stem, batch in content.items():
        images = batch[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        for image, k in zip(images, batch.get(b"fine_labels") or batch[b"labels"], strict=True):
            yield "test" if "test" in stem else "train", names[k].decode(), image, f"{path}"


def is_tree(root: Path) -> bool:
    """Return whether a folder has one of training images in it, as `read_folders` expects."""
    return root.is_dir() and any(
        path.name.lower() == "train" and path.is_dir() for path in root.iterdir()
    )


def read_folders(root: Path) -> Iterator[Row]:
    """Yield the images of a tree ``<train|test|val>/<class>/...``."""
    names = [path.relative_to(root).as_posix() for path in walk(root)]
    yield from _tree(names, lambda name: (root / name).read_bytes(), root)


def _tree(names: Collection[str], read: Callable[[str], bytes], root: Path) -> Iterator[Row]:
    """Yield the images among the files `names` of a tree, by the number in the file's name."""
    # Tiny-ImageNet's validation images lie in one folder, next to a table.
    flat, table, classes = "val/images/", "val/val_annotations.txt", {}
    if table in names:
        lines = read(table).decode("utf-8-sig", errors="replace").splitlines()
        classes = {
            flat + line.split("\t")[0]: line.split("\t")[1] for line in lines if "\t" in line
        }
    found: dict[str, list[tuple]] = {}
    for name in names:
        split, *inside = name.split("/")
        split = split.lower()
        # A stray file, or an image outside the class folders, is no image of the set.
        if split in SPLITS and len(inside) > 1 and name.lower().endswith(SUFFIXES):
            number = re.search(r"(\d*)\.\w+$", name)[1]  # 12 of n01443537_12.JPEG
            found.setdefault(SPLITS[split], []).append((int(number or 0), name, inside[0]))
    for split, files in _labelled(found).items():
        for _, name, folder in sorted(files):
            if classes and name.startswith(flat) and name not in classes:
                raise DataError(f"{name} in {root}", f"a line about it in {table}", "none")
            yield split, classes.get(name, folder), read(name), f"{name} in {root}"


def read_digits(_: Path) -> Iterator[Row]:
    """Yield scikit-learn's bundled digits, which need no network; 36 of each are for testing."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    # Grey 0..16 to 0..255, each pixel 4x4 times: in integers, hence equal with every version.
    grey = ((bunch.images.astype(np.int64) * 255 + 8) // 16).astype(np.uint8)
    images = np.repeat(grey.repeat(4, axis=1).repeat(4, axis=2)[..., None], 3, axis=3)
    # Chosen by hash: the streams of random generators may change between versions.
    order = sorted(range(len(images)), key=lambda i: hashlib.sha256(images[i].tobytes()).digest())
    for k in range(10):
        for rank, i in enumerate(i for i in order if bunch.target[i] == k):
            yield "test" if rank < 36 else "train", str(k), images[i], f"digit {i}"


def pixels(file: bytes, where: str, size: int) -> np.ndarray:
    """Return the pixels (size, size, 3) in uint8 that an image file shows, in whatever mode."""
    from PIL import Image, ImageFile

    if ImageFile.LOAD_TRUNCATED_IMAGES:  # anybody's switch, for the whole process
        raise RuntimeError(
            "expected Pillow to refuse damaged images, got ImageFile.LOAD_TRUNCATED_IMAGES = True: "
            "set it to False until the data set is decoded, which is once"
        )
    try:
        with Image.open(io.BytesIO(file), formats=FORMATS) as image:
            if image.size != (size, size) or image.mode == "F":  # known before it is decoded
                raise ValueError(f"{image.width}x{image.height} pixels of mode {image.mode}")
            clear = False
            if image.mode.startswith("I"):  # 16 bits, which `convert` clips to white
                deep = np.asarray(image)
                clear = np.any(deep == image.info.get("transparency"))
                image = Image.fromarray((deep >> 8).astype(np.uint8))
            rgba = np.asarray(image.convert("RGBA"))
        if clear or rgba[..., 3].min() < 255:
            raise ValueError("transparent pixels, which have no colour of their own")
    except Exception as error:  # whatever decoders of damaged files raise
        expected = f"an image file ({', '.join(FORMATS)}), opaque and of {size}x{size} pixels"
        raise DataError(where, expected, error) from error
    return rgba[..., :3]


def canonical(rows: list[tuple], size: int, progress: Callable, label: str) -> tuple:
    """Return images (N, 3, H, W), labels (N,) and digests of rows (label, image, where), in order.

    By label, then by SHA-256 of the pixels (H, W, 3), or of a JPEG file, whose decoders may differ
    in the last bit: within a label hence a fixed random order, which `subset` relies on.
    """
    images, keys = np.empty((len(rows), 3, size, size), np.uint8), []
    # One by one: 0.1 ms an image, and threads were measured not to help.
    for i, (k, image, where) in enumerate(progress(rows, len(rows), label)):
        decoded = image if isinstance(image, np.ndarray) else pixels(image, where, size)
        is_jpeg = decoded is not image and image.startswith(b"\xff\xd8")
        keys.append((k, hashlib.sha256(image if is_jpeg else decoded.tobytes()).digest(), i))
        images[i] = decoded.transpose(2, 0, 1)
    labels, digests, order = zip(*sorted(keys), strict=True)
    return images[list(order)], np.array(labels, np.int64), b"".join(digests)
