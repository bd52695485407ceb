"""The formats: parquet, archive and folders of one set are one set, small or real."""

import hashlib
import io
import json
import os
import shutil
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
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

from fredist.data import DATASETS, at_hand, load
from fredist.readers import DataError, pixels

REAL = os.environ.get("FREDIST_DATA")


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
    (tmp_path / "bytes/cifar10").mkdir(parents=True)
    for split, rows in files_of(cifar).items():
        labels = [CIFAR10.index(label) for label, *_ in rows]
        table = pa.table({"image": [file for _, file, _ in rows], "fine_label": labels})
        pq.write_table(table, tmp_path / f"bytes/cifar10/{split}.parquet")
    write_folders(tmp_path / "test/cifar10", files_of(cifar))
    write_folders(tmp_path / "val/cifar10", files_of(cifar, "webp"), "val")
    archive = tmp_path / "archive/cifar-10-python.tar.gz"
    registered("cifar10", train=30, test=20, md5=write_archive(archive, cifar, CIFAR10))
    (tmp_path / "inner/cifar10").mkdir(parents=True)
    shutil.copy(archive, tmp_path / "inner/cifar10")
    first = load("cifar10")
    assert first.source == "parquet"
    for source, folders in (
        ("parquet", ("webp", "bare", "bytes")),
        ("official archive", ("archive", "inner")),
        ("image folders", ("test", "val")),
    ):
        for folder in folders:
            other = load("cifar10", tmp_path / folder)
            assert_same(first, other)
            names = CIFAR10 if folder not in ("bare", "bytes") else [f"{i:03d}" for i in range(10)]
            assert (other.source, list(other.class_names)) == (source, names)


def test_split_folders_are_found_in_upper_case(cifar, tmp_path):
    write_folders(tmp_path / "low/cifar10", files_of(cifar))
    (tmp_path / "low/cifar10/train").rename(tmp_path / "low/cifar10/Train")
    (tmp_path / "low/cifar10/test").rename(tmp_path / "low/cifar10/TEST")
    assert at_hand("cifar10", tmp_path / "low")
    assert_same(load("cifar10"), load("cifar10", tmp_path / "low"))
    for split, rows in files_of(cifar).items():
        write_parquet(tmp_path / "hub/cifar10" / split.title(), {split: rows}, CIFAR10)
        (file,) = (tmp_path / "hub/cifar10" / split.title()).iterdir()
        file.rename(file.with_name("0000.parquet"))
    assert_same(load("cifar10"), load("cifar10", tmp_path / "hub"))


def test_the_tensors_are_the_images(cifar):
    images = load("cifar10")
    assert images.train_images.dtype == torch.uint8
    assert images.train_images.shape == (30, 3, 32, 32)
    assert images.train_images.is_contiguous()
    assert images.train_labels.dtype == torch.int64
    assert images.train_labels.tolist() == sorted(list(range(10)) * 3)
    assert images.class_names == tuple(CIFAR10)
    assert (images.num_classes, images.image_size) == (10, 32)
    # Independently: label, then hash of the pixels.
    expected = sorted(cifar["test"], key=lambda row: (row[0], sha256(row[1].tobytes())))
    for image, (_, written, _) in zip(images.test_images, expected, strict=True):
        assert np.array_equal(image.permute(1, 2, 0).numpy(), written)


