"""Runs the real program in a process of its own, as a user does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


class Program:
    """run(*arguments, input=None, **environment) → the finished process, in an empty folder with an empty home."""

    def __init__(self, work: Path, home: Path) -> None:
        self.work = work
        self.home = home

    def __call__(
        self, *arguments: str, input: str | bytes = b"", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        own = {"PYTHONPATH": os.pathsep.join(sys.path), "HOME": str(self.home), "MEDVLLM_HOME": str(self.home / "m")}
        done = subprocess.run(
            [sys.executable, "-m", "medvllm.cli", *arguments],
            cwd=self.work,
            env=os.environ | own | environment,
            input=input.encode() if isinstance(input, str) else input,
            capture_output=True,
        )
        return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.fixture
def run(tmp_path: Path) -> Program:
    """The program, to be called with its arguments."""
    for name in ("work", "home"):
        (tmp_path / name).mkdir()
    return Program(tmp_path / "work", tmp_path / "home")
