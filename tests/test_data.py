"""The data, after the readers: what is known, downloads, cache, errors, digits, subsets."""

import errno
import os
import pickle
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
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

from fredist import data, readers
from fredist.__main__ import main
from fredist.data import DATASETS, DataNotFound, at_hand, fingerprint, load, subset
from fredist.paper import choose
from fredist.paths import cache_folder
from fredist.readers import DataError

TOGETHER = 4  # threads that load at once


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    """No test sees the user's data or cache, or what another test has loaded."""
    monkeypatch.setenv("FREDIST_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("FREDIST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(data, "_loaded", {})
    monkeypatch.setattr(data, "_learned", {})


@pytest.fixture
def cifar(monkeypatch, tmp_path):
    """Write a CIFAR-10 of 30 and 20 images as parquet; return its folder."""
    register(monkeypatch, "cifar10", train=30, test=20)
    folder = tmp_path / "data" / "cifar10"
    write_parquet(folder, files_of(random_rows(CIFAR10, 3, 2)), CIFAR10, shards=3)
    return folder


@pytest.fixture
def anew(monkeypatch):
    """Return a function that loads as another process would, and gives what it was shown."""

    def load_anew(*arguments, **options):
        data._loaded.clear()
        shown = []

        def progress(iterable, total, label):
            shown.append((label, total))
            return iterable

        return load(*arguments, progress=progress, **options), shown

    return load_anew


# -- what is known of a set without its data


def test_what_is_known_of_the_sets():
    for name, theirs in (
        ("cifar10", torchvision.datasets.CIFAR10),
        ("cifar100", torchvision.datasets.CIFAR100),
    ):
        info = DATASETS[name]
        assert (info.url, info.md5) == (theirs.url, theirs.tgz_md5)
        assert (info.mean, info.std) == ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
    for name in ("tiny-imagenet", "tiny-imagenet-subset"):
        info = DATASETS[name]
        assert (info.mean, info.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    pixels = load("digits").train_images.double() / 255
    assert DATASETS["digits"].mean == pytest.approx(pixels.mean((0, 2, 3)).tolist(), abs=6e-5)
    spread = pixels.std((0, 2, 3), correction=0).tolist()
    assert DATASETS["digits"].std == pytest.approx(spread, abs=6e-5)


def test_the_names_of_data_sets_need_no_torch():
    code = "import sys, fredist.data as d; d.at_hand('cifar10'); d.fingerprint('cifar10'); "
    code += "print({'torch', 'sklearn', 'pyarrow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_unknown_names_are_refused_with_the_closest():
    for call in (load, at_hand, fingerprint):
        with pytest.raises(ValueError, match=r"data set 'cifar-100' \(did you mean 'cifar100'\?"):
            call("cifar-100")


# -- decoded once


def test_a_set_is_decoded_once_and_read_once(cifar, anew):
    one, shown = anew("cifar10")
    assert shown == [("CIFAR-10 train", 30), ("CIFAR-10 test", 20)]
    assert load("cifar10") is one
    two, shown = anew("cifar10")
    assert shown == []
    assert_same(one, two)
    assert (one.class_names, one.source, one.name) == (two.class_names, two.source, two.name)
    assert len(list((cache_folder() / "decoded").iterdir())) == 1


def test_an_unknown_fingerprint_is_learned_without_decoding_again(cifar, anew, monkeypatch):
    assert fingerprint("cifar100") == "255517b1d052745a"  # known, and not at hand
    assert fingerprint("tiny-imagenet") is None
    one, _ = anew("cifar10")
    data._loaded.clear()
    data._learned.clear()
    with monkeypatch.context() as patch:
        patch.setattr(readers, "canonical", None)  # nothing can be decoded
        assert fingerprint("cifar10") == one.fingerprint
        assert data._loaded == {}  # nor were the images read
        patch.setattr(readers, "walk", None)  # and now no file is looked at
        assert {fingerprint("cifar10") for _ in range(100)} == {one.fingerprint}


def test_a_damaged_cache_is_made_again(cifar, anew):
    one, _ = anew("cifar10")
    (kept,) = (cache_folder() / "decoded").iterdir()
    whole = kept.read_bytes()
    damaged = [whole[: len(whole) // 2], b"", b"not a cache", pickle.dumps({})]
    for at in np.random.default_rng(0).integers(0, len(whole), 20):
        damaged.append(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
    for content in damaged:
        kept.write_bytes(content)
        data._learned.clear()
        assert fingerprint("cifar10") == one.fingerprint
        assert_same(one, anew("cifar10")[0])
    kept.write_bytes(damaged[0])
    assert len(anew("cifar10")[1]) == 2  # decoded, and kept:
    assert anew("cifar10")[1] == []


def test_a_changed_source_is_decoded_again(cifar):
    one = load("cifar10")
    file = cifar / "test-00000-of-00001.parquet"
    stat = file.stat()
    other = cifar.parent / "other"
    write_parquet(other, files_of(random_rows(CIFAR10, 3, 2, seed=5)), CIFAR10, shards=3)
    for new in other.iterdir():
        shutil.copy(new, cifar)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as rsync and cp -p would
    two = load("cifar10")
    assert one.fingerprint != two.fingerprint
    assert load("cifar10") is two


def test_loading_at_the_same_time_is_safe(cifar, recwarn):
    found, together = [], threading.Barrier(TOGETHER, timeout=60)

    def work():
        together.wait()
        found.append(load("cifar10"))

    threads = [threading.Thread(target=work) for _ in range(TOGETHER)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == TOGETHER
    assert not [warning for warning in recwarn if "cifar10" in str(warning.message)]
    for other in found[1:]:
        assert_same(found[0], other)
    assert len(list((cache_folder() / "decoded").iterdir())) == 1


def test_without_a_place_for_the_cache_loading_goes_on(cifar, tmp_path, monkeypatch):
    one = load("cifar10")
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("FREDIST_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match=r"(?s)keep cifar10 decoded, got .*/file/.*FREDIST_CACHE"):
        assert_same(one, load("cifar10"))


def test_where_nothing_may_be_decoded_a_fingerprint_is_that_of_the_cache(cifar, anew, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(readers, "canonical", None)  # nothing can be decoded
        assert fingerprint("cifar10", decode=False) is None
    assert (learned := fingerprint("cifar10"))  # asked again with leave to decode
    assert fingerprint("cifar10", decode=False) == learned
    data._learned.clear()
    data._loaded.clear()
    with monkeypatch.context() as patch:
        patch.setattr(readers, "canonical", None)
        assert fingerprint("cifar10", decode=False) == learned  # as another process sees it
    assert data._loaded == {}


# -- wrong, damaged, incomplete


def test_a_damaged_place_hides_no_whole_one_and_is_warned_of(cifar, tmp_path):
    whole = tmp_path / "hub/datasets--uoft-cs--cifar10/snapshots/aaa/plain_text"
    shutil.copytree(cifar, whole)
    right, root = load("cifar10"), tmp_path / "hub"
    half = root / "datasets--uoft-cs--cifar10/snapshots/bbb/plain_text"
    half.mkdir(parents=True)
    shutil.copy(cifar / "test-00000-of-00001.parquet", half)
    os.utime(whole.parent, (1, 1))  # the half is the newer, which goes first
    with pytest.warns(UserWarning, match=r"snapshots/bbb: expected .*Read instead: .*/aaa"):
        assert_same(right, load("cifar10", root))
    (whole / "test-00000-of-00001.parquet").write_bytes(b"none")
    with pytest.raises(DataError, match=r"snapshots/bbb: expected CIFAR-10 with 30 train"):
        load("cifar10", root)  # of two damaged ones the first


def test_a_damaged_image_is_named(cifar, tmp_path):
    rows = files_of(random_rows(CIFAR10, 3, 2))
    label, file, name = rows["train"][4]
    rows["train"][4] = (label, file[:500], name)
    write_folders(tmp_path / "other/cifar10", rows)
    with pytest.raises(DataError, match=rf"train/{label}/{name} in .*: expected an image file"):
        load("cifar10", tmp_path / "other")
    write_parquet(tmp_path / "more/cifar10", rows, CIFAR10)
    with pytest.raises(DataError, match=r"row 4 of .*/train-00000-of-00001.parquet: expected an"):
        load("cifar10", tmp_path / "more")
    rows["train"][4] = (label, encode(np.zeros((32, 31, 3), np.uint8)), name)
    write_folders(tmp_path / "odd/cifar10", rows)
    with pytest.raises(DataError, match=rf"{name} in .*of 32x32 pixels, got 31x32 pixels of"):
        load("cifar10", tmp_path / "odd")


def test_what_cannot_be_read_is_named(cifar, tmp_path):
    write_folders(tmp_path / "f/cifar10", files_of(random_rows(CIFAR10, 3, 2)))
    read = Path.read_bytes
    with pytest.MonkeyPatch.context() as patch:  # root may read everything

        def refuse(path):
            if path.name == "cat_1.png":
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return read(path)

        patch.setattr(Path, "read_bytes", refuse)
        with pytest.raises(DataError, match=r"files that can be read, got .*denied.*cat_1.png"):
            load("cifar10", tmp_path / "f")
    # A folder of a tree may lie deeper than parquet files are looked for.
    (tmp_path / "deep/tiny-imagenet/train/n0/images").mkdir(parents=True)
    there = Path.iterdir
    with pytest.MonkeyPatch.context() as patch:

        def refuse(path):
            if path.name == "images":
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return there(path)

        patch.setattr(Path, "iterdir", refuse)
        assert at_hand("tiny-imagenet", tmp_path / "deep")
        with pytest.raises(DataError, match=r"files that can be read, got .*denied.*images"):
            load("tiny-imagenet", tmp_path / "deep")


def test_what_is_damaged_or_another_users_stops_nothing_but_its_own_loading(
    cifar, tmp_path, monkeypatch, capsys
):
    (tmp_path / "data/tiny-imagenet-200.zip").write_bytes(b"half a download")
    there = Path.iterdir

    def refuse(path):  # root may read everything
        if path.name == "cifar10":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return there(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert all(map(at_hand, ("cifar10", "tiny-imagenet")))
    assert (fingerprint("cifar10"), fingerprint("tiny-imagenet")) == (None, None)
    assert len(choose("table2", "paper").runs()) == 30  # shown where they have records
    with pytest.raises(DataError, match=r"tiny-imagenet-200.zip: expected the MD5 sum"):
        load("tiny-imagenet")
    assert main(["data", "--datasets", "cifar10,digits"]) == 1
    said = capsys.readouterr()
    assert "digits: 1,437 train" in said.out
    assert f"{cifar}: expected files that can be read, got [Errno 13]" in said.err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda split: ["cat", "cat"], "30 train images of 10 classes, got 33 of 10"),
        (lambda split: ["cat"] * (split == "train"), "20 test images of 10 classes, got 18 of 10"),
        (lambda split: ["zebra" if split == "test" else "cat"], "30 train .*, got 30 of 11"),
        (lambda split: ["dog"], "30 train images of 10 classes, got 30 of 9"),
        (lambda split: ["dog" if split == "test" else "cat"], "20 test .* got 20 of 10 .* 0 to 4"),
    ],
)
def test_other_counts_are_an_error(cifar, tmp_path, change, message):
    rows = {
        split: [
            (new, pixels, f"{new}_{i}_{j}.png")
            for i, (label, pixels, _) in enumerate(part)
            for j, new in enumerate(change(split) if label == "cat" else [label])
        ]
        for split, part in random_rows(CIFAR10, 3, 2).items()
    }
    write_folders(tmp_path / "other/cifar10", files_of(rows))
    with pytest.raises(DataError, match=rf"other/cifar10: expected CIFAR-10 with {message}"):
        load("cifar10", tmp_path / "other")


def test_images_stored_with_loss_are_not_the_set(cifar, tmp_path, monkeypatch):
    rows, right = random_rows(CIFAR10, 3, 2), load("cifar10").fingerprint
    register(monkeypatch, "cifar10", train=30, test=20, fingerprint=right)
    assert load("cifar10").fingerprint == right
    write_folders(tmp_path / "jpeg/cifar10", files_of(rows, "jpeg"))
    said = f"official class names, and its images stored without loss, of fingerprint {right}, got"
    with pytest.raises(DataError, match=said):
        load("cifar10", tmp_path / "jpeg")
    renamed = {k: [(f"{'zebra' if n == 'cat' else n}", *r) for n, *r in v] for k, v in rows.items()}
    write_folders(tmp_path / "names/cifar10", files_of(renamed))
    with pytest.raises(DataError, match=said):
        load("cifar10", tmp_path / "names")


class Trap:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_an_archive_is_verified_before_it_is_unpickled(tmp_path):
    archive, sprung = tmp_path / "data/cifar-10-python.tar.gz", tmp_path / "sprung"
    md5 = write_tar(archive, {"cifar-10-batches-py/batches.meta": Trap(sprung)})
    with pytest.raises(DataError) as error:
        load("cifar10")
    assert f"{archive}: expected the MD5 sum c58f" in str(error.value)
    assert f"got {md5} (half a download? rename it, and `make data`" in str(error.value)
    assert not sprung.exists()
    with tarfile.open(archive) as opened:  # the trap is a trap
        pickle.load(opened.extractfile("cifar-10-batches-py/batches.meta"))
    assert sprung.exists()


def test_nothing_stands_in_for_a_set_that_is_not_there(tmp_path):
    for name in ("cifar10", "cifar100", "tiny-imagenet", "tiny-imagenet-subset"):
        assert not at_hand(name)
        with pytest.raises(DataNotFound) as error:
            load(name)
        for text in (f"{tmp_path}/data/{name} (parquet)", "make data", "FREDIST_DATA", "http"):
            assert text in str(error.value)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/cifar-10-python.tar.gz.0123.part").write_bytes(b"half")
    assert not at_hand("cifar10")
    assert at_hand("digits")


# -- downloads, against a server of our own: whole or not at all


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        body, path = self.server.body, self.path.split("/")[1]
        self.server.asked.append(path)
        if path == "refuse":
            self.send_error(404)
            return
        self.send_response(200)
        if path != "unannounced":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:-1000] if path in ("short", "stall") else body)
        if path == "stall":
            self.wfile.flush()
            self.server.over.wait(30)

    def log_message(self, *_):
        """Say nothing: the tests' output is the tests'."""


@pytest.fixture
def server(monkeypatch, tmp_path):
    """Serve a small CIFAR-10's archive; gives the server, whose `use` sets how it behaves."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(data, "TIMEOUT", 0.5)
    made = tmp_path / "made" / "cifar-10-python.tar.gz"
    md5 = write_archive(made, random_rows(CIFAR10, 3, 2), CIFAR10)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads, server.asked, server.over = True, [], threading.Event()
        server.body, server.made = made.read_bytes(), made

        def use(path, port=server.server_port, **changes):
            url = f"http://127.0.0.1:{port}/{path}/{made.name}"
            register(
                monkeypatch, "cifar10", **({"train": 30, "test": 20, "md5": md5} | changes), url=url
            )
            return url

        server.use = use
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.over.set()
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("path", ["whole", "unannounced"])
def test_a_missing_set_is_downloaded_once_and_read(server, tmp_path, path):
    server.use(path)
    target, totals, chunks = tmp_path / "data/cifar-10-python.tar.gz", [], 0

    def progress(iterable, total, label):
        nonlocal chunks
        for item in iterable:
            if label == "download, MiB":
                totals.append(total)
                chunks += len(item)
                assert not target.exists()  # nothing has the final name before all is there
            yield item

    one = load("cifar10", download=True, progress=progress)
    assert one.source == "official archive"
    assert chunks == len(server.body)
    assert set(totals) == {1 if path == "whole" else None}
    assert [file.name for file in target.parent.iterdir()] == [target.name]
    assert target.read_bytes() == server.body
    assert load("cifar10", download=True) is one
    assert_same(one, load("cifar10", server.made.parent))
    assert server.asked == [path]


@pytest.mark.parametrize(
    ("path", "changes", "message"),
    [
        ("whole", {"md5": "0" * 32}, f"which should be {'0' * 32}; nothing was kept"),
        ("short", {}, "which should be"),
        ("stall", {}, "timed out; nothing was kept: try again later"),
        ("refuse", {}, "404: Not Found; nothing was kept"),
        ("nobody", {"port": 1}, "refused>; nothing was kept"),
    ],
)
def test_what_is_not_whole_leaves_nothing(server, tmp_path, path, changes, message):
    url, start = server.use(path, **changes), time.monotonic()
    with pytest.raises(DataNotFound) as error:
        load("cifar10", download=True)
    assert time.monotonic() - start < 10
    target = tmp_path / "data/cifar-10-python.tar.gz"
    for text in (f"expected to fetch {url} to {target}, got", message, "by other means"):
        assert text in str(error.value)
    assert not list(target.parent.glob("*"))
    server.use("whole")
    assert load("cifar10", download=True).source == "official archive"  # and again


def test_an_interrupted_download_leaves_nothing_and_a_folder_that_cannot_be_is_named(
    server, tmp_path, monkeypatch
):
    def progress(iterable, total, label):
        yield next(iterable)
        raise KeyboardInterrupt

    server.use("whole")
    with pytest.raises(KeyboardInterrupt):
        load("cifar10", download=True, progress=progress)
    assert not list((tmp_path / "data").glob("*"))
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("FREDIST_DATA", str(tmp_path / "file"))
    with pytest.raises(
        DataNotFound, match=rf"to {tmp_path}/file/cifar.*, got .*(Not a dir|File exists)"
    ):
        load("cifar10", download=True)


# -- digits, subsets


def test_digits_are_fixed_and_need_no_network(monkeypatch):
    from sklearn.datasets import load_digits

    monkeypatch.setattr(socket, "socket", None)
    digits, theirs = load("digits", download=True), load_digits()
    assert digits.fingerprint == fingerprint("digits") == "047debcd4a476e65"
    assert digits.train_images.shape == (1437, 3, 32, 32)
    assert digits.test_labels.bincount().tolist() == [36] * 10
    assert digits.class_names == tuple("0123456789")
    assert torch.equal(digits.train_images[:, 0], digits.train_images[:, 2])
    images = torch.cat([digits.train_images, digits.test_images])[:, 0, 1::4, 1::4]
    labels = torch.cat([digits.train_labels, digits.test_labels]).tolist()
    pairs = zip(images.flatten(1).tolist(), labels, strict=True)
    ours = {(*image, k) for image, k in pairs}
    scaled = np.floor(theirs.data * 255 / 16 + 0.5).astype(int)
    assert ours == {(*row, int(k)) for row, k in zip(scaled.tolist(), theirs.target, strict=True)}
    assert len(ours) == 1797  # no image is in both


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 1437), st.integers(1, 360))
def test_a_subset_is_balanced_and_grows_by_adding(train, test):
    digits = load("digits")
    small, larger = subset(digits, train, test), subset(digits, min(train + 7, 1437), None)
    assert (len(small.train_images), len(small.test_labels)) == (train, test)
    counts = small.test_labels.bincount(minlength=10)
    assert counts.max() - counts.min() <= 1
    assert counts.tolist() == sorted(counts.tolist(), reverse=True)
    assert small.train_labels.tolist() == sorted(small.train_labels.tolist())
    rows = {image.numpy().tobytes() for image in larger.train_images}
    assert all(image.numpy().tobytes() in rows for image in small.train_images)
    assert small.fingerprint == digits.fingerprint


def test_a_subset_of_all_is_all():
    digits = load("digits")
    for everything in (subset(digits, None, None), subset(digits, 1437, 360)):
        for name in TENSORS:
            assert torch.equal(getattr(everything, name), getattr(digits, name))


@pytest.mark.parametrize("counts", [(1438, None), (None, 361), (0, None), (None, -1), (1.5, None)])
def test_a_subset_that_cannot_be_is_refused(counts):
    with pytest.raises((ValueError, TypeError), match=r"as (train|test) images of digits, got"):
        subset(load("digits"), *counts)