def test_a_pixel_a_label_and_a_split_each_change_the_fingerprint(cifar, tmp_path):
    pixel, label, split = ({k: list(v) for k, v in cifar.items()} for _ in range(3))
    name, pixels, path = pixel["train"][0]
    pixel["train"][0] = (name, pixels ^ np.uint8(1), path)
    of = {name: i for i, (name, *_) in enumerate(cifar["train"])}
    for one, other in (("ship", "frog"), ("frog", "ship")):
        label["train"][of[one]] = (one, *cifar["train"][of[other]][1:])
    cat = next(i for i, row in enumerate(cifar["test"]) if row[0] == "cat")
    split["train"][of["cat"]] = cifar["test"][cat]
    split["test"][cat] = cifar["train"][of["cat"]]
    found = {load("cifar10").fingerprint}
    for i, rows in enumerate((pixel, label, split)):
        write_parquet(tmp_path / f"{i}/cifar10", files_of(rows), CIFAR10)
        found.add(load("cifar10", tmp_path / f"{i}").fingerprint)
    assert len(found) == 4


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
    one = load("tiny-imagenet-subset")
    assert_same(one, load("tiny-imagenet-subset", tmp_path / "p"))
    with zipfile.ZipFile(tmp_path / "data/tiny-imagenet-200.zip") as archive:
        archive.extractall(tmp_path / "f")
    (tmp_path / "f/tiny-imagenet-200").rename(tmp_path / "f/tiny-imagenet")
    assert_same(one, load("tiny-imagenet-subset", tmp_path / "f"))
    write_parquet(tmp_path / "whole/tiny-imagenet/train", {"train": tiny["train"]}, WNIDS)
    assert not at_hand("tiny-imagenet-subset", tmp_path / "whole")  # in whatever order


# -- where the hub's tools and people put the files


@pytest.mark.parametrize(
    "layout",
    [
        "cifar10/{split}.parquet",
        "cifar10/cifar10/{split}-00000-of-00001.parquet",  # the hub's CIFAR-100
        "cifar10/data/{split}-00000-of-00001-1359597a978bc4fa.parquet",
        "cifar10/plain_text/{split}/0000.parquet",  # its refs/convert/parquet
        "cifar10/default/{split}/{split}-0000.parquet",
        "cifar10/{split}/0000.parquet",
        "cifar10/plain_text/cifar10-{split}.parquet",  # its older form
        "datasets--uoft-cs--cifar10/snapshots/a1/plain_text/{split}-00000-of-00001.parquet",
        "datasets--cifar10/snapshots/a1/plain_text/{split}-00000-of-00001.parquet",
    ],
)
def test_parquet_files_are_found_where_the_hub_has_them(cifar, tmp_path, layout):
    write_parquet(tmp_path / "whole", files_of(cifar), CIFAR10)
    for file in (tmp_path / "whole").iterdir():
        place = tmp_path / "hub" / layout.format(split=file.name.partition("-")[0])
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place)
    folder = (tmp_path / "hub" / layout).parents[-len(tmp_path.parts) - 2]
    stray = tmp_path / "hub/cifar10/.cache/huggingface/train-00000-of-00001.parquet"
    for path in (stray, folder / "README.md", folder / "extra.parquet", folder / "._train.parquet"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"none of the set")
    assert_same(load("cifar10"), load("cifar10", tmp_path / "hub"))


def test_a_snapshot_of_links_is_read_and_a_missing_blob_is_named(cifar, tmp_path):
    home = tmp_path / "hub/datasets--uoft-cs--cifar10"
    write_parquet(home / "blobs", files_of(cifar), CIFAR10, shards=2)
    (home / "snapshots/a1/plain_text").mkdir(parents=True)
    for file in (home / "blobs").iterdir():
        (home / "snapshots/a1/plain_text" / file.name).symlink_to(f"../../../blobs/{file.name}")
    assert_same(load("cifar10"), load("cifar10", tmp_path / "hub"))
    (home / "blobs/train-00001-of-00002.parquet").unlink()
    with pytest.raises(DataError, match=r"plain_text: expected 2 parquet files of train"):
        load("cifar10", tmp_path / "hub")
    again = home / "snapshots/a1/plain_text/again/train-00000-of-00002.parquet"
    again.parent.mkdir()
    again.symlink_to(home / "blobs" / again.name)  # one twice is not two
    with pytest.raises(DataError, match=r"expected 2 parquet files of train, of each number one"):
        load("cifar10", tmp_path / "hub")


def test_a_broken_link_among_snapshots_hides_no_other_place(cifar, tmp_path):
    snapshots = tmp_path / "data/datasets--uoft-cs--cifar10/snapshots"
    snapshots.mkdir(parents=True)
    (snapshots / "a1").symlink_to("gone")
    assert at_hand("cifar10")
    assert load("cifar10").source == "parquet"


