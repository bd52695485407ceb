"""The formats: parquet, archive and folders of one set are one set, small or real."""

import hashlib
import io
import json
import shutil
import zipfile

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from imagesets import (
    CIFAR10,
    WNIDS,
    assert_same,
    encode,
    files_of,
    random_rows,
    register,
    write_archive,
    write_folders,
    write_parquet,
    write_tiny,
)
from PIL import Image

from fredist import data
from fredist.data import DATASETS, FINGERPRINTS, load
from fredist.readers import DataError

REAL = data.data_folder()


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    """No test sees the user's data or cache."""
    monkeypatch.setenv("FREDIST_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("FREDIST_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def registered(monkeypatch):
    return lambda name, **changes: register(monkeypatch, name, **changes)


@pytest.fixture
def cifar(registered, tmp_path):
    """CIFAR-10 of 30 and 20 images as parquet in the data folder; gives the rows."""
    registered("cifar10", train=30, test=20)
    rows = random_rows(CIFAR10, 3, 2)
    write_parquet(tmp_path / "data" / "cifar10", files_of(rows), CIFAR10, shards=3)
    return rows


def sha256(content):
    return hashlib.sha256(content).digest()


# -- one set, whatever its format


def test_parquet_archive_and_folders_are_one_set(cifar, registered, tmp_path):
    for folder, kind in (("webp/cifar10/plain_text", "webp"), ("bare/cifar10/data", "png")):
        rows = {split: part[::-1] for split, part in files_of(cifar, kind).items()}
        write_parquet(tmp_path / folder, rows, CIFAR10, metadata=kind == "webp")
    write_folders(tmp_path / "test/cifar10", files_of(cifar))
    write_folders(tmp_path / "val/cifar10", files_of(cifar, "webp"), "val")
    archive = tmp_path / "archive/cifar-10-python.tar.gz"
    registered("cifar10", train=30, test=20, md5=write_archive(archive, cifar, CIFAR10))
    inner = tmp_path / "inner/cifar10" / archive.name
    inner.parent.mkdir(parents=True)
    shutil.copy(archive, inner)

    first = load("cifar10")
    assert first.source == "parquet"
    sources = {"archive": "official archive", "inner": "official archive"}
    for folder in ("webp", "bare", "test", "val", "archive", "inner"):
        other = load("cifar10", tmp_path / folder)
        assert_same(first, other)
        expected = "parquet" if folder in ("webp", "bare") else "image folders"
        assert other.source == sources.get(folder, expected)
        assert list(other.class_names) == (
            CIFAR10 if folder != "bare" else [f"{i:03d}" for i in range(10)]
        )


def test_the_tensors_are_the_images(cifar):
    images = load("cifar10")
    assert images.train_images.dtype == torch.uint8
    assert images.train_images.shape == (30, 3, 32, 32)
    assert images.train_images.is_contiguous()
    assert images.train_labels.dtype == torch.int64
    assert images.train_labels.tolist() == sorted(list(range(10)) * 3)
    assert images.class_names == tuple(CIFAR10)
    assert (images.num_classes, images.image_size, images.flip) == (10, 32, True)
    # Independently: label, then hash of the pixels.
    expected = sorted(cifar["test"], key=lambda row: (row[0], sha256(row[1].tobytes())))
    for image, (_, pixels, _) in zip(images.test_images, expected, strict=True):
        assert np.array_equal(image.permute(1, 2, 0).numpy(), pixels)


def test_a_pixel_a_label_and_a_split_each_change_the_fingerprint(cifar, tmp_path):
    def fingerprint(folder, rows):
        write_parquet(tmp_path / folder / "cifar10", files_of(rows), CIFAR10)
        return load("cifar10", tmp_path / folder).fingerprint

    pixel, label, split = ({k: list(v) for k, v in cifar.items()} for _ in range(3))
    name, pixels, path = pixel["train"][0]
    pixel["train"][0] = (name, pixels ^ np.uint8(1), path)
    ship = next(i for i, row in enumerate(label["train"]) if row[0] == "ship")
    frog = next(i for i, row in enumerate(label["train"]) if row[0] == "frog")
    for i, other in ((ship, frog), (frog, ship)):
        label["train"][i] = (cifar["train"][i][0], *cifar["train"][other][1:])
    t, e = (next(i for i, row in enumerate(cifar[s]) if row[0] == "cat") for s in ("train", "test"))
    split["train"][t], split["test"][e] = cifar["test"][e], cifar["train"][t]
    found = [fingerprint(f"v{i}", rows) for i, rows in enumerate((cifar, pixel, label, split))]
    assert len(set(found)) == 4


def test_cifar100_has_fine_labels_and_keeps_one_image_under_two(registered, tmp_path):
    names = sorted(f"class{i}" for i in range(100))
    rows = random_rows(names, 5, 1)
    twin = rows["train"][0][1]
    other = next(i for i, row in enumerate(rows["train"]) if row[0] != rows["train"][0][0])
    rows["train"][other] = (rows["train"][other][0], twin, rows["train"][other][2])
    md5 = write_archive(tmp_path / "a/cifar-100-python.tar.gz", rows, names, fine=True)
    registered("cifar100", train=500, test=100, md5=md5)
    write_parquet(tmp_path / "p/cifar100", files_of(rows), names, label="fine_label")
    one, two = load("cifar100", tmp_path / "a"), load("cifar100", tmp_path / "p")
    assert_same(one, two)
    assert one.num_classes == 100
    same = (one.train_images == torch.from_numpy(twin).permute(2, 0, 1)).flatten(1).all(1)
    assert same.sum() == 2


@pytest.fixture
def tiny(registered, tmp_path):
    """Tiny-ImageNet of 3 and 2 images a class as the official zip; gives the JPEG rows."""
    rng = np.random.default_rng(1)
    rows = {"train": [], "validation": []}
    for split, numbers in (("train", (2, 10, 1)), ("validation", (0, 1))):
        for i, name in enumerate(WNIDS):
            for k in numbers:
                # One in ten is grey, as in the original.
                shape = (64, 64) if (i + k) % 10 == 0 else (64, 64, 3)
                file = encode(rng.integers(0, 256, shape, np.uint8), "jpeg")
                path = f"{name}_{k}.JPEG" if split == "train" else f"val_{200 * k + i}.JPEG"
                rows[split].append((name, file, path))
    md5 = write_tiny(tmp_path / "data/tiny-imagenet-200.zip", rows)
    registered("tiny-imagenet", train=600, test=400, md5=md5)
    registered("tiny-imagenet-subset", train=400, test=200, md5=md5)
    return rows


def test_tiny_imagenet_from_zip_folders_and_parquet_is_one_set(tiny, tmp_path):
    write_parquet(tmp_path / "p/tiny-imagenet/data", tiny, WNIDS)
    with zipfile.ZipFile(tmp_path / "data/tiny-imagenet-200.zip") as archive:
        archive.extractall(tmp_path / "f")
    one = load("tiny-imagenet")
    assert one.train_images.shape == (600, 3, 64, 64)
    # JPEG is ordered by its bytes, not by pixels that depend on the decoder.
    files = sorted((f for name, f, _ in tiny["train"] if name == WNIDS[0]), key=sha256)
    for image, file in zip(one.train_images, files, strict=False):
        pixels = np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))
        assert np.array_equal(image.permute(1, 2, 0).numpy(), pixels)
    assert one.class_names == tuple(WNIDS)
    for folder, source in (("p", "parquet"), ("f", "image folders")):
        other = load("tiny-imagenet", tmp_path / folder)
        assert_same(one, other)
        assert other.source == source


