"""Fetch one file over the network: time-out, checksum, and never a half-written file."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import math
import os
import urllib.request
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path

CHUNK = 1 << 20  # 1 MiB: the unit in which progress is reported

# How progress is shown is the caller's business: `progress(iterable, total, label)` yields
# the iterable's items. fredist.progress has the bar; None stays silent.
Progress = Callable[[Iterable, int | None, str], Iterable]


class DownloadError(OSError):
    """A file could not be fetched whole; says which one, why, and what to do."""


def silent(iterable: Iterable, total: int | None, label: str) -> Iterable:
    """Return the iterable as it is: the progress display that shows nothing.

    Examples
    --------
    >>> list(silent("ab", 2, "letters"))
    ['a', 'b']
    """
    return iterable


def md5_of(path: str | os.PathLike) -> str:
    """Return the MD5 sum of a file as 32 hexadecimal digits.

    MD5 because that is what the data sets' publishers give; it detects damage, not malice.

    Examples
    --------
    >>> md5_of(os.devnull)
    'd41d8cd98f00b204e9800998ecf8427e'
    """
    digest = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def download(
    url: str,
    target: str | os.PathLike,
    md5: str,
    *,
    timeout: float = 30.0,
    progress: Progress | None = None,
) -> Path:
    """Return `target`, fetched from `url` if it is not there with the right checksum.

    The bytes go to a uniquely named ``.part`` sibling which takes the final name only when
    its checksum is right, so a file under the final name is always whole.

    Parameters
    ----------
    url : str
        Where the file is.
    target : path
        The file to write; its folder is made if missing.
    md5 : str
        The expected MD5 sum, 32 hexadecimal digits.
    timeout : float
        Seconds without a byte after which the server is given up.
    progress : callable, optional
        ``progress(iterable, total, label)`` wraps the chunks of 1 MiB.

    Raises
    ------
    DownloadError
        The server stalled, refused or sent something else than expected.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> _ = (folder / "there").write_bytes(b"whole")
    >>> md5 = md5_of(folder / "there")
    >>> download((folder / "there").as_uri(), folder / "copy", md5).read_bytes()
    b'whole'
    """
    target = Path(target)
    if target.is_file() and md5_of(target) == md5:
        return target
    part = target.with_name(f"{target.name}.{uuid.uuid4().hex}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _fetch(url, part, timeout, progress or silent)
        if (found := md5_of(part)) != md5:
            raise OSError(f"expected the MD5 sum {md5}, got {found}")
        os.replace(part, target)
    except (OSError, http.client.HTTPException) as error:
        raise DownloadError(
            f"{target.name} could not be fetched: {error}. Nothing was kept. Try again later, or "
            f"get {url} by other means and put it at {target}."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
    return target


def _fetch(url: str, part: Path, timeout: float, progress: Progress) -> None:
    """Copy the body to `part`; a body shorter than announced is an error."""
    with urllib.request.urlopen(url, timeout=timeout) as response, open(part, "wb") as file:
        size = int(response.headers.get("Content-Length") or 0)
        chunks = iter(lambda: response.read(CHUNK), b"")
        file.writelines(progress(chunks, math.ceil(size / CHUNK) or None, "download, MiB"))
        if size and file.tell() != size:
            raise OSError(f"expected {size} bytes, got {file.tell()}")
