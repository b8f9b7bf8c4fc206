"""Runs training in processes of its own, forked from this one: they can be killed, and torch is imported only once."""

from __future__ import annotations

import importlib
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ENTRYPOINT = Path(__file__).parent / "tiny_entrypoint.py"


@dataclass
class Child:
    """A forked process; its output goes to files."""

    pid: int
    folder: Path

    def wait(self) -> tuple[int, str, str]:
        """Exit code (negative: the signal that ended it), stdout and stderr."""
        _, status = os.waitpid(self.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        return code, (self.folder / "out").read_text(), (self.folder / "err").read_text()

    def after(self, rows: int, metrics: Path) -> Child:
        """Waits until so many lines of metrics are written."""
        end = time.monotonic() + 60
        while not metrics.exists() or metrics.read_text().count("\n") < rows:
            assert time.monotonic() < end, "no metrics in 60 s"
            time.sleep(0.001)
        return self

    def send(self, number: int) -> Child:
        os.kill(self.pid, number)
        return self


class Fork:
    """fork(function, **environment) → Child; fork.cli("train", …) runs a command line."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = 0

    def __call__(self, function: Callable[[], Any], **environment: str) -> Child:
        self.count += 1
        folder = self.folder / f"process-{self.count}"
        folder.mkdir()
        pid = os.fork()
        if pid:
            return Child(pid, folder)
        code = 1
        try:
            for number, name in ((1, "out"), (2, "err")):
                os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT), number)
            sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.environ.update(environment)
            import torch

            torch.set_num_threads(1)  # the threads of the parent are not in the child
            function()
            code = 0
        except SystemExit as leave:
            code = leave.code if isinstance(leave.code, int) else 0
        except BaseException:  # noqa: BLE001 (the child must end here, whatever it was)
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def cli(self, *arguments: str, file_limit: int | None = None, **environment: str) -> Child:
        """`medvllm` with these arguments, in the folder `work`; no file can grow beyond `file_limit` bytes."""

        def run() -> None:
            import medvllm.cli

            if file_limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))

            os.chdir(self.folder / "work")
            sys.argv = ["medvllm", *arguments]
            medvllm.cli.main()

        (self.folder / "work").mkdir(exist_ok=True)
        return self(run, **{"MEDVLLM_HOME": str(self.folder / "home"), **environment})

    def train(self, output: Path, *arguments: str, **environment: Any) -> Child:
        """`medvllm training train` of the tiny model into `output`."""
        given = ("--entrypoint", f"{ENTRYPOINT}:build", "--output", str(output), "--no-plot", *arguments)
        return self.cli("training", "train", *given, **environment)

    def ranks(self, count: int, output: Path, *arguments: str) -> None:
        """The same in several ranks, as torchrun starts them."""
        import socket

        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        job = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        children = [
            self.train(output, *arguments, RANK=str(rank), LOCAL_RANK=str(rank), **job) for rank in range(count)
        ]
        ended = [child.wait() for child in children]
        assert [code for code, _, _ in ended] == [0] * count, ended


@pytest.fixture(scope="session", autouse=True)
def _imported() -> None:
    """What the children need is imported before they are forked."""
    for name in (
        "torch._dynamo",
        "transformers.models.bert.modeling_bert",
        "medvllm.cli.training_commands",
        "medvllm.training.trainer",
    ):
        importlib.import_module(name)


@pytest.fixture
def fork(tmp_path: Path) -> Fork:
    return Fork(tmp_path)
