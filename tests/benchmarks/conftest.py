"""Runs a benchmark as a user does: in this process, which has torch already, or as a program of its own."""

from __future__ import annotations

import contextlib
import io
import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks"


class Done(NamedTuple):
    """How it ended. `report` is None where stdout is not JSON."""

    code: int
    report: Any
    stderr: str


def _done(code: int, stdout: str, stderr: str) -> Done:
    try:
        return Done(code, json.loads(stdout), stderr)
    except ValueError:
        return Done(code, None, stderr)


@pytest.fixture
def run_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Done]]:
    """`run_benchmark("imaging", "--iters=2", MEDVLLM_…="1")` starts the file as __main__, in this process.

    On one thread: beside other tests two threads took 379 s for a training that takes one thread 32 s (two cores).
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.delenv("BUILD_WORKING_DIRECTORY", raising=False)

    def run(name: str, *arguments: str, **environment: str) -> Done:
        program = str(FOLDER / f"benchmark_{name}.py")
        stdout, stderr = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(stdout):
            patch.setattr(sys, "argv", [program, *arguments])
            for variable in {"MEDVLLM_ENABLE_TRITON_SOFTMAXV", *environment}:  # --enable-triton-softmaxv sets the first
                patch.setenv(variable, environment.get(variable, ""))
            with contextlib.redirect_stderr(stderr), pytest.raises(SystemExit) as ended:
                runpy.run_path(program, run_name="__main__")
        return _done(int(ended.value.code or 0), stdout.getvalue(), stderr.getvalue())

    yield run
    torch.set_num_threads(threads)


@pytest.fixture
def program(tmp_path: Path) -> Callable[..., Done]:
    """The same in a process of its own; `before` is Python that runs there instead of the file."""

    def run(name: str, *arguments: str, before: str = "", **environment: str) -> Done:
        path = FOLDER / f"benchmark_{name}.py"
        command = [sys.executable, str(path), *arguments]
        if before:
            prelude = f"import sys; sys.path.insert(0, {str(FOLDER)!r}); sys.argv = {[str(path), *arguments]!r}\n"
            command = [sys.executable, "-c", f"{prelude}import _repo_path\n{before}"]
        settings = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=settings)
        return _done(done.returncode, done.stdout, done.stderr)

    return run
