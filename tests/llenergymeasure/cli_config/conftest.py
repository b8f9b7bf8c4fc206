"""A folder, and `lem` in this process as a user calls it: exit code, stdout, stderr."""

from __future__ import annotations

import dataclasses
import io
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llenergymeasure.cli import main


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a command left."""

    code: int
    out: str
    err: str


Lem = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LLM_ENERGY_RESULTS_DIR", raising=False)
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture
def lem(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Lem:
    """`lem("config", "show", "a.yaml")`, through the program's own entry with its error handling."""

    def call(*arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "stdin", io.StringIO())
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        captured = capsys.readouterr()
        return Outcome(int(ended.value.code or 0), captured.out, captured.err)

    return call
