"""`lem config new`: a configuration made of answers."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import click

from llenergymeasure.cli._findings import show_findings
from llenergymeasure.config.choices import BACKENDS, PRECISIONS
from llenergymeasure.config.presets import PRESETS, PURPOSES, preset_values
from llenergymeasure.errors import LemError, LemUsageError
from medvllm_programs.commands import note

__all__ = ["DEFAULT_MODEL", "make_config"]

DEFAULT_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"  # open, and small enough for any machine


def make_config(
    *, output: str | None, preset: str | None, model: str | None, name: str | None, yes: bool, force: bool
) -> None:
    """Asks, or takes the defaults; checks; writes.

    Raises:
        LemUsageError: there is no terminal to ask on, and not --yes.
        LemError: the file is there, or can't be written.
    """
    from llenergymeasure.config.builder import Layer, resolve_layers
    from llenergymeasure.files import make_folder, write_atomically
    from medvllm_programs.config_text import to_yaml
    from medvllm_programs.files import shown

    if yes:
        values = _by_default(preset, model, name)
    elif sys.stdin.isatty() and sys.stdout.isatty():
        values = _by_questions(preset, model, name)
    else:
        raise LemUsageError("questions need a terminal; without one give --preset, --model and -y")
    resolved = resolve_layers([Layer(values, "the answers")])
    show_findings(resolved.findings)
    text = f"# Made by `lem config new{f' --preset {preset}' if preset else ''}`.\n{to_yaml(values)}"
    if output == "-":
        click.echo(text, nl=False)
        return
    path = Path(output or f"configs/{values['config_name']}.yaml").expanduser()
    if path.exists() and not force and (yes or not _asked_to_replace(path)):
        raise LemError(f"{shown(path)} is there already; give another --output, or --force to replace it")
    if not output:
        make_folder(path.parent)
    write_atomically(path, text.encode())
    click.echo(f"Wrote {shown(path)}")


def _by_default(preset: str | None, model: str | None, name: str | None) -> dict[str, Any]:
    if model is None:
        note(f"model_name is {DEFAULT_MODEL}; give --model for another")
        model = DEFAULT_MODEL
    named = {"config_name": name or _name(preset, model), "model_name": model}
    return named | (preset_values(preset) if preset else {})


def _name(preset: str | None, model: str) -> str:
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", model.rstrip("/").rsplit("/", 1)[-1]).strip("-.").lower()
    return f"{stem or 'model'}-{preset or 'experiment'}"


def _by_questions(preset: str | None, model: str | None, name: str | None) -> dict[str, Any]:
    import questionary

    if preset is None:
        choices = [questionary.Choice(f"{each}: {PURPOSES[each]}", each) for each in PRESETS]
        preset = _ask(questionary.select("Start from", [*choices, questionary.Choice("defaults", "")])) or None
    model = model or _ask(questionary.text("Model (a folder or a name on the hub)", DEFAULT_MODEL, validate=bool))
    name = name or _ask(questionary.text("Name of the configuration", _name(preset, model), validate=bool))
    values: dict[str, Any] = {"config_name": name, "model_name": model}
    values |= preset_values(preset) if preset else {}
    values["backend"] = _ask(questionary.select("Backend", list(BACKENDS), default="pytorch"))
    values["fp_precision"] = _ask(questionary.select("Precision", list(PRECISIONS), default="float16"))
    batch = values.get("batching", {}).get("batch_size", 1)
    answer = _ask(questionary.text("Batch size", str(batch), validate=_is_count))
    values["batching"] = values.get("batching", {}) | {"batch_size": int(answer)}
    dataset = _ask(questionary.text("Data set (`lem datasets`, or a path)", "ai-energy-score", validate=bool))
    prompts = _ask(questionary.text("Number of prompts", "100", validate=_is_count))
    values["dataset"] = {"name": dataset, "sample_size": int(prompts)}
    cycles = _ask(questionary.text("Cycles, 1 to 10", "1", validate=lambda text: _is_count(text) and int(text) <= 10))
    values["num_cycles"] = int(cycles)
    if _ask(questionary.confirm("Measure latency token by token (streaming)?", default=False)):
        values["streaming"] = True
    return values


def _is_count(text: str) -> bool:
    return text.isdecimal() and int(text) > 0


def _asked_to_replace(path: Path) -> bool:
    import questionary

    return bool(_ask(questionary.confirm(f"{path} is there. Replace it?", default=False)))


def _ask(question: Any) -> Any:
    """The answer; Ctrl-C ends the program as everywhere."""
    return question.unsafe_ask()
