"""The examples of docs/TRAINER.md, and of docs/CLI.md about training, run as they stand and in their order."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[3] / "docs"
ENTRYPOINT = Path(__file__).parent / "tiny_entrypoint.py"


def blocks(page: str, language: str) -> list[str]:
    found: list[str] = re.findall(rf"^```{language}\n(.*?)^```", page, re.M | re.S)
    return found


def commands(page: str, language: str = "shell") -> list[list[str]]:
    """The arguments of each command, comments and line ends taken away."""
    joined = "\n".join(blocks(page, language)).replace("\\\n", " ")
    return [shlex.split(line) for line in joined.splitlines() if line and not line.startswith("#")]


def run_all(fork: Any, given: list[list[str]], **environment: str) -> list[tuple[str, str]]:
    printed = []
    for command in given:
        assert command[:3] == ["python", "-m", "medvllm.cli"], command
        code, out, err = fork.cli(*command[3:], **environment).wait()
        assert code == 0, (command, err)
        printed.append((out, err))
    return printed


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


def test_the_trainers_page(fork: Any, work: Path) -> None:
    page = (DOCS / "TRAINER.md").read_text()
    own, in_python = blocks(page, "python")
    (work / "doses.py").write_text(own)
    (work / "doses.json").write_text('{"examples": 512}')
    given = [command for command in commands(page) if "export" not in command]
    assert len(given) == 5
    printed = run_all(fork, given)
    assert "eval accuracy:" in printed[0][0]
    assert json.loads((work / "runs" / "doses" / "trainer.json").read_text())["result"]["metrics"]["loss"] < 0.01
    assert "going on from" in printed[-1][1]
    assert (work / "toy_run" / "loss.png").read_bytes().startswith(b"\x89PNG")

    def run_python() -> None:
        os.chdir(work)
        exec(in_python, {})

    code, out, err = fork(run_python).wait()
    assert code == 0, err
    assert float(out.split()[0]) > 0.7


def test_the_training_section_of_the_command_lines_page(fork: Any, work: Path) -> None:
    page = (DOCS / "CLI.md").read_text().split("\n## Training\n")[1].split("\n## ")[0]
    (work / "mypkg").mkdir()
    body = ENTRYPOINT.read_text()
    (work / "mypkg" / "my_module.py").write_text(body.replace("def build(", "def build_training_objects("))
    (work / "configs").mkdir()
    (work / "configs" / "train_small.json").write_text('{"examples": 50}')
    (work / "entrypoint.py").write_text(body)
    (work / "config.json").write_text("{}")
    given = [[part.replace("/abs/path/to", str(work)) for part in command] for command in commands(page)]
    assert len(given) == 3
    run_all(fork, given)
    for run in ("toy_run", "runs/exp1", "runs/path_exp"):
        assert (work / run / "model.safetensors").exists()
    assert json.loads((work / "runs" / "exp1" / "trainer.json").read_text())["config"] == {"examples": 50}


@pytest.mark.slow
def test_the_commands_of_several_processes_and_export(fork: Any, work: Path) -> None:
    page = (DOCS / "TRAINER.md").read_text()
    run_all(fork, [command for command in commands(page) if "toy_run" in " ".join(command)])
    assert (work / "toy_run" / "model.onnx").exists()
    for command in commands(page, "sh"):
        assert command[0] == "torchrun"
        done = subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", "--master-port", "29871", *command[1:]],
            cwd=work,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        result = json.loads((work / command[-1] / "trainer.json").read_text())["result"]
        assert result["ranks"] == 2
        assert result["metrics"]["accuracy"] > 0.8
