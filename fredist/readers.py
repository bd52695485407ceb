"""Readers of image sets: one short function per format, each yielding the same kind of rows."""

from __future__ import annotations

import json
import pickle
import re
import tarfile
import zipfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path, PurePosixPath

import numpy as np

# What a reader yields: train or test, class name, image file or (H, W, 3) pixels, where it is.
Row = tuple[str, str, bytes | np.ndarray, str]
IMAGES = (".jpeg", ".jpg", ".png", ".webp", ".bmp")


class DataError(ValueError):
    """A file is wrong, damaged or incomplete; says which, what was expected and what to do."""

    def __init__(self, what: object, expected: object, got: object):
        super().__init__(
            f"{what}: expected {expected}, got {got}. Delete it and get the data set again: "
            "`make data`, or a copy from where it came."
        )


def parquet_files(root: Path) -> list[Path]:
    """Return the splits' parquet files: in the folder, or where the hub has them."""
    for sub in ("", "plain_text", "data"):
        files = sorted((root / sub).glob("*.parquet"))
        if files := [file for file in files if file.name.startswith(("train", "test", "val"))]:
            return files
    return []


def read_parquet(root: Path) -> Iterator[Row]:
    """Yield the images of a folder of parquet files in the hub's layout."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    files = parquet_files(root)
    for file in files:
        start, of, total = file.name.partition("-of-")
        for i in range(int(total[:5]) if of else 0):
            shard = f"{start[:-5]}{i:05d}-of-{total[:5]}"
            if not any(other.name.startswith(shard) for other in files):
                raise DataError(root, f"the file {shard}.parquet too", f"{len(files)} files")
        try:
            table = pq.read_table(file)
            image = next(c for c in ("img", "image") if c in table.column_names)
            label = next(c for c in ("fine_label", "label") if c in table.column_names)
            images = pc.struct_field(table[image], "bytes").to_pylist()
        except (pa.ArrowException, OSError, StopIteration) as error:
            expected = "a parquet file with columns img or image (bytes, path), label or fine_label"
            raise DataError(file, expected, repr(error)) from error
        features = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}"))
        names = features.get("info", {}).get("features", {}).get(label, {}).get("names")
        split = "train" if file.name.startswith("train") else "test"
        for i, (image, k) in enumerate(zip(images, table[label].to_pylist(), strict=True)):
            yield split, names[k] if names else f"{k:03d}", image, f"row {i} of {file}"


def read_cifar(path: Path) -> Iterator[Row]:
    """Yield the images of an official CIFAR archive, whose checksum must have been verified."""
    content, wanted = {}, r"data_batch_\d|test_batch|train|test|meta|batches\.meta"
    with tarfile.open(path) as archive:
        for member in archive:
            if re.fullmatch(wanted, stem := PurePosixPath(member.name).name):
                content[stem] = pickle.load(archive.extractfile(member), encoding="bytes")
    meta = content.pop("meta", None) or content.pop("batches.meta")
    names = meta.get(b"fine_label_names") or meta[b"label_names"]
    for stem, batch in content.items():
        images = batch[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        for image, k in zip(images, batch.get(b"fine_labels") or batch[b"labels"], strict=True):
            yield "test" if "test" in stem else "train", names[k].decode(), image, f"{path}"


def read_zip(path: Path) -> Iterator[Row]:
    """Yield the images of Tiny-ImageNet's official archive."""
    with zipfile.ZipFile(path) as archive:
        # All is inside one top folder, which plays no part.
        inside = {n.partition("/")[2]: n for n in archive.namelist() if not n.endswith("/")}
        yield from _tree(inside, lambda name: archive.read(inside[name]), path)


def read_folders(root: Path) -> Iterator[Row]:
    """Yield the images of a tree ``<train|test|val>/<class>/...``."""
    names = [p.relative_to(root).as_posix() for p in root.glob("*/**/*") if p.is_file()]
    yield from _tree(names, lambda name: (root / name).read_bytes(), root)


def _tree(names: Collection[str], read: Callable[[str], bytes], root: Path) -> Iterator[Row]:
    """Yield the images among the files `names` of a tree, by the number in the file's name."""
    annotated = {}  # Tiny-ImageNet's validation images lie in one folder, next to a table
    if (table := "val/val_annotations.txt") in names:
        rows = (line.split("\t") for line in read(table).decode().splitlines())
        annotated = {f"val/images/{row[0]}": row[1] for row in rows}
    # Tiny-ImageNet's own test images have no labels: a validation folder goes before test.
    tops = ("train/", "val" if any(name.startswith("val") for name in names) else "test/")
    images = [name for name in names if name.startswith(tops) and name.lower().endswith(IMAGES)]
    # n01443537_12.JPEG has the number 12.
    for name in sorted(images, key=lambda n: (int("0" + re.search(r"(\d*)\.\w+$", n)[1]), n)):
        split = "train" if name.startswith("train/") else "test"
        yield split, annotated.get(name, name.split("/")[1]), read(name), f"{name} in {root}"
