"""Writers of image sets, for tests: every format, from rows of (class, image, file name)."""

import hashlib
import io
import json
import pickle
import tarfile
import zipfile
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from fredist.data import DATASETS

CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer"]
CIFAR10 += ["dog", "frog", "horse", "ship", "truck"]
WNIDS = [f"n{10_000_000 + 7 * i}" for i in range(200)]
TENSORS = ("train_images", "train_labels", "test_images", "test_labels")


def encode(pixels, kind="png"):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, lossless=True)
    return buffer.getvalue()


def write_parquet(folder, rows, names, label="label", shards=1, metadata=True):
    """Write {split: rows} as the hub does."""
    folder.mkdir(parents=True)
    features = {label: {"names": names, "_type": "ClassLabel"}}
    extra = {"huggingface": json.dumps({"info": {"features": features}})} if metadata else None
    for split, all_rows in rows.items():
        total = shards if split == "train" else 1
        for i in range(total):
            part = all_rows[i::total]
            files = [{"bytes": file, "path": path} for _, file, path in part]
            table = pa.table({"img": files, label: [names.index(name) for name, _, _ in part]})
            name = f"{split}-{i:05d}-of-{total:05d}.parquet"
            pq.write_table(table.replace_schema_metadata(extra), folder / name)


def write_folders(folder, rows, test="test"):
    for split, all_rows in rows.items():
        for label, file, path in all_rows:
            target = folder / {"train": "train"}.get(split, test) / label / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file)


def write_tar(path, files):
    """Write {name: object} as pickles of Python 2's protocol; return the checksum."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz", compresslevel=0) as archive:
        for name, content in files.items():
            # Official archives name NumPy's modules as they were then.
            text = pickle.dumps(content, 2).replace(b"numpy._core", b"numpy.core")
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text))
    return hashlib.md5(path.read_bytes()).hexdigest()


def write_archive(path, rows, names, fine=False):
    """Write {split: rows of pixels} as the official CIFAR archive; return its checksum."""
    batches = {"test" if fine else "test_batch": rows["test"]}
    if fine:
        batches["train"] = rows["train"]
    else:
        batches |= {f"data_batch_{i + 1}": rows["train"][i::5] for i in range(5)}
    files = {
        name: {
            b"data": np.stack([pixels.transpose(2, 0, 1).ravel() for _, pixels, _ in part]),
            b"fine_labels" if fine else b"labels": [names.index(label) for label, _, _ in part],
        }
        for name, part in batches.items()
    }
    meta = {b"fine_label_names" if fine else b"label_names": [name.encode() for name in names]}
    files["meta" if fine else "batches.meta"] = meta
    top = "cifar-100-python" if fine else "cifar-10-batches-py"
    return write_tar(path, {f"{top}/{name}": content for name, content in files.items()})


def write_tiny(path, rows):
    """Write {split: rows of JPEG} as Tiny-ImageNet's official archive; return its checksum."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        lines = []
        for split, all_rows in rows.items():
            for label, file, name in all_rows:
                inside = f"train/{label}/images" if split == "train" else "val/images"
                archive.writestr(f"tiny-imagenet-200/{inside}/{name}", file)
                if split != "train":
                    lines.append(f"{name}\t{label}\t0\t0\t63\t63\n")
        archive.writestr(f"tiny-imagenet-200/train/{WNIDS[0]}/{WNIDS[0]}_boxes.txt", "boxes")
        archive.writestr("tiny-imagenet-200/val/val_annotations.txt", "".join(lines))
        archive.writestr("tiny-imagenet-200/test/images/test_0.JPEG", rows["train"][0][1])
        archive.writestr("tiny-imagenet-200/wnids.txt", "\n".join(reversed(WNIDS)))
    return hashlib.md5(path.read_bytes()).hexdigest()


def random_rows(names, train, test, size=32, seed=0):
    """Return {split: rows of random pixels}, shuffled."""
    rng = np.random.default_rng(seed)
    rows = {}
    for split, each in (("train", train), ("test", test)):
        made = [
            (name, rng.integers(0, 256, (size, size, 3), np.uint8), f"{name}_{i}.png")
            for i in range(each)
            for name in names
        ]
        rows[split] = [made[i] for i in rng.permutation(len(made))]
    return rows


def files_of(rows, kind="png"):
    return {
        split: [(label, encode(pixels, kind), name) for label, pixels, name in part]
        for split, part in rows.items()
    }


def register(monkeypatch, name, **changes):
    """Give a set other counts, checksum or address, so that a small one is loaded for it."""
    changes = {"fingerprint": None, "md5": "0" * 32, **changes}
    monkeypatch.setitem(DATASETS, name, replace(DATASETS[name], **changes))


def assert_same(one, other):
    assert one.fingerprint == other.fingerprint
    for name in TENSORS:
        assert torch.equal(getattr(one, name), getattr(other, name)), name
