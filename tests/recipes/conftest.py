"""A recipe small enough for seconds: forty short texts, a model of two thin layers."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

TEXT = "patient takes metformin daily for diabetes and lisinopril against hypertension while the nurse notes pain"
WORDS = TEXT.split()


@pytest.fixture(autouse=True)
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NEMOTRON_ARTIFACTS", str(tmp_path / "registry"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "registry"


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A blend file over two folders: notes whose words follow each other in a fixed order, and Python functions."""
    chance = random.Random(3)
    for index in range(40):
        start = chance.randrange(len(WORDS))
        words = [WORDS[(start + at) % len(WORDS)] for at in range(120)]
        write(tmp_path / "notes" / f"note{index:02d}.txt", " ".join(words) + f".\nVisit {index}.\n")
        code = f'def add_{index}(a, b, *rest):\n    """Add {index} and more."""\n    return a + b + {index}\n'
        write(tmp_path / "code" / f"module{index:02d}.py", code)
    blend = tmp_path / "blend_of_text.json"
    blend.write_text(
        json.dumps(
            {
                "datasets": [
                    {"name": "notes", "path": "notes", "pattern": "*.txt", "weight": 0.75},
                    {"name": "code", "path": "code", "pattern": ["*.py"], "weight": 0.25},
                ]
            }
        )
    )
    return blend


def write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


@pytest.fixture
def stage(registry: Path) -> Callable[..., subprocess.Popen[str]]:
    """Starts `python -m nemotron.recipes.nano3 …` in the test's folder."""

    def start(*arguments: str, torchrun: str | None = None) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "nemotron.recipes.nano3", *arguments]
        if torchrun is not None:
            launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", torchrun]
            command = [sys.executable, *launcher, *arguments]
        env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return start