def test_a_validation_split_goes_before_an_unlabelled_test_split(cifar, tmp_path):
    rows = files_of(cifar)
    rows["validation"] = rows.pop("test")
    write_parquet(tmp_path / "p/cifar10", rows, CIFAR10)
    unlabelled = pa.table({"img": [b"?"], "label": [-1]})
    pq.write_table(unlabelled, tmp_path / "p/cifar10/test.parquet")
    assert_same(load("cifar10"), load("cifar10", tmp_path / "p"))


def test_links_are_followed_and_those_in_a_circle_end(cifar, tmp_path):
    real, linked = tmp_path / "real", tmp_path / "linked/cifar10"
    write_folders(real, files_of(cifar))
    (linked / "train/cat").mkdir(parents=True)
    links = {"test": real / "test", "loop": "loop", "train/cat/up": linked}
    links |= {f"train/{name}": real / "train" / name for name in CIFAR10 if name != "cat"}
    links |= {f"train/cat/{file.name}": file for file in (real / "train/cat").iterdir()}
    links |= {"train/cat/self": linked / "train/cat", "train/cat/gone.png": tmp_path / "nowhere"}
    for name, target in links.items():
        (linked / name).symlink_to(target)
    one = load("cifar10")
    assert_same(one, load("cifar10", tmp_path / "linked"))
    # What is behind a link changes: never the images of before.
    shutil.rmtree(real)
    write_folders(real, files_of(random_rows(CIFAR10, 3, 2, seed=5)))
    assert load("cifar10", tmp_path / "linked").fingerprint != one.fingerprint


def test_hidden_and_stray_files_are_no_images(cifar, tmp_path):
    tree, image = tmp_path / "f/cifar10", files_of(cifar)["train"][0][1]
    write_folders(tree, files_of(cifar))
    strays = "train/cat/._cat_0.png train/cat/.DS_Store train/cat/Thumbs.db train/README.txt "
    strays += "train/.ipynb_checkpoints/cat_0.png train/stray.png test/dog/notes.txt "
    strays += "values/cat/1.png val_annotations.txt .train/cat/1.png"
    for name in strays.split():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(image)
    (tree / "train/empty").mkdir()
    pq.write_table(pa.table({"file_name": ["cat/cat_0.png"]}), tree / "train/metadata.parquet")
    assert_same(load("cifar10"), load("cifar10", tmp_path / "f"))


# -- damaged files: the file, the row, what was expected, what to do


COLUMNS = r"parquet file with columns img or image \(bytes, path\), label or fine_label"
NAMES = r"and a list of class names or nothing in its metadata, got"
INTEGER = "an integer from 0 to 9 in label, got .* and"


@pytest.mark.parametrize(
    ("what", "values", "message"),
    [
        ("label", [*map(str, range(10))], rf"row 0 of .*{INTEGER} '0'"),
        ("label", [0, 1, None, *range(3, 10)], rf"row 2 of .*{INTEGER} None"),
        ("label", [*range(9), 10], rf"row 9 of .*{INTEGER} 10"),
        ("label", [-1, *range(1, 10)], rf"row 0 of .*{INTEGER} -1"),
        ("label", [0.5] * 10, rf"row 0 of .*{INTEGER} 0.5"),
        ("label", None, rf"{COLUMNS}.* got columns img;"),
        ("img", None, rf"{COLUMNS}.* got columns label;"),
        ("img", ["a"] * 10, r"row 0 of .*bytes in column img, .*, got 'a'"),
        ("img", [{"bytes": None, "path": "a"}] * 10, r"row 0 of .*bytes in column img, .*got None"),
        ("img", [{"path": "a"}] * 10, rf"{COLUMNS}.* got 'bytes'"),
        ("img", [b"x"] * 10, r"row 0 of .*expected an image file \(PNG, JPEG, .*cannot identify"),
        ("metadata", "{", NAMES),
        ("metadata", "[]", NAMES),
        ("metadata", b"\xff\xfe\xfd", NAMES),
        ("metadata", "7", NAMES),
        ("names", ["a"] * 10, rf"{NAMES} the class names \['a'"),
        ("names", [*range(10)], rf"{NAMES} the class names \[0"),
        ("names", {"0": "a"}, rf"{NAMES} the class names \{{'0'"),
    ],
)
def test_a_damaged_parquet_file_is_named(cifar, tmp_path, registered, what, values, message):
    registered("cifar10", train=10, test=20)
    file = tmp_path / "data/cifar10/train-00000-of-00001.parquet"
    for old in file.parent.glob("train*"):
        old.unlink()
    image = encode(np.zeros((32, 32, 3), np.uint8))
    columns = {"img": [{"bytes": image, "path": "a"}] * 10, "label": list(range(10))}
    columns |= {what: values} if what in columns else {}
    features = {"label": {"names": values if what == "names" else CIFAR10}}
    known = values if what == "metadata" else json.dumps({"info": {"features": features}})
    table = pa.table({name: v for name, v in columns.items() if v is not None})
    pq.write_table(table.replace_schema_metadata({"huggingface": known}), file)
    with pytest.raises(DataError, match=message) as error:
        load("cifar10")
    assert str(file) in str(error.value)
    assert "; get a whole copy of it, or let FREDIST_DATA" in str(error.value)
    assert "elete" not in str(error.value)


