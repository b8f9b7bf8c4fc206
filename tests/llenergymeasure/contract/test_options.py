"""The options that the contract names, and the tables of docs/cli.md: keys, data sets, presets."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click
import pytest

from llenergymeasure.cli import cli
from llenergymeasure.config.builder import known_fields, known_keys
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.config.presets import PURPOSES
from llenergymeasure.prompts.aliases import ALIASES

PAGE = Path(__file__).parent.parent.parent.parent / "docs" / "cli.md"
OPTIONS = {
    "": "--version -v --verbose",
    "experiment": "--dataset -d --prompts -p --sample-size -n --split --column --preset --model -m --backend "
    "--streaming --streaming-warmup --max-tokens --seed --cycles -c --no-aggregate --fresh --resume --results-dir -o "
    "--yes -y --dry-run --force --batch-size -b --precision --num-processes --gpu-list --temperature --quantization",
    "batch": "--dataset -d --sample-size -n --parallel --dry-run",
    "campaign": "--campaign-name --dataset -d --sample-size -n --cycles -c --structure --warmup-prompts "
    "--warmup-timeout --config-gap --cycle-gap --seed --results-dir -o --dry-run --yes -y",
    "schedule": "--interval -i --at --days --duration -d --dataset --sample-size -n --model -m --preset "
    "--results-dir -o",
    "aggregate": "--all --results-dir -o --force -f --strict --no-strict --allow-mixed-backends",
    "config validate": "",
    "config show": "",
    "config new": "--output -o --preset",
    "config generate-grid": "--vary --output-dir -o --validate --strict",
    "results list": "--results-dir -o --all -a",
    "results show": "--results-dir -o --raw --json",
    "gpus": "",
    "datasets": "",
    "presets": "",
}


def command_of(name: str) -> click.Command:
    command: click.Command = cli
    for part in name.split():
        assert isinstance(command, click.Group)
        found = command.get_command(click.Context(command), part)
        assert found is not None, name
        command = found
    return command


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_of_the_contract_is_there(name: str) -> None:
    there = {text for each in command_of(name).params for text in (*each.opts, *each.secondary_opts)}
    assert set(OPTIONS[name].split()) <= there


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_is_in_the_docs(name: str) -> None:
    pages = PAGE.read_text() + PAGE.with_name("campaigns.md").read_text()
    for text in OPTIONS[name].split():
        assert re.search(rf"(?<![\w-]){re.escape(text)}(?![\w-])", pages), text


def default_of(key: str) -> str:
    """A key's default as the table shows it."""
    models: list[Any] = [ExperimentConfig]
    field = None
    for part in key.split("."):
        model = next(each for each in models if part in each.model_fields)
        field, models = model.model_fields[part], known_fields(model)[part]
    assert field is not None
    if field.is_required():
        return "required"
    return f"`{json.dumps(field.get_default(call_default_factory=True))}`"


def test_the_table_of_keys_is_that_of_the_configuration() -> None:
    table = PAGE.read_text().split("## Configuration keys")[1]
    rows = re.findall(r"^\| `(\S+)` \| (.*?) \|", table, re.M)
    assert dict(rows) == {key: default_of(key) for key in known_keys()}
    assert [key for key, _ in rows] == list(known_keys())


def test_the_tables_of_data_sets_and_presets_are_the_programs() -> None:
    """A cell that differs, a row that is missing, and another order are seen."""
    section = PAGE.read_text().split("## gpus, datasets, presets")[1].split("\n## ")[0]
    rows = [
        tuple(cell.strip() for cell in line.strip("|").split("|")) for line in section.splitlines() if "| `" in line
    ]
    listed = [(f"`{name}`", alias.source, alias.column, alias.notes) for name, alias in ALIASES.items()]
    assert rows == [*listed, *((f"`{name}`", purpose) for name, purpose in PURPOSES.items())]
