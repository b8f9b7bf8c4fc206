"""The program as a whole: help, version, suggestions, options, lists, completion; and how little it imports."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest

from llenergymeasure.cli import COMMANDS
from llenergymeasure.cli._options import config_overrides, deprecated_options
from llenergymeasure.config.presets import PRESETS

if TYPE_CHECKING:
    from conftest import Lem

HEAVY = ("pydantic", "rich", "yaml", "torch", "numpy", "scipy", "transformers", "datasets", "dotenv", "questionary")


def test_help_names_every_command_and_imports_no_library() -> None:
    code = (
        "import sys\n"
        "from llenergymeasure.cli import cli\n"
        "for arguments in (['--help'], ['config', '--help'], ['config', 'new', '--help'], ['presets', '--help']):\n"
        "    cli.main(arguments, prog_name='lem', standalone_mode=False)\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    for name in COMMANDS:
        assert f"\n  {name} " in done.stdout


def test_every_command_can_be_imported(lem: Lem) -> None:
    for name in COMMANDS:
        outcome = lem(name, "-h")
        assert outcome.code == 0, f"{name}: {outcome.err}"
        assert outcome.out.startswith(f"Usage: lem {name}")


WITHOUT_TORCH = """
import sys
sys.modules.update(dict.fromkeys(["torch", "transformers", "pynvml", "codecarbon", "accelerate"]))  # can't be imported
from llenergymeasure.cli import main
for line in sys.stdin.read().splitlines():
    try:
        main(line.split())
    except SystemExit as ended:
        print(f"code {ended.code}: {line}")
"""


def test_without_torch_and_cuda_everything_but_a_run_works() -> None:
    Path("a.yaml").write_text("config_name: a\nmodel_name: m\n")
    commands = [
        "config validate a.yaml",
        "config show a.yaml",
        "config new --preset benchmark -m m -y -o b.yaml",
        "config generate-grid a.yaml --vary batch_size=1,2",
        "presets",
        "datasets",
        "gpus",
        "results list",
        "experiment a.yaml -d builtin -n 5 --dry-run",
        "campaign a.yaml b.yaml --campaign-name c --dry-run",
        "batch *.yaml --dry-run",
    ]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH],
        input="\n".join(commands),
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    assert [line for line in done.stdout.splitlines() if line.startswith("code ")] == [
        f"code 0: {command}" for command in commands
    ], done.stderr


def test_a_missing_library_is_named_with_its_extra(lem: Lem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich", None)
    outcome = lem("presets")
    assert (outcome.code, outcome.err) == (1, "Error: rich is not installed; pip install 'medvllm[lem]'\n")


@pytest.mark.parametrize("option", ["--version", "-v"])
def test_version(lem: Lem, option: str) -> None:
    assert re.fullmatch(r"lem, version \d+\.\d+\.\d+\n", lem(option).out)


def test_unknown_commands_name_the_nearest(lem: Lem) -> None:
    outcome = lem("experimnt")
    assert outcome.code == 2
    assert "Did you mean experiment?" in outcome.err
    assert "Did you mean generate-grid?" in lem("config", "generate-gird").err
    assert "Commands: validate, show, new, generate-grid" in lem("config", "xxxxxx").err


def test_verbose_logs_on_stderr(lem: Lem) -> None:
    assert lem("--verbose", "presets").code == 0


def test_presets(lem: Lem) -> None:
    shown = lem("presets").out
    for line in (
        "Fast validation (batch=1, max_out=32)",
        "Formal measurements (fp16, deterministic)",
        "Throughput testing (batch=8, dynamic batching)",
    ):
        assert line in shown
    found = json.loads(lem("presets", "--json").out)
    assert found["throughput"]["values"]["batching"] == {"batch_size": 8, "strategy": "dynamic"}
    assert list(found) == list(PRESETS) == ["quick-test", "benchmark", "throughput"]


def test_datasets(lem: Lem) -> None:
    shown = lem("datasets").out
    for parts in (
        ("ai-energy-score", "AIEnergyScore/text_generation", "text", "Default"),
        ("alpaca", "tatsu-lab/alpaca", "instruction"),
        ("sharegpt", "ShareGPT_Vicuna", "conversations"),
        ("gsm8k", "gsm8k (main)", "question"),
        ("mmlu", "cais/mmlu (all)", "question", "test"),
        ("builtin", "prompt"),
    ):
        assert any(all(part in line for part in parts) for line in shown.splitlines()), parts
    assert json.loads(lem("datasets", "--json").out)["mmlu"]["split"] == "test"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(lem: Lem, shell: str) -> None:
    assert "_LEM_COMPLETE" in lem("completion", shell).out


def test_completion_of_data_sets_and_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    from click.shell_completion import ShellComplete

    from llenergymeasure.cli import cli

    complete = ShellComplete(cli, {}, "lem", "_LEM_COMPLETE").get_completions
    assert [each.value for each in complete(["experiment", "-d"], "a")] == ["ai-energy-score", "alpaca"]
    assert complete(["experiment", "-d"], "./")[0].type == "file"
    assert [each.value for each in complete(["config", "new", "--preset"], "q")] == ["quick-test"]
    assert "generate-grid" in [each.value for each in complete(["config"], "gen")]


DEPRECATED = [
    (["--batch-size", "4"], "batching.batch_size", 4),
    (["-b", "4"], "batching.batch_size", 4),
    (["--precision", "float32"], "fp_precision", "float32"),
    (["--num-processes", "2"], "num_processes", 2),
    (["--gpu-list", "0,1"], "gpus", [0, 1]),
    (["--temperature", "0"], "decoder.temperature", 0.0),
    (["--quantization"], "quantization.quantization", True),
    (["--no-quantization"], "quantization.quantization", False),
]


@pytest.mark.parametrize(("arguments", "key", "value"), DEPRECATED)
def test_deprecated_flags_work_and_say_what_replaces_them(
    capsys: pytest.CaptureFixture[str], arguments: list[str], key: str, value: object
) -> None:
    found: dict[str, tuple[object, str]] = {}

    @click.command()
    @deprecated_options
    def command(**params: object) -> None:
        found.update(config_overrides(params))

    command.main(arguments, standalone_mode=False)
    assert [(name, given) for name, (given, _) in found.items()] == [(key, value)]
    assert found[key][1].startswith("cli --")
    err = capsys.readouterr().err
    assert err.startswith("Warning: --")
    assert f"set {key} in the configuration file" in err


def test_a_wrong_gpu_list_is_a_usage_error(lem: Lem) -> None:
    outcome = lem("experiment", "--preset", "quick-test", "-m", "m", "--gpu-list", "0;1", "--dry-run")
    assert outcome.code == 2
    assert "expected indices such as 0,1, got '0;1'" in outcome.err


def test_options_that_are_not_given_set_nothing() -> None:
    assert config_overrides({"seed": None, "cycles": None, "dataset": None}) == {}
    assert config_overrides({"seed": 0}) == {"random_seed": (0, "cli --seed")}
