"""The recipe of docs/kit/cli.md, copied block by block into an empty folder, runs; so do the commands of the page."""

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

DOCS = Path(__file__).parent.parent.parent / "docs"
PAGE = DOCS / "kit" / "cli.md"
CLUSTER = """\
[MY-CLUSTER]
executor = "slurm"
account = "my-account"
partition = "batch"
nodes = 2
gpus_per_node = 8
"""


def _blocks(language: str, page: Path = PAGE) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.M | re.S)


@pytest.fixture
def built(folder: Any) -> Any:
    """The files that the page names, and text to work on."""
    named = 0
    for block in (*_blocks("python"), *_blocks("yaml")):
        name = re.match(r"# ([\w./]+\.(?:py|yaml))", block)
        if name and name.group(1) != "config.yaml":
            folder.write(f"myrecipe/{name.group(1)}", block)
            named += 1
    assert named == 6
    folder.write("text.txt", "the cat sat on the mat and the dog sat on the cat\n" * 200)
    folder.write("data_blend.json", json.dumps({"train": ["text.txt"]}))
    folder.write("env.toml", CLUSTER)
    return folder


def _programs(folder: Any) -> str:
    place = folder.home / "bin"
    place.mkdir(exist_ok=True)
    for name, module in (("nemotron", "nemotron.cli"), ("python", "")):
        script = place / name
        run = f"-m {module} " if module else ""
        script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {run}"$@"\n')
        script.chmod(0o755)
    return f"{place}{os.pathsep}{os.environ['PATH']}"


