"""Where things are: with a home or without one, and on systems that sync no folders."""

import os
import pwd
import runpy
import shutil
import stat

import pytest

from fredist import paths


@pytest.fixture
def no_home(monkeypatch):
    """A user without a home, as in a container that runs under any number."""

    def unknown(number):
        raise KeyError(number)

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


def test_without_a_home_only_what_is_not_named_is_an_error(no_home, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "in_checkout", lambda: False)
    for name in ("CACHE", "DATA", "RUNS", "FIGURES"):
        monkeypatch.setenv(f"FREDIST_{name}", str(tmp_path / name))
        assert getattr(paths, f"{name.lower()}_folder")() == tmp_path / name
    monkeypatch.delenv("FREDIST_RUNS")
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    with pytest.raises(RuntimeError, match=r"folder as XDG_DATA_HOME, got '~/\.local"):
        paths.runs_folder()


def test_a_relative_folder_of_xdg_is_ignored(tmp_path, monkeypatch):
    """It would be another folder in each notebook, which run in folders of their own."""
    monkeypatch.setattr(paths, "in_checkout", lambda: False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for variable, default, found in (
        ("XDG_CACHE_HOME", ".cache/fredist", paths.cache_folder),
        ("XDG_DATA_HOME", ".local/share/fredist/runs", paths.runs_folder),
    ):
        for name in ("CACHE", "RUNS"):
            monkeypatch.delenv(f"FREDIST_{name}", raising=False)
        for named in ("my/place", "."):
            monkeypatch.setenv(variable, named)
            assert found() == tmp_path / default
        monkeypatch.setenv(variable, str(tmp_path / "place"))
        assert found().is_relative_to(tmp_path / "place" / "fredist")


def test_an_unknown_home_names_the_variable_and_its_value(monkeypatch):
    monkeypatch.setenv("FREDIST_RUNS", "~nosuch/x")
    with pytest.raises(RuntimeError, match="FREDIST_RUNS, got '~nosuch/x', a home that is not"):
        paths.runs_folder()


def test_a_project_with_a_copy_of_the_package_is_no_checkout(tmp_path):
    for name in ("fredist", "notebooks"):
        (tmp_path / name).mkdir()
    for name in ("pyproject.toml", "notebooks/mine.ipynb"):
        (tmp_path / name).touch()
    copy = shutil.copy(paths.__file__, tmp_path / "fredist")
    assert not runpy.run_path(copy)["in_checkout"]()
    assert paths.in_checkout()


def test_a_system_that_syncs_no_folders_costs_no_descriptors(tmp_path, monkeypatch):
    sync = os.fsync

    def refuse(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(22, "Invalid argument")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)
    before = len(os.listdir("/proc/self/fd"))
    for text in "abc":
        paths.write_whole(tmp_path / "file", text)
    assert len(os.listdir("/proc/self/fd")) == before
    assert (tmp_path / "file").read_text() == "c"


def test_what_a_killed_process_was_writing_is_removed_and_not_what_a_living_one_writes(tmp_path):
    old, new = (tmp_path / f".a.npz.{digit * 32}.tmp" for digit in "0f")
    others = {tmp_path / name for name in (".mine.tmp", "c.tmp")}
    for path in (old, new, *others):
        path.touch()
        os.utime(path, (0, 0) if path != new else None)
    paths.clear(tmp_path)
    assert set(tmp_path.iterdir()) == {new, *others}
    paths.clear(tmp_path / "none")
