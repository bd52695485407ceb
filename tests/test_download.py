"""Downloads, against a server of our own: whole or not at all."""

import hashlib
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from imagesets import CIFAR10, assert_same, random_rows, register, write_archive

from fredist.data import at_hand, load
from fredist.download import CHUNK, DownloadError, download

BODY = bytes(range(256)) * 10_000  # between two and three chunks
MD5 = hashlib.md5(BODY).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `body` in the manner the path names, and keeps the paths asked for."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.body, self.asked, self.over = BODY, [], threading.Event()

    def url(self, path):
        return f"http://127.0.0.1:{self.server_port}/{path}"


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
        if path in ("truncate", "stall"):
            body = body[:-1000]
        self.wfile.write(body)
        if path == "stall":
            self.wfile.flush()
            self.server.over.wait(30)

    def log_message(self, *_):
        """Say nothing: the tests' output is the tests'."""


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.over.set()
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("path", ["whole", "unannounced"])
def test_a_file_arrives_whole_and_once(server, tmp_path, path):
    target = tmp_path / "new" / "folder" / "file"
    seen = []

    def progress(iterable, total, label):
        assert total == (3 if path == "whole" else None)
        for chunk in iterable:
            seen.append(len(chunk))
            assert not target.exists()  # nothing has the final name before all is there
            yield chunk

    for _ in range(2):
        assert download(server.url(path), target, MD5, progress=progress) == target
        assert target.read_bytes() == BODY
    assert server.asked == [path]
    assert seen == [CHUNK, CHUNK, len(BODY) - 2 * CHUNK]
    assert [file.name for file in target.parent.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("path", "md5", "message"),
    [
        ("whole", "0" * 32, f"expected the MD5 sum {'0' * 32}, got {MD5}"),
        ("truncate", MD5, f"expected {len(BODY)} bytes, got {len(BODY) - 1000}"),
        ("stall", MD5, "timed out"),
        ("refuse", MD5, "404"),
    ],
)
def test_what_is_not_whole_leaves_nothing(server, tmp_path, path, md5, message):
    target, start = tmp_path / "file.zip", time.monotonic()
    with pytest.raises(DownloadError) as error:
        download(server.url(path), target, md5, timeout=0.5)
    assert time.monotonic() - start < 10
    for text in ("file.zip could not be fetched", message, "by other means", server.url(path)):
        assert text in str(error.value)
    assert list(tmp_path.iterdir()) == []
    assert download(server.url("whole"), target, MD5).read_bytes() == BODY  # and again


def test_no_server_is_an_error_too(server, tmp_path):
    url = server.url("whole").replace(str(server.server_port), "1")
    with pytest.raises(DownloadError, match="Try again later"):
        download(url, tmp_path / "file", MD5, timeout=5)


def test_a_wrong_file_stays_until_the_right_one_is_whole(server, tmp_path):
    target = tmp_path / "file"
    target.write_bytes(b"old")
    with pytest.raises(DownloadError):
        download(server.url("truncate"), target, MD5)
    assert target.read_bytes() == b"old"
    assert download(server.url("whole"), target, MD5).read_bytes() == BODY


def test_an_interrupted_download_leaves_nothing(server, tmp_path):
    def interrupt(iterable, total, label):
        yield next(iterable)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(server.url("whole"), tmp_path / "file", MD5, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_named(server, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DownloadError, match="target could not be fetched"):
        download(server.url("whole"), tmp_path / "file" / "target", MD5)


def test_a_missing_set_is_downloaded_once_and_read(server, tmp_path, monkeypatch):
    monkeypatch.setenv("FREDIST_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("FREDIST_CACHE", str(tmp_path / "cache"))
    made = tmp_path / "made" / "cifar-10-python.tar.gz"
    md5 = write_archive(made, random_rows(CIFAR10, 3, 2), CIFAR10)
    server.body = made.read_bytes()
    url = server.url(f"whole/{made.name}")
    register(monkeypatch, "cifar10", train=30, test=20, md5=md5, url=url)
    assert not at_hand("cifar10")
    one = load("cifar10", download=True)
    assert one.source == "official archive"
    assert at_hand("cifar10")
    assert_same(one, load("cifar10", download=True))
    assert_same(one, load("cifar10", tmp_path / "made"))
    assert server.asked == ["whole"]
