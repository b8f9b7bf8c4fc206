"""Every example of docs/cli.md and docs/campaigns.md runs; those that need the hub, with --dry-run."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent.parent
ID = "exp_20240115_123456"
LAUNCHER = "accelerate launch --num_processes 2 -m llenergymeasure.orchestration.launcher "
DRY = ("experiment", "batch", "campaign", "schedule")

Lem = Callable[..., Any]


def examples(page: str) -> list[str]:
    """The commands of a page's bash blocks, continued lines joined."""
    blocks = re.findall(r"^```bash\n(.*?)^```", (ROOT / "docs" / page).read_text(), re.M | re.S)
    text = "".join(blocks).replace("\\\n", " ")
    return [" ".join(line.split()) for line in text.splitlines() if line.strip() and not line.startswith("#")]


@pytest.fixture
def workplace(tmp_path: Path, tiny_model: Path) -> Path:
    """What the examples name: configurations, and an experiment that was interrupted before its first request."""
    from llenergymeasure.config import resolve
    from llenergymeasure.orchestration.state import StateStore
    from llenergymeasure.prompts import load_prompts

    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    (tmp_path / "configs" / "grid").mkdir()
    for name in ("config.yaml", "base.yaml", "configs/grid/one.yaml"):
        shutil.copy(ROOT / "configs" / "base.yaml", tmp_path / name)
    (tmp_path / "tiny.yaml").write_text(
        f"config_name: tiny\nmodel_name: {tiny_model}\nfp_precision: float32\nmax_output_tokens: 4\n"
        "max_input_tokens: 64\nwarmup: {max: 1, min: 1}\nrandom_seed: 0\ndataset: {name: builtin, sample_size: 2}\n"
    )
    resolved = resolve(tmp_path / "tiny.yaml")
    states = StateStore(tmp_path / "results")
    state = states.create(
        config=resolved.config.model_dump(mode="json"),
        provenance=resolved.provenance,
        config_hash=resolved.config_hash(),
        prompts=load_prompts(resolved.config).source,
        num_processes=1,
    )
    states.folder(state.experiment_id).rename(states.folder(ID))
    left = state.model_copy(update={"experiment_id": ID, "status": "interrupted", "owner": None})
    (states.folder(ID) / "state.json").write_text(left.model_dump_json())
    return tmp_path


def more_results(folder: Path) -> None:
    """Another experiment and a campaign, of the figures that the resumed one measured."""
    from llenergymeasure.results.store import ResultStore

    store = ResultStore(folder / "results")
    raw = store.raws(ID)[0].result
    copies: dict[str, dict[str, Any]] = {"exp_20240116_123456": {}}
    for name in ("pytorch", "vllm"):
        for cycle in (0, 1):
            tags = {"campaign": "backend-comparison", "campaign_config": name, "campaign_cycle": cycle}
            copies[f"exp_{name}_{cycle}"] = {"config": raw.config | {"extra_metadata": tags}}
    for experiment_id, changes in copies.items():
        store.write_raw(raw.model_copy(update={"experiment_id": experiment_id, **changes}))
        store.aggregate(experiment_id)


def arguments(command: str) -> Iterator[list[str]]:
    """The command line of lem that stands for an example."""
    if command.startswith(LAUNCHER):
        from llenergymeasure.orchestration.launcher import experiment_arguments

        yield [*experiment_arguments(shlex.split(command.removeprefix(LAUNCHER))), "--dry-run"]
        return
    words = shlex.split(command)
    assert words.pop(0) == "lem", command
    if words[0] in DRY and "--resume" not in words and "--dry-run" not in words:
        words.append("--dry-run")
    if words[:2] == ["config", "new"]:
        words += ["--yes", "--model", "meta-llama/Llama-2-7b-hf"]
    yield words


def test_every_example_runs(lem: Lem, workplace: Path) -> None:
    """In one folder, in the order of the pages."""
    commands = examples("cli.md") + examples("campaigns.md")
    assert len(commands) > 35
    failed = []
    for command in commands:
        if command == f"lem aggregate {ID}":
            (workplace / "results" / "aggregated" / f"{ID}.json").unlink()
        for words in arguments(command):
            ran = lem(*words)
            if ran.code or not (ran.stdout or "--all" in words):
                failed.append((command, ran.code, ran.stdout, ran.stderr))
        if "--resume" in command:
            more_results(workplace)
    assert failed == []
    assert (workplace / "report.html").is_file()
    assert len(list((workplace / "grid").glob("*.yaml"))) == 8
    assert len(list((workplace / "configs" / "grid").glob("*.yaml"))) > 1


@pytest.mark.parametrize("path", sorted((ROOT / "configs").rglob("*.yaml")), ids=lambda path: path.name)
def test_every_configuration_is_valid_and_says_nothing_doubtful(path: Path) -> None:
    from llenergymeasure.campaigns.plan import is_campaign_file, load_campaign
    from llenergymeasure.config import resolve

    if is_campaign_file(path):
        found = load_campaign(path)
        assert all((path.parent / each).is_file() for each in found.configs)
    else:
        assert resolve(path, environ={}).findings == ()
    assert path.read_text().startswith("#")
