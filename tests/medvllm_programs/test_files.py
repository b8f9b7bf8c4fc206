"""Writing of files: whole or not at all; and the lock between processes."""

from __future__ import annotations

import os
import resource
import signal
import threading
from pathlib import Path

import pytest

from medvllm_programs.files import file_lock, json_bytes, shown, write_atomically


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_new_file_gets_its_mode_by_the_umask_and_an_old_one_keeps_its_own() -> None:
    before = os.umask(0o027)
    try:
        write_atomically(Path("a"), b"new")
    finally:
        os.umask(before)
    assert Path("a").stat().st_mode & 0o7777 == 0o640
    Path("a").chmod(0o711)
    write_atomically(Path("a"), b"newer")
    assert Path("a").stat().st_mode & 0o7777 == 0o711
    assert Path("a").read_bytes() == b"newer"


def test_a_link_stays_one() -> None:
    Path("a").write_text("old")
    Path("link").symlink_to("a")
    Path("to_nothing").symlink_to("made")
    write_atomically(Path("link"), b"new")
    write_atomically(Path("to_nothing"), b"new")
    assert Path("link").is_symlink()
    assert Path("a").read_text() == Path("made").read_text() == "new"


def test_a_pipe_is_written_to() -> None:
    os.mkfifo("pipe")
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(Path("pipe").read_bytes()), daemon=True)
    reader.start()
    write_atomically(Path("pipe"), b"new")
    reader.join(60)
    assert read == [b"new"]
    assert Path("pipe").is_fifo()


def test_the_longest_name_can_be_written() -> None:
    name = "名" * 85  # 255 bytes
    write_atomically(Path(name), b"new")
    assert os.listdir() == [name]


def test_a_disk_without_room_leaves_the_old_file() -> None:
    Path("a").write_text("old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_atomically(Path("a"), b"x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert Path("a").read_text() == "old"
    assert os.listdir() == ["a"]


def test_what_is_in_the_way_is_told_apart() -> None:
    Path("file").write_text("")
    Path("folder").mkdir()
    for name, kind in (("no/a", FileNotFoundError), ("file/a", NotADirectoryError), ("folder", IsADirectoryError)):
        with pytest.raises(kind):
            write_atomically(Path(name), b"")


def test_a_lock_that_is_held_is_not_waited_for() -> None:
    with file_lock(Path("lock")) as first, file_lock(Path("lock"), wait=False) as second:
        assert (first, second) == (True, False)
    with file_lock(Path("lock"), wait=False) as again:
        assert again


def test_paths_are_shown_from_the_working_folder(tmp_path: Path) -> None:
    assert shown(tmp_path / "a" / "b") == shown(Path("a/../a/b")) == "a/b"
    assert shown(Path("..")) == str(tmp_path.parent)


def test_json_has_no_numbers_that_are_none() -> None:
    assert json_bytes({"é": 1}) == '{\n  "é": 1\n}\n'.encode()
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_bytes([float("nan")])


def test_an_error_names_the_file_that_was_asked_for(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        write_atomically(tmp_path / "missing" / "out.json", b"")
    assert caught.value.filename == str(tmp_path / "missing" / "out.json")
