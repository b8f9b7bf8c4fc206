"""Which files a run over many notes reads: folders as users have them, and never its own output."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from medvllm.errors import MedvllmError
from medvllm.tasks.batch_plan import Plan, is_batch, plan


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder `notes` in the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes").mkdir()
    return Path("notes")


def _write(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("HTN\n")


def test_equal_names_in_several_folders_are_several_notes(notes: Path) -> None:
    _write(notes, "a/note.txt", "b/note.txt", "note.txt")
    assert plan(["notes"]).files == ("notes/a/note.txt", "notes/b/note.txt", "notes/note.txt")
    assert len(plan(["notes", "notes/note.txt", "notes/*.txt"]).files) == 3, "one file is read once"


def test_hidden_folders_hold_copies_and_other_files_are_named(notes: Path) -> None:
    _write(notes, "a.txt", ".ipynb_checkpoints/a-checkpoint.txt", ".b.txt", "letter.docx", "old.docx", "README")
    made = plan(["notes"])
    assert made.files == ("notes/a.txt",)
    (remark,) = made.remarks
    assert remark.startswith("3 files that do not end in .txt")
    assert remark.endswith("are left out (.docx, no ending)")


def test_links_are_followed_once_and_broken_ones_are_reported(notes: Path) -> None:
    _write(Path("elsewhere"), "far.txt")
    _write(notes, "a.txt")
    (notes / "away").symlink_to(Path.cwd() / "elsewhere")
    (notes / "loop").symlink_to(Path.cwd() / "notes")
    (notes / "gone.txt").symlink_to("nothing.txt")
    os.mkfifo(notes / "pipe.txt")
    made = plan(["notes"])
    assert made.files == ("notes/a.txt", "notes/away/far.txt", "notes/gone.txt")
    assert made.fingerprint() != plan(["notes/a.txt"]).fingerprint()
    assert sum(piece.notes for piece in made.pieces()) == 3


def test_a_file_that_vanishes_stops_no_other(notes: Path) -> None:
    _write(notes, "a.txt", "b.txt")
    made = plan(["notes"])
    (notes / "a.txt").unlink()
    assert [list(piece.files) for piece in made.pieces()] == [["notes/a.txt", "notes/b.txt"]]


def test_the_output_and_its_work_files_are_no_input(notes: Path) -> None:
    _write(notes, "a.txt")
    output = notes / "found.jsonl"
    before = plan(["notes/*"], leave_out=output)
    _write(notes, "found.jsonl.part", "found.jsonl.state")
    assert plan(["notes/*"], leave_out=output).fingerprint() == before.fingerprint(), "an interrupted run goes on"
    output.write_text('{"id": "a", "entities": []}\n')
    for value in ("notes", "notes/*"):
        made = plan([value], leave_out=output)
        assert made.files == ("notes/a.txt",)
        assert made.remarks == ()


def test_the_output_replaces_no_note(notes: Path) -> None:
    _write(notes, "a.txt")
    (notes / "b.jsonl").write_text('{"id": 1, "text": "HTN"}\n')
    for name in ("a.txt", "b.jsonl"):
        with pytest.raises(MedvllmError, match=f"notes/{name} is one of the notes; choose another --output"):
            plan(["notes"], leave_out=notes / name)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("notes", "notes holds no notes; they end in .txt"),
        ("notes/*.txt", r"no file matches notes/\*.txt"),
        ("nothing.txt", "there is no file nothing.txt"),
    ],
)
def test_nothing_to_do_is_an_error(notes: Path, value: str, message: str) -> None:
    with pytest.raises(MedvllmError, match=message):
        plan([value])


def test_json_lines_that_no_line_can_be_read_of(notes: Path) -> None:
    wide = notes / "wide.jsonl"
    wide.write_bytes('{"text": "HTN"}\n'.encode("utf-16"))
    with pytest.raises(MedvllmError, match="can't be read in UTF-16 or UTF-32; convert them: iconv -t UTF-8"):
        plan([str(wide)])
    with pytest.raises(MedvllmError, match="can't be read in UTF-16"):
        plan([str(wide)], encoding="utf-16-le")
    with pytest.raises(MedvllmError, match="unknown encoding 'utf8x'"):
        plan([str(wide)], encoding="utf8x")
    os.mkfifo(notes / "p.jsonl")
    with pytest.raises(
        MedvllmError, match="is a pipe or a device, and JSON lines are read twice; pipe them in: --input -"
    ):
        plan(["notes/p.jsonl"])
    if os.geteuid():
        wide.chmod(0)
        with pytest.raises(MedvllmError, match=r"can't be read \(Permission denied\)"):
            plan([str(wide)])


def test_what_is_many(notes: Path) -> None:
    assert is_batch(["notes"])
    assert is_batch(["a.NDJSON"])
    assert not is_batch(["a.txt"])
    assert is_batch(["a.txt", "b.txt"])


@pytest.mark.parametrize("skip", [0, 1, 3, 256, 700, 900, 901])
def test_pieces_go_on_at_any_note(notes: Path, skip: int) -> None:
    lines = [f'{{"id": {number}}}\n' + ("\r\n" if number % 7 == 0 else "") for number in range(900)]
    (notes / "n.jsonl").write_text("".join(lines))
    _write(notes, "z.txt")
    made: Plan = plan(["notes"])
    pieces = list(made.pieces(skip))
    assert sum(piece.notes for piece in pieces) == max(0, 901 - skip)
    data = (notes / "n.jsonl").read_bytes()
    read = b"".join(data[piece.start : piece.end] for piece in pieces if piece.is_range)
    assert [line for line in read.split(b"\n") if line.strip()] == [
        line.split("\n")[0].encode() for line in lines[skip:]
    ]
