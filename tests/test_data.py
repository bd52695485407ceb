"""The data, after the readers: cache, folders, errors, digits, subsets."""

import os
import pickle
import shutil
import socket
import tarfile
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from imagesets import (
    CIFAR10,
    TENSORS,
    assert_same,
    encode,
    files_of,
    random_rows,
    register,
    write_archive,
    write_folders,
    write_parquet,
    write_tar,
)

from fredist.data import (
    DATASETS,
    FINGERPRINTS,
    DataNotFound,
    at_hand,
    cache_root,
    data_folder,
    load,
    subset,
)
from fredist.readers import DataError

TOGETHER = 4  # threads that load at once


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    """No test sees the user's data or cache."""
    monkeypatch.setenv("FREDIST_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("FREDIST_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def cifar(monkeypatch, tmp_path):
    """Write a CIFAR-10 of 30 and 20 images as parquet; return its folder."""
    register(monkeypatch, "cifar10", train=30, test=20)
    folder = tmp_path / "data" / "cifar10"
    write_parquet(folder, files_of(random_rows(CIFAR10, 3, 2)), CIFAR10, shards=3)
    return folder


class Shown:
    """A progress display that keeps what it was asked to show: nothing if nothing was decoded."""

    def __init__(self):
        self.asked = []

    def __call__(self, iterable, total, label):
        self.asked.append((label, total))
        return iterable


# -- decoded once


def test_the_second_load_decodes_nothing(cifar):
    first, second = Shown(), Shown()
    one, two = load("cifar10", progress=first), load("cifar10", progress=second)
    assert first.asked == [("CIFAR-10 train", 30), ("CIFAR-10 test", 20)]
    assert second.asked == []
    assert_same(one, two)
    assert (one.class_names, one.source, one.flip) == (two.class_names, two.source, two.flip)
    assert len(list((cache_root() / "decoded").iterdir())) == 1


def test_a_damaged_cache_is_made_again(cifar):
    one = load("cifar10")
    (kept,) = (cache_root() / "decoded").iterdir()
    whole = kept.read_bytes()
    other = torch.load(kept, weights_only=True)
    other["train_images"][0, 0, 0, 0] ^= 1  # a well-formed file of other pixels
    torch.save(other, kept)
    pixel = kept.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :]
    for damaged in (pixel, flipped, whole[:middle], b"", b"not a cache", pickle.dumps({"a": 1}, 2)):
        kept.write_bytes(damaged)
        shown = Shown()
        assert_same(one, load("cifar10", progress=shown))
        assert len(shown.asked) == 2  # decoded, and kept:
        load("cifar10", progress=shown)
        assert len(shown.asked) == 2


def test_a_changed_source_is_decoded_again(cifar):
    one = load("cifar10")
    shutil.rmtree(cifar)
    write_parquet(cifar, files_of(random_rows(CIFAR10, 3, 2, seed=5)), CIFAR10, shards=3)
    two = load("cifar10")
    assert one.fingerprint != two.fingerprint
    old, new = sorted((cache_root() / "decoded").iterdir(), key=os.path.getmtime)
    shutil.copy(old, new)  # another source's cache, under this one's name
    assert_same(two, load("cifar10"))


