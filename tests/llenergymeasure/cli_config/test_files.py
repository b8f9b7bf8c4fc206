"""Writing of files: whole or not at all, with errors in one line."""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path

import pytest

from llenergymeasure.errors import LemError
from llenergymeasure.files import make_folder, write_atomically, write_json


def test_a_file_keeps_its_mode_and_a_link_stays_one() -> None:
    Path("a").write_text("old")
    Path("a").chmod(0o640)
    Path("link").symlink_to("a")
    write_atomically(Path("link"), b"new")
    assert Path("link").is_symlink()
    assert Path("a").read_text() == "new"
    assert Path("a").stat().st_mode & 0o777 == 0o640


def test_a_disk_without_room_leaves_the_old_file() -> None:
    Path("a").write_text("old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(LemError, match=r"^can't write a: file too large$"):
            write_atomically(Path("a"), b"x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert Path("a").read_text() == "old"
    assert os.listdir() == ["a"]


def test_what_is_in_the_way_is_named() -> None:
    Path("file").write_text("")
    with pytest.raises(LemError, match=r"^file/x can't be a folder: a file is in its place|can't be a folder"):
        make_folder(Path("file/x"))
    with pytest.raises(LemError, match=r"^there is no folder no; make it first$"):
        write_atomically(Path("no/a"), b"")
    make_folder(Path("x/y"))
    with pytest.raises(LemError, match=r"^x is a folder; a file is needed$"):
        write_atomically(Path("x"), b"")


def test_json_has_no_numbers_that_are_none() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(Path("a.json"), {"a": float("nan")})
    assert not Path("a.json").exists()
