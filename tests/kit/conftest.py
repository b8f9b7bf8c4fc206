"""A recipe in an empty folder, run as a user runs it: `python -m myrecipe …` and `nemotron …`."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest


class Folder:
    """A working folder with an empty home. `write(name, text)`, `run(*arguments)`, `nemotron(*arguments)`."""

    def __init__(self, place: Path, home: Path) -> None:
        self.place = place
        self.home = home

    def write(self, name: str, text: str) -> Path:
        """A file of the folder."""
        path = self.place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return path

    def run(
        self,
        *arguments: str,
        program: str = "myrecipe",
        input: str = "",
        python: str = sys.executable,
        **environment: str,
    ) -> subprocess.CompletedProcess[str]:
        """`python -m PROGRAM ARGUMENTS…`, or `python FILE.py …` where the program is a file."""
        here = [str(self.place), *(path for path in sys.path if path and "site-packages" not in path)]
        known = here if python != sys.executable else [str(self.place), *sys.path]
        own = {"PYTHONPATH": os.pathsep.join(known), "HOME": str(self.home), "OMP_NUM_THREADS": "1"}
        base = {key: value for key, value in os.environ.items() if not key.startswith(("NEMOTRON_", "WANDB_", "HF_"))}
        start = [program] if program.endswith(".py") else ["-m", program]
        return subprocess.run(
            [python, *start, *arguments],
            cwd=self.place,
            env=base | own | environment,
            input=input,
            capture_output=True,
            text=True,
        )

    def nemotron(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """`nemotron ARGUMENTS…` with the folder's recipe."""
        environment.setdefault("NEMOTRON_RECIPES", "myrecipe.__main__:app")
        return self.run(*arguments, program="nemotron.cli", **environment)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """An empty folder and an empty home."""
    for name in ("work", "home"):
        (tmp_path / name).mkdir()
    return Folder(tmp_path / "work", tmp_path / "home")


RECIPE = '''
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Literal

from nemotron.kit import App


class Colour(Enum):
    RED = 1
    BLUE = 2


@dataclass
class Optimizer:
    """How it learns.

    Attributes:
        lr: the learning rate,
            at its peak.
    """

    lr: float = 1e-3
    kind: Literal["adam", "sgd"] = "adam"
    decay: float = field(default=0.0, repr=False)
    clip: float = field(default=1.0, repr=False)


@dataclass
class Config:
    blend_path: Path  # the blend's file
    output_dir: Path
    """where the shards go"""
    # how many files
    # to write
    num_shards: int = 128
    sample: int | None = None
    force: bool = False
    layers: list[int] = field(default_factory=list)
    limits: dict[str, float] = field(default_factory=dict)
    pair: tuple[int, str] = (1, "a")
    colour: Colour = Colour.RED
    name: str = field(default="x", metadata={"help": "a name"})
    start: int = field(default=0, repr=False)
    optimizer: Optimizer = field(default_factory=lambda: Optimizer(lr=0.5))


def main(cfg: Config) -> None:
    """Make the shards."""
    print(cfg)


app = App("myrecipe", description="My training recipe")
data = app.group("data", description="Data commands")
data.group("prep").command("run", Config, main)
if __name__ == "__main__":
    app.run()
'''


@pytest.fixture
def recipe(folder: Folder) -> Folder:
    """A folder with the recipe above, and the two configurations of the documents."""
    folder.write("myrecipe/__main__.py", RECIPE)
    folder.write(
        "myrecipe/config/default.yaml",
        """\
        blend_path: ${oc.env:PWD}/data_blend.json
        output_dir: ${oc.env:PWD}/output
        num_shards: 16
        """,
    )
    folder.write(
        "myrecipe/config/tiny.yaml",
        """\
        blend_path: ${oc.env:PWD}/data_blend.json
        output_dir: ${oc.env:PWD}/output
        num_shards: 4
        sample: 1000
        """,
    )
    return folder


RANKS_SCRIPT = """\
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from nemotron.kit.train_script import load_omegaconf_yaml, omegaconf_to_dataclass, parse_config_and_overrides


@dataclass
class Config:
    out: Path = Path("out")
    fail: int = 0


def main(cfg: Config | None = None) -> None:
    if cfg is None:
        path, _ = parse_config_and_overrides()
        cfg = omegaconf_to_dataclass(load_omegaconf_yaml(path), Config)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        import torch.distributed

        torch.distributed.init_process_group("gloo")
        ranks = torch.tensor([torch.distributed.get_rank() + 1])
        torch.distributed.all_reduce(ranks)
        torch.distributed.destroy_process_group()
        print("sum of ranks", int(ranks), flush=True)
    print("folder", os.getcwd() == os.environ["NEMOTRON_CODE"], "note", os.environ["NOTE"], flush=True)
    print("token", sum(map(ord, os.environ.get("HF_TOKEN", ""))), flush=True)
    if os.environ.get("RANK", "0") == "0":
        cfg.out.write_text(os.environ["NEMOTRON_JOB"])
    if cfg.fail:
        sys.exit(cfg.fail)


if __name__ == "__main__":
    main()
"""
RANKS_APP = """\
from nemotron.kit import App
from ranks import train

app = App("ranks")
app.command("go", train.Config, train.main, script_path=train.__file__)
app.command("handled", train.Config, train.main)
if __name__ == "__main__":
    app.run()
"""


@pytest.fixture
def ranks(folder: Folder) -> Folder:
    """A folder with the package `ranks`: processes that add their ranks up, or fail with a code."""
    folder.write("ranks/train.py", RANKS_SCRIPT)
    folder.write("ranks/__main__.py", RANKS_APP)
    return folder


@pytest.fixture(scope="session")
def nemo_run_python() -> str:
    """An interpreter with NeMo-Run: $NEMO_RUN_PYTHON (tools/peers/make.py nemo_run FOLDER makes one), else this one."""
    given = os.environ.get("NEMO_RUN_PYTHON")
    if given:
        return given
    if importlib.util.find_spec("nemo_run") is None:
        pytest.skip("NeMo-Run is not installed; set NEMO_RUN_PYTHON to an interpreter of tools/peers/make.py nemo_run")
    return sys.executable
