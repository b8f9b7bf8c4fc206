"""Every example of docs/CLI.md runs, and prints what the page shows."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parent.parent.parent / "docs" / "CLI.md"
TABLE = """\
┏━━━━━━━━━━┳━━━━━━━━━━━┳━━━━━━┳━━━━━━━━━━━━━━━┓
┃ Text     ┃ Type      ┃ Span ┃ Link (top)    ┃
┡━━━━━━━━━━╇━━━━━━━━━━━╇━━━━━━╇━━━━━━━━━━━━━━━┩
│ HTN      │ CONDITION │ 13–16│ UMLS:C0020538 │
│ DM       │ CONDITION │ 21–23│ UMLS:C0011849 │
└──────────┴───────────┴──────┴───────────────┘
"""


def _commands() -> list[str]:
    blocks = re.findall(r"^```bash\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    return [line for block in blocks for line in block.splitlines() if line and not line.startswith("#")]


def test_every_example_of_the_page_runs(tmp_path: Path) -> None:
    """In one folder and one home, in the order of the page, as a reader would type them."""
    commands = _commands()
    assert len(commands) > 20
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "a.txt").write_text("Denies chest pain. Hx of COPD.")
    (notes / "b.txt").write_text("Metformin 500 mg PO BID.")
    shutil.copy(notes / "a.txt", tmp_path / "note.txt")
    (tmp_path / "notes.jsonl").write_text('{"id": "n1", "text": "HTN"}\n{"id": "n2", "text": "no fever"}\n')
    environment = dict(
        os.environ,
        PYTHONPATH=os.pathsep.join(sys.path),
        MEDVLLM_HOME=str(tmp_path / "home"),
        PATH=_path(tmp_path),
    )
    failed = []
    for command in commands:
        done = subprocess.run(command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True)
        if done.returncode or not (done.stdout or "--output" in command):
            failed.append((command, done.returncode, done.stdout, done.stderr))
    assert failed == []
    assert (tmp_path / "found.jsonl").exists()
    assert (tmp_path / "ner.txt").read_text().startswith("┏━")


def _path(folder: Path) -> str:
    """A PATH on which `python` is this interpreter."""
    place = folder / "bin"
    place.mkdir()
    (place / "python").symlink_to(sys.executable)
    return f"{place}{os.pathsep}{os.environ['PATH']}"


def test_the_table_of_the_page_is_what_is_printed(run: Any) -> None:
    assert TABLE in PAGE.read_text()
    assert run("inference", "ner", "--text", "Patient with HTN and DM.").stdout == TABLE


@pytest.mark.parametrize("group", [[], ["model"], ["inference"], ["training"], ["ontology"], ["inference", "ner"]])
def test_short_help_is_help(run: Any, group: list[str]) -> None:
    short, long = run(*group, "-h"), run(*group, "--help")
    assert short.returncode == 0
    assert short.stdout == long.stdout
    assert "Usage:" in short.stdout