def test_the_subset_is_the_first_files_by_number_of_the_whole(tiny, tmp_path):
    # Files 1 and 2 of 1, 2, 10 (as text, 10 is before 2); the first of each class's validation.
    part = {
        "train": [row for row in tiny["train"] if not row[2].endswith("_10.JPEG")],
        "valid": tiny["validation"][::2],
    }
    write_parquet(tmp_path / "p/tiny-imagenet-subset", part, WNIDS)
    assert_same(load("tiny-imagenet-subset"), load("tiny-imagenet-subset", tmp_path / "p"))


def test_a_part_in_the_place_of_the_whole_is_an_error(tiny, tmp_path, registered):
    registered("tiny-imagenet", md5=DATASETS["tiny-imagenet"].md5)
    registered("tiny-imagenet", train=800, test=400, md5=DATASETS["tiny-imagenet"].md5)
    with pytest.raises(DataError, match=r"zip: expected Tiny-ImageNet with 800 train images, 4 of"):
        load("tiny-imagenet")


# -- the real data, where they are


def real(name):
    if not data.at_hand(name, REAL):
        pytest.skip(f"needs the real {name}: let FREDIST_DATA name a folder that has it")
    return REAL


MEANS = {  # of the train pixels, as published; of the subset, see tests of its bytes
    "cifar10": ([0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]),
    "cifar100": ([0.5071, 0.4865, 0.4409], [0.2673, 0.2564, 0.2762]),
}


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_real_cifar_as_parquet_and_as_official_archive(name, registered, tmp_path):
    images = load(name, real(name))
    assert images.fingerprint == FINGERPRINTS[name]
    assert images.class_names == tuple(sorted(images.class_names))
    pixels = images.train_images.numpy()
    mean = pixels.mean((0, 2, 3)) / 255
    std = np.sqrt(np.square(pixels, dtype=np.uint16).mean((0, 2, 3)) / 255**2 - mean**2)
    np.testing.assert_allclose([mean, std], MEANS[name], atol=6e-5)

    rows = {}
    for split in ("train", "test"):
        order = np.random.default_rng(0).permutation(len(getattr(images, f"{split}_labels")))
        labels = getattr(images, f"{split}_labels")[order].tolist()
        pixels = getattr(images, f"{split}_images")[order].permute(0, 2, 3, 1).numpy()
        rows[split] = [(images.class_names[k], p, "") for k, p in zip(labels, pixels, strict=True)]
    archive = tmp_path / "data" / DATASETS[name].url.rpartition("/")[2]
    md5 = write_archive(archive, rows, list(images.class_names), fine=name == "cifar100")
    registered(name, md5=md5, fingerprint=FINGERPRINTS[name])
    again = load(name)
    assert again.source == "official archive"
    assert again.class_names == images.class_names
    assert_same(images, again)


def test_real_tiny_subset_as_parquet_and_as_official_archive(registered, tmp_path):
    name = "tiny-imagenet-subset"
    rows = {"train": [], "test": []}
    for file in sorted((real(name) / name).glob("*.parquet")):
        names = json.loads(pq.read_schema(file).metadata[b"huggingface"])
        names = names["info"]["features"]["label"]["names"]
        for row in pq.read_table(file).to_pylist():
            split = "train" if file.name.startswith("train") else "test"
            rows[split].append((names[row["label"]], row["image"]["bytes"], row["image"]["path"]))
    one = load(name, REAL)
    assert one.fingerprint == FINGERPRINTS[name]
    md5 = write_tiny(tmp_path / "data/tiny-imagenet-200.zip", rows)
    registered(name, md5=md5, fingerprint=FINGERPRINTS[name])
    assert_same(one, load(name))