def test_loading_at_the_same_time_is_safe(cifar, monkeypatch, recwarn):
    found, together, save = [], threading.Barrier(TOGETHER, timeout=60), torch.save

    def save_together(*arguments):
        save(*arguments)
        together.wait()  # all have written before the first gives its file the final name

    def work():
        found.append(load("cifar10"))

    monkeypatch.setattr(torch, "save", save_together)
    threads = [threading.Thread(target=work) for _ in range(TOGETHER)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == TOGETHER
    assert not [warning for warning in recwarn if "cifar10" in str(warning.message)]
    for other in found[1:]:
        assert_same(found[0], other)
    assert len(list((cache_root() / "decoded").iterdir())) == 1


def test_without_a_place_for_the_cache_loading_goes_on(cifar, tmp_path, monkeypatch):
    one = load("cifar10")
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("FREDIST_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match=r"(?s)keep cifar10 decoded at .* FREDIST_CACHE names"):
        assert_same(one, load("cifar10"))


# -- wrong, damaged, incomplete


def test_a_missing_shard_is_named(cifar):
    (cifar / "train-00001-of-00003.parquet").unlink()
    with pytest.raises(DataError, match=r"expected the file train-00001-of-00003.parquet too"):
        load("cifar10")


def test_a_truncated_parquet_file_is_named(cifar):
    file = cifar / "test-00000-of-00001.parquet"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"test-00000-of-00001.parquet: expected a parquet .*make"):
        load("cifar10")


@pytest.mark.parametrize(
    "columns", [{"picture": ["a"], "label": [1]}, {"img": ["a"], "label": [1]}]
)
def test_a_parquet_file_of_something_else_is_named(cifar, columns):
    pq.write_table(pa.table(columns), cifar / "test-00000-of-00001.parquet")
    with pytest.raises(DataError, match=r"test-00000-of-00001.parquet: expected .*columns img or"):
        load("cifar10")


@pytest.mark.parametrize("cut", [20, 500])
def test_a_damaged_image_is_named(cifar, tmp_path, cut):
    rows = files_of(random_rows(CIFAR10, 3, 2))
    label, file, name = rows["train"][4]
    rows["train"][4] = (label, file[:cut], name)
    write_folders(tmp_path / "other/cifar10", rows)
    with pytest.raises(DataError, match=rf"train/{label}/{name} in .*: expected an image file"):
        load("cifar10", tmp_path / "other")
    write_parquet(tmp_path / "more/cifar10", rows, CIFAR10)
    with pytest.raises(DataError, match=r"row 4 of .*/train-00000-of-00001.parquet: expected an"):
        load("cifar10", tmp_path / "more")


def test_an_image_of_another_size_is_named(cifar, tmp_path):
    rows = files_of(random_rows(CIFAR10, 3, 2))
    rows["test"][2] = (rows["test"][2][0], encode(np.zeros((32, 31, 3), np.uint8)), "odd.png")
    write_folders(tmp_path / "other/cifar10", rows)
    with pytest.raises(DataError, match=r"odd.png in .*: expected an image of 32x32 pixels, got"):
        load("cifar10", tmp_path / "other")


def test_other_counts_are_an_error(cifar, tmp_path):
    for i, (train, test) in enumerate([(4, 2), (3, 1), (3, 0)]):
        rows = files_of(random_rows(CIFAR10, train, test))
        write_folders(tmp_path / f"{i}/cifar10", rows)
        with pytest.raises(DataError, match=r"cifar10: expected CIFAR-10 with \d0 (train|test) im"):
            load("cifar10", tmp_path / f"{i}")
    uneven = random_rows(CIFAR10, 3, 2)
    uneven["train"] = [("cat", *row[1:]) if row[0] == "dog" else row for row in uneven["train"]]
    write_parquet(tmp_path / "uneven/cifar10", files_of(uneven), CIFAR10)
    with pytest.raises(
        DataError, match=r"3 of each of 10 classes, got 9 classes, \[3, 6\] of each"
    ):
        load("cifar10", tmp_path / "uneven")


def test_a_test_class_that_was_never_trained_is_an_error(cifar, tmp_path):
    rows = files_of(random_rows(CIFAR10, 3, 2))
    rows["test"] = [("zebra", *row[1:]) if row[0] == "dog" else row for row in rows["test"]]
    write_folders(tmp_path / "other/cifar10", rows)
    with pytest.raises(DataError, match="20 test images"):
        load("cifar10", tmp_path / "other")


def test_images_stored_with_loss_are_not_the_set(cifar, tmp_path, monkeypatch):
    rows, right = random_rows(CIFAR10, 3, 2), load("cifar10").fingerprint
    register(monkeypatch, "cifar10", train=30, test=20, fingerprint=right)
    assert load("cifar10").fingerprint == right
    write_folders(tmp_path / "jpeg/cifar10", files_of(rows, "jpeg"))
    with pytest.raises(DataError, match=f"stored without loss, of fingerprint {right}, got"):
        load("cifar10", tmp_path / "jpeg")


class Trap:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_an_archive_is_verified_before_it_is_unpickled(tmp_path, monkeypatch):
    archive, sprung = tmp_path / "data/cifar-10-python.tar.gz", tmp_path / "sprung"
    md5 = write_tar(archive, {"cifar-10-batches-py/batches.meta": Trap(sprung)})
    with pytest.raises(DataError, match=rf"{archive}: expected the MD5 sum c58f.*got {md5}"):
        load("cifar10")
    assert not sprung.exists()
    with tarfile.open(archive) as opened:  # the trap is a trap
        pickle.load(opened.extractfile("cifar-10-batches-py/batches.meta"))
    assert sprung.exists()


def test_half_an_archive_is_named(tmp_path, monkeypatch):
    archive = tmp_path / "data/cifar-10-python.tar.gz"
    md5 = write_archive(archive, random_rows(CIFAR10, 3, 2), CIFAR10)
    register(monkeypatch, "cifar10", train=30, test=20, md5=md5)
    archive.write_bytes(archive.read_bytes()[:-1000])
    with pytest.raises(DataError, match=r"tar.gz: .*half a download\?.* Delete it .*`make data`"):
        load("cifar10")


# -- names and folders


def test_unknown_names_are_refused_with_the_closest():
    for call in (load, at_hand):
        with pytest.raises(
            ValueError, match=r"among cifar10, .*got 'cifar-100'.*mean 'cifar100'\?"
        ):
            call("cifar-100")


def test_nothing_stands_in_for_a_set_that_is_not_there(tmp_path):
    for name in ("cifar10", "cifar100", "tiny-imagenet", "tiny-imagenet-subset"):
        assert not at_hand(name)
        with pytest.raises(DataNotFound) as error:
            load(name)
        for text in (f"{tmp_path}/data/{name} (parquet)", "make data", "FREDIST_DATA", "http"):
            assert text in str(error.value)
    assert at_hand("digits")


def test_half_a_download_is_not_at_hand(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/cifar-10-python.tar.gz.0123.part").write_bytes(b"half")
    assert not at_hand("cifar10")
    (tmp_path / "data/cifar-10-python.tar.gz").write_bytes(b"all")
    assert at_hand("cifar10")


def test_the_parameter_goes_before_the_variable_before_the_cache(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert data_folder("here") == tmp_path / "here"
    assert data_folder() == tmp_path / "data"
    monkeypatch.setenv("FREDIST_DATA", "")
    assert data_folder() == tmp_path / "cache" / "data"


def test_a_relative_folder_is_the_same_from_every_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notebooks").mkdir()
    for variable, folder in (("FREDIST_DATA", data_folder), ("FREDIST_CACHE", cache_root)):
        monkeypatch.setenv(variable, "some/where")
        first = folder()
        monkeypatch.chdir(tmp_path / "notebooks")
        assert folder() == first == tmp_path / "some/where"
        assert os.environ[variable] == str(first)  # for the processes started from here
        monkeypatch.chdir(tmp_path)


def test_the_official_archives_are_torchvisions():
    for name, theirs in (
        ("cifar10", torchvision.datasets.CIFAR10),
        ("cifar100", torchvision.datasets.CIFAR100),
    ):
        assert (DATASETS[name].url, DATASETS[name].md5) == (theirs.url, theirs.tgz_md5)


# -- digits, subsets


def test_digits_are_fixed_and_need_no_network(monkeypatch):
    monkeypatch.setattr(socket, "socket", None)
    digits = load("digits", download=True)
    assert digits.fingerprint == FINGERPRINTS["digits"] == load("digits").fingerprint
    assert digits.train_images.shape == (1437, 3, 32, 32)
    assert digits.test_labels.bincount().tolist() == [36] * 10
    assert (digits.num_classes, digits.flip) == (10, False)
    assert (digits.train_images.min(), digits.train_images.max()) == (0, 255)
    assert torch.equal(digits.train_images[:, 0], digits.train_images[:, 2])
    everything = torch.cat([digits.train_images, digits.test_images])
    assert len(everything.flatten(1).unique(dim=0)) == 1797  # no image is in both


def test_digits_show_what_scikit_learn_has():
    from sklearn.datasets import load_digits

    digits, theirs = load("digits"), load_digits()
    images = torch.cat([digits.train_images, digits.test_images])[:, 0, 1::4, 1::4]
    labels = torch.cat([digits.train_labels, digits.test_labels])
    ours = {
        (*image.flatten().tolist(), k) for image, k in zip(images, labels.tolist(), strict=True)
    }
    scaled = np.floor(theirs.data * 255 / 16 + 0.5).astype(int)
    assert ours == {(*row, int(k)) for row, k in zip(scaled.tolist(), theirs.target, strict=True)}


DIGITS = load("digits")


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 1437), st.integers(1, 360))
def test_a_subset_is_balanced_and_grows_by_adding(train, test):
    small, larger = subset(DIGITS, train, test), subset(DIGITS, min(train + 7, 1437), None)
    assert (len(small.train_images), len(small.test_labels)) == (train, test)
    counts = small.test_labels.bincount(minlength=10)
    assert counts.max() - counts.min() <= 1
    assert counts.tolist() == sorted(counts.tolist(), reverse=True)
    assert small.train_labels.tolist() == sorted(small.train_labels.tolist())
    rows = {image.numpy().tobytes() for image in larger.train_images}
    assert all(image.numpy().tobytes() in rows for image in small.train_images)
    assert small.fingerprint == DIGITS.fingerprint


def test_a_subset_of_all_is_all():
    for everything in (subset(DIGITS, None, None), subset(DIGITS, 1437, 360)):
        for name in TENSORS:
            assert torch.equal(getattr(everything, name), getattr(DIGITS, name))


@pytest.mark.parametrize("counts", [(1438, None), (None, 361), (0, None), (None, -1)])
def test_a_subset_larger_than_the_set_is_refused(counts):
    with pytest.raises(ValueError, match=r"expected 1 to \d+ (train|test) images of digits"):
        subset(DIGITS, *counts)