def _shell(folder: Any, command: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NEMOTRON_")}
    paths = os.pathsep.join(path for path in sys.path if path)
    environment |= {"PATH": _programs(folder), "HOME": str(folder.home), "PYTHONPATH": paths}
    environment |= {"NEMOTRON_RECIPES": "myrecipe.__main__:app"}
    command = command.replace("PYTHONPATH=.", f"PYTHONPATH=.:{paths}")
    return subprocess.run(
        ["bash", "-ec", command],
        cwd=folder.place,
        env=environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )


def test_every_command_of_the_page_runs_in_its_order(built: Any) -> None:
    commands = [line for block in _blocks("bash") for line in block.splitlines() if line and not line.startswith("#")]
    assert len(commands) == 9
    outputs = {}
    for command in commands:
        done = _shell(built, command)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        outputs[command] = done.stdout + done.stderr
    first = outputs["nemotron myrecipe data prep run -c tiny"]
    assert "MyRecipe-data:v1" in first
    assert len(list((built.place / "output").glob("*.txt"))) >= 2
    assert (built.place / ".nemotron/artifacts/MyRecipe-model/v2").is_dir()
    lineage = outputs["nemotron artifacts lineage MyRecipe-model"]
    assert "MyRecipe-model:v2" in lineage
    assert "MyRecipe-data:v2" in lineage
    assert "text.txt" in lineage
    dry = outputs["nemotron myrecipe train --art.data MyRecipe-data:v1 --dry-run"]
    assert f"data_path: {built.place}/.nemotron/artifacts/MyRecipe-data/v1" in dry
    cluster = outputs["nemotron myrecipe train --run MY-CLUSTER --dry-run"]
    for said in (
        "SlurmExecutor",
        "account: my-account",
        "torchrun_nproc_per_node: 8",
        "myrecipe.train:main",
        "nodes: 2",
    ):
        assert said in cluster


def test_overrides_options_and_the_sample(built: Any) -> None:
    done = _shell(built, "nemotron myrecipe data prep run -c tiny --num-shards 3 sample=30")
    assert done.returncode == 0, done.stderr
    shards = sorted((built.place / "output").glob("*.txt"))
    assert [len(shard.read_text().split()) for shard in shards] == [10, 10, 10]
    shown = json.loads(_shell(built, "nemotron artifacts show MyRecipe-data --json").stdout)
    assert shown["metadata"]["total_tokens"] == 30
    assert shown["producer"]["command"] == "myrecipe data prep run"


def test_the_script_by_itself_takes_overrides_and_checks_them(built: Any) -> None:
    script = "PYTHONPATH=. python myrecipe/data_prep.py"
    done = _shell(built, f"{script} --config tiny num_shards=7")
    assert done.returncode == 0, done.stderr
    assert len(list((built.place / "output").glob("*.txt"))) == 7
    for arguments, code, said in (
        ("num_shard=7", 1, "num_shard: no such field in DataPrepConfig. Did you mean num_shards?"),
        ("num_shards=x", 1, "num_shards: expected an integer, got 'x'"),
        ("--config none.yaml", 1, "there is no configuration file none.yaml"),
        ("--shards 3", 2, "expected --config FILE and KEY=VALUE, got '--shards'"),
    ):
        failed = _shell(built, f"{script} {arguments}")
        assert failed.returncode == code, failed.stderr
        assert said in failed.stderr
        assert failed.stderr.count("\n") == 1


def test_a_default_of_another_command_is_left_to_it(built: Any) -> None:
    """config/default.yaml lies beside both scripts and is the data preparation's."""
    _shell(built, "nemotron myrecipe data prep run -c tiny")
    done = _shell(built, "nemotron myrecipe train --checkpoint-dir c2")
    assert done.returncode == 0, done.stderr
    assert "is the configuration of myrecipe data prep run; not used here" in done.stderr
    assert (built.place / "c2" / "unigrams.json").exists()
    planned = _shell(built, "nemotron myrecipe train --run MY-CLUSTER --dry-run")
    assert planned.stderr.count("not used here") == 1, planned.stderr


def test_a_missing_artifact_lists_the_near_ones(built: Any) -> None:
    _shell(built, "nemotron myrecipe data prep run -c tiny")
    done = _shell(built, "nemotron myrecipe train --art.data MyRecipe-dat:latest")
    assert done.returncode == 1
    assert "MyRecipe-data" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("Error: ")
    assert "Traceback" not in done.stderr
    preview = _shell(built, "rm -r .nemotron; nemotron myrecipe train --dry-run")
    assert preview.returncode == 0, preview.stderr
    assert "data_path: ${art:data,path}" in preview.stdout
    assert "artifact data is not there yet" in preview.stderr


def test_a_chosen_artifact_wins_over_the_file_and_a_flag_over_both(built: Any) -> None:
    _shell(built, "nemotron myrecipe data prep run -c tiny")
    built.write("mine.yaml", "data_path: from-file\n")
    stored = f"{built.place}/.nemotron/artifacts/MyRecipe-data/v1"
    show = "nemotron myrecipe train --dry-run -c mine.yaml"
    assert "data_path: from-file" in _shell(built, show).stdout
    assert f"data_path: {stored}" in _shell(built, f"{show} --art.data MyRecipe-data:v1").stdout
    assert "data_path: typed" in _shell(built, f"{show} --art.data MyRecipe-data:v1 --data-path typed").stdout


def test_a_version_alone_is_one_of_the_default_artifact(built: Any) -> None:
    for _ in range(2):
        _shell(built, "nemotron myrecipe data prep run -c tiny")
    for typed, version in (("v1", 1), ("1", 1), ("latest", 2), ("art://MyRecipe-data:v1", 1)):
        done = _shell(built, f"nemotron myrecipe train --dry-run --art.data {typed}")
        assert f"data_path: {built.place}/.nemotron/artifacts/MyRecipe-data/v{version}" in done.stdout, done.stderr
    missing = _shell(built, "nemotron myrecipe train --art.data v10")
    assert missing.returncode == 1
    assert "MyRecipe-data has no v10" in missing.stderr.splitlines()[-1]


def test_artifacts_that_a_file_names(built: Any) -> None:
    """The block `config.yaml` of the page, with the artifact it names."""
    (block,) = [block for block in _blocks("yaml") if block.startswith("# config.yaml")]
    built.write("config.yaml", block.replace("PretrainBlendsArtifact-default", "MyRecipe-data"))
    built.write(
        "named.py",
        """\
        from dataclasses import dataclass, field
        from nemotron.kit import App

        @dataclass
        class Recipe:
            per_split_data_args_path: str = ""
            tokens: int = 0

        @dataclass
        class Config:
            recipe: Recipe = field(default_factory=Recipe)

        app = App("named")
        app.command("go", Config, lambda cfg: print(cfg))
        app.run()
        """,
    )
    for sample in (30, 40):
        _shell(built, f"nemotron myrecipe data prep run -c tiny sample={sample}")
    stored = f"{built.place}/.nemotron/artifacts/MyRecipe-data"
    assert f"'{stored}/v2/blend.json'" in _shell(built, "python named.py go -c config.yaml").stdout
    older = _shell(
        built, "python named.py go -c config.yaml --art.data MyRecipe-data:v1 'recipe.tokens=${art:data,total_tokens}'"
    )
    assert f"'{stored}/v1/blend.json', tokens=30" in older.stdout, older.stderr


def test_the_artifact_example_of_the_overview_runs(folder: Any) -> None:
    (block,) = _blocks("python", DOCS / "kit.md")
    folder.write("example.py", block)
    folder.write("checkpoint/weights.txt", "1")
    done = _shell(folder, "python example.py")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("2.5")
    (block,) = _blocks("bash", DOCS / "kit.md")
    for command in block.splitlines():
        ran = _shell(folder, command)
        assert ran.returncode == 0, (command, ran.stderr)
        assert "My-model" in ran.stdout
    assert "<svg" in (folder.place / "lineage.svg").read_text()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("nano3 pretrain -c config/tiny.yaml", "data_path: ${art:data,path}"),
        ("nano3 pretrain -c tiny train.train_iters=5000", "train_iters: 5000"),
        ("nano3 pretrain --run MY-CLUSTER", "-m nemotron.recipes.nano3.stage0_pretrain.train --config"),
        ("nano3 pretrain --batch MY-CLUSTER", "mode: detached"),
        ("nano3 train --art.data PretrainBlendsArtifact-v2:latest", "PretrainBlendsArtifact-v2/v1"),
        ("nano3 data prep pretrain", "configuration"),
        ("nano3 data prep sft", "configuration"),
        ("nano3 data prep rl", "configuration"),
    ],
)
def test_the_commands_of_the_first_recipe_can_be_previewed(folder: Any, command: str, said: str) -> None:
    """Before anything is prepared; an artifact that was typed must be there."""
    folder.write("env.toml", CLUSTER)
    missing = _shell(folder, f"NEMOTRON_RECIPES= nemotron {command} --dry-run")
    if "--art" in command:
        assert missing.returncode == 1
        assert "no artifact 'PretrainBlendsArtifact-v2'" in missing.stderr
        folder.write(
            "make.py",
            """\
            from nemotron.kit import PretrainBlendsArtifact
            made = PretrainBlendsArtifact(path="blend", total_tokens=1, source_datasets=[])
            made.save(name="PretrainBlendsArtifact-v2")
            """,
        )
        assert _shell(folder, "python make.py").returncode == 0
    done = _shell(folder, f"NEMOTRON_RECIPES= nemotron {command} --dry-run")
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