def test_every_cut_of_a_parquet_file_is_named(cifar, tmp_path):
    file = tmp_path / "data/cifar10/test-00000-of-00001.parquet"
    whole = file.read_bytes()
    for end in (0, 3, 100, len(whole) // 2, len(whole) - 100, len(whole) - 1):
        file.write_bytes(whole[:end])
        with pytest.raises(DataError, match=r"test-00000-of-00001.parquet: expected a parquet"):
            load("cifar10")


def test_an_image_without_a_label_is_named(tiny, tmp_path):
    with zipfile.ZipFile(tmp_path / "data/tiny-imagenet-200.zip") as archive:
        archive.extractall(tmp_path / "f")
    table = tmp_path / "f/tiny-imagenet-200/val/val_annotations.txt"
    lines = table.read_text().splitlines()
    table.write_text("\n".join(lines), encoding="utf-8-sig")  # as some editors save it
    assert_same(load("tiny-imagenet"), load("tiny-imagenet", tmp_path / "f"))
    for damaged in ([*lines[1:], "half a li"], lines[1:]):
        table.write_text("\n".join(damaged))
        name = lines[0].split()[0]
        with pytest.raises(DataError, match=rf"val/images/{name} in .*: expected a line about it"):
            load("tiny-imagenet", tmp_path / "f")


# -- images


def decoded(image, kind="png", **options):
    """Return what `pixels` makes of an image of Pillow's, written in a format."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return pixels(buffer.getvalue(), "it", image.width)


def test_every_mode_keeps_what_the_image_shows():
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (8, 8), np.uint8)
    colour = rng.integers(0, 256, (8, 8, 3), np.uint8)
    three = np.repeat(grey[..., None], 3, axis=2)
    one, rgb = Image.fromarray(grey), Image.fromarray(colour)
    opaque, few = rgb.copy(), rgb.quantize(16)
    opaque.putalpha(255)
    deep = [Image.fromarray(grey.astype(np.uint16) * factor) for factor in (256, 257)]
    assert deep[0].mode == "I;16"  # 16 bits, however they were made of 8
    for image, kind, shown in (
        *((image, kind, three) for image in (one, *deep) for kind in ("png", "ppm")),
        *((rgb, kind, colour) for kind in ("png", "bmp", "ppm")),
        (few, "png", np.asarray(few.convert("RGB"))),
        (opaque, "png", colour),
        (opaque, "webp", colour),
        (one.convert("LA"), "png", three),
        (Image.fromarray(grey > 127), "png", (three > 127) * np.uint8(255)),
    ):
        options = {"lossless": True} if kind == "webp" else {}
        assert np.array_equal(decoded(image, kind, **options), shown), (image.mode, kind)
    flat = Image.new("RGB", (8, 8), (200, 100, 50))
    assert np.abs(decoded(flat.convert("CMYK"), "jpeg").astype(int) - (200, 100, 50)).max() < 4


def test_what_has_no_colour_of_its_own_or_another_size_is_an_error():
    clear, few = Image.new("RGBA", (8, 8), (200, 100, 50, 254)), Image.new("P", (8, 8))
    for image, options in ((clear, {}), (clear.convert("LA"), {}), (few, {"transparency": 0})):
        with pytest.raises(DataError, match=r"it: .* opaque .* 8x8 pixels, got transparent pixels"):
            decoded(image, **options)
    for depth in (np.uint8, np.uint16):
        with pytest.raises(DataError, match="transparent pixels"):
            decoded(Image.fromarray(np.full((8, 8), 200, depth)), transparency=200)
        decoded(Image.fromarray(np.full((8, 8), 200, depth)), transparency=201)
    with pytest.raises(DataError, match=r"of 7x7 pixels, got 7x8"):
        decoded(Image.new("L", (7, 8)))
    with pytest.raises(DataError, match=r"of mode F"):
        pixels(b"Pf\n8 8\n-1.0\n" + b"\0" * 256, "it", 8)


def test_a_cut_image_is_refused_whatever_the_user_told_pillow(monkeypatch):
    whole = encode(np.zeros((8, 8, 3), np.uint8), "jpeg")
    monkeypatch.setattr("PIL.ImageFile.LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(RuntimeError, match="LOAD_TRUNCATED_IMAGES = True: set it to False"):
        pixels(whole[:-60], "it", 8)


@pytest.mark.parametrize("kind", ["eps", "tiff", "gif", "ico", "tga"])
def test_only_named_formats_are_opened(tmp_path, monkeypatch, kind):
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(DataError, match=r"an image file \(PNG, JPEG, WEBP, BMP, PPM\)"):
        decoded(Image.new("RGB", (8, 8)), kind)
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("size", [10_000, 60_000])  # within Pillow's limit, and beyond it
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bomb_is_not_decoded(size):
    file = bytearray(encode(np.zeros((8, 8, 3), np.uint8)))
    file[16:24] = size.to_bytes(4, "big") * 2
    file[29:33] = zlib.crc32(file[12:29]).to_bytes(4, "big")
    with pytest.raises(DataError, match=f"got {size}x{size}|decompression bomb"):
        pixels(bytes(file), "it", 8)


# -- the real data, where they are


def real(name):
    if not REAL or not at_hand(name, REAL):
        pytest.skip(f"needs the real {name}: let FREDIST_DATA name a folder that has it")
    return load(name, REAL)  # complete, and of its known fingerprint, or an error


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_real_cifar_as_official_archive(name, registered, tmp_path):
    images, rows = real(name), {}
    for split in ("train", "test"):
        labels = getattr(images, f"{split}_labels").tolist()
        pixels = getattr(images, f"{split}_images").permute(0, 2, 3, 1).numpy()
        order = np.random.default_rng(0).permutation(len(labels))
        rows[split] = [(images.class_names[labels[i]], pixels[i], "") for i in order]
    archive = tmp_path / "data" / DATASETS[name].url.rpartition("/")[2]
    md5 = write_archive(archive, rows, list(images.class_names), fine=name == "cifar100")
    registered(name, md5=md5, fingerprint=images.fingerprint)
    again = load(name)
    assert (again.source, again.class_names) == ("official archive", images.class_names)
    assert_same(images, again)


@pytest.mark.slow
def test_real_tiny_subset_as_official_archive(registered, tmp_path):
    name = "tiny-imagenet-subset"
    one, rows = real(name), {"train": [], "test": []}
    for file in sorted((Path(REAL) / name).glob("*.parquet")):
        for row in pq.read_table(file).to_pylist():
            split = "train" if file.name.startswith("train") else "test"
            label = one.class_names[row["label"]]
            rows[split].append((label, row["image"]["bytes"], row["image"]["path"]))
    md5 = write_tiny(tmp_path / "data/tiny-imagenet-200.zip", rows)
    registered(name, md5=md5, fingerprint=one.fingerprint)
    assert_same(one, load(name))
