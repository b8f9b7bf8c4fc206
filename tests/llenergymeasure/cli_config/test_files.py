"""What is wrong with a place to write to is said in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from llenergymeasure.errors import LemError
from llenergymeasure.files import make_folder, write_atomically, write_json


def test_a_disk_without_room_is_said() -> None:
    with pytest.raises(LemError, match=r"^can't write /dev/full: no space left on device$"):
        write_atomically(Path("/dev/full"), b"new")


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
