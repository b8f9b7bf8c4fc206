"""`lem config`: validate, show, new, generate-grid."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llenergymeasure.cli._findings import show_findings, warn_of_missing
from llenergymeasure.cli._options import config_overrides, model_option, preset_option
from llenergymeasure.errors import LemError, LemUsageError
from medvllm_programs.commands import CONTEXT, LazyGroup, note

if TYPE_CHECKING:
    from llenergymeasure.config import Resolved

__all__ = ["config"]


@click.group(cls=LazyGroup, context_settings=CONTEXT)
def config() -> None:
    """Validate, show and make configurations."""


@config.command(context_settings=CONTEXT)
@click.argument("files", metavar="CONFIG...", nargs=-1, required=True, type=click.Path(path_type=Path))
def validate(files: tuple[Path, ...]) -> None:
    """Check configuration files: syntax, keys, values, what they extend, and whether the values go together.

    Exit code 1: one has errors or can't be read; 2: it has unknown keys or values that do not fit.
    """
    code = max(_validate(path) for path in files)
    click.get_current_context().exit(code)


def _validate(path: Path) -> int:
    """Prints what is to be said of one file; 0 where it is valid, even if this machine can't run it."""
    from llenergymeasure.campaigns.plan import is_campaign_file, load_campaign
    from llenergymeasure.config import ConfigError, resolve
    from medvllm_programs.files import shown

    try:
        if is_campaign_file(path):
            codes = [_validate(path.parent / each) for each in load_campaign(path).configs]
            wrong = sum(code > 0 for code in codes)
            verdict = f"{wrong} of its {len(codes)} configurations are not valid" if wrong else "valid campaign"
            click.echo(f"{shown(path)}: {verdict}")
            return max(codes)
        resolved = resolve(path)
    except ConfigError as error:
        for problem in error.problems:
            note(problem, kind="Error")
        return 2
    except LemUsageError as error:
        note(str(error), kind="Error")
        return 2
    except LemError as error:
        note(str(error), kind="Error")
        return 1
    show_findings(resolved.findings)
    warn_of_missing([resolved.config.backend])
    errors = sum(finding.severity == "error" for finding in resolved.findings)
    click.echo(f"{shown(path)}: {f'{errors} error(s)' if errors else 'valid'}")
    return 1 if errors else 0


@config.command(context_settings=CONTEXT)
@click.argument("file", metavar="[CONFIG]", required=False, type=click.Path(path_type=Path))
@preset_option
@model_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON: values, their origins, remarks.")
def show(file: Path | None, preset: str | None, model: str | None, as_json: bool) -> None:
    """Show a configuration with all its values, and where each came from.

    The origins are default, env, preset, file:line and cli. Into a pipe it prints YAML that can be used again.
    """
    from llenergymeasure.config import resolve

    if file is None and preset is None:
        raise click.UsageError("give a configuration file, or --preset with --model")
    resolved = resolve(file, preset=preset, overrides=config_overrides({"model": model}))
    if as_json:
        _show_json(resolved)
        return
    show_findings(resolved.findings)
    if sys.stdout.isatty():
        _show_table(resolved)
    else:
        click.echo(_as_yaml(resolved), nl=False)


def _show_json(resolved: Resolved) -> None:
    import dataclasses

    from llenergymeasure.cli._show import print_json

    print_json(
        {
            "path": str(resolved.path) if resolved.path else None,
            "config": resolved.config.model_dump(mode="json"),
            "provenance": resolved.provenance,
            "findings": [dataclasses.asdict(finding) for finding in resolved.findings],
            "config_hash": resolved.config_hash(),
        }
    )


def _show_table(resolved: Resolved) -> None:
    from llenergymeasure.cli._show import print_table
    from llenergymeasure.config.builder import dotted

    values = dotted(resolved.config.model_dump(mode="json"))
    rows = [(key, _flow(value), resolved.provenance[key]) for key, value in values.items()]
    print_table(None, ("Key", "Value", "From"), rows)


def _flow(value: object) -> str:
    """A value in YAML's notation, in one line."""
    import json

    from medvllm_programs.config_text import parse_value

    try:
        if isinstance(value, str) and parse_value(value) == value and "#" not in value and value == value.strip():
            return value
    except ValueError:  # a text that needs quotes
        pass
    return json.dumps(value, ensure_ascii=False)


def _as_yaml(resolved: Resolved) -> str:
    lines: list[str] = []

    def add(data: dict[str, Any], at: tuple[str, ...]) -> None:
        for name, value in data.items():
            indent = "  " * len(at)
            if isinstance(value, dict) and value:
                lines.append(f"{indent}{_flow(name)}:")
                add(value, (*at, name))
            else:
                origin = resolved.provenance[".".join((*at, name))]
                lines.append(f"{indent}{_flow(name)}: {_flow(value)}  # {origin}")

    add(resolved.config.model_dump(mode="json"), ())
    return "\n".join(lines) + "\n"


@config.command(context_settings=CONTEXT)
@click.option("--output", "-o", metavar="FILE", help="Output path; - for stdout.  [default: configs/NAME.yaml]")
@preset_option
@model_option
@click.option("--name", metavar="NAME", help="config_name.  [default: of the preset and the model]")
@click.option("--yes", "-y", is_flag=True, help="Ask nothing; take the defaults of what is not given.")
@click.option("--force", is_flag=True, help="Replace a file that is there.")
def new(output: str | None, preset: str | None, model: str | None, name: str | None, yes: bool, force: bool) -> None:
    """Make a configuration by answering questions; without a terminal, of --preset with -y."""
    from llenergymeasure.cli._new import make_config

    make_config(output=output, preset=preset, model=model, name=name, yes=yes, force=force)


@config.command("generate-grid", context_settings=CONTEXT)
@click.argument("base", metavar="BASE_CONFIG", type=click.Path(path_type=Path))
@click.option("--vary", multiple=True, metavar="KEY=V,V", help="Values of a key to vary; may be repeated.")
@click.option(
    "--output-dir",
    "-o",
    type=click.Path(path_type=Path),
    default=Path("configs/grid"),
    show_default=True,
    help="Output directory.",
)
@click.option("--validate", "only_valid", is_flag=True, help="Leave out what would not be valid.")
@click.option("--strict", is_flag=True, help="Write nothing and fail where one would not be valid.")
def generate_grid(base: Path, vary: tuple[str, ...], output_dir: Path, only_valid: bool, strict: bool) -> None:
    """Make a configuration of each combination of values over BASE_CONFIG.

    A key is dotted (decoder.top_p), or the last part of one where that is clear: batch_size, fp_precision, temperature.
    """
    from llenergymeasure.config.grid import combinations, parse_vary, write_grid
    from medvllm_programs.files import shown

    if not vary:
        raise click.UsageError("give at least one --vary, such as --vary batch_size=1,2,4")
    varied = parse_vary(vary)
    made = combinations(base, varied)
    broken = [each for each in made if each.problem]
    for each in broken:
        note(f"{each.name}: {each.problem}", kind="Error" if strict else "Warning")
    if broken and strict:
        raise LemError(f"{len(broken)} of {len(made)} configurations would not be valid; nothing was written")
    chosen = [each for each in made if not (only_valid and each.problem)]
    if not chosen:
        raise LemError(f"none of {len(made)} configurations is valid; nothing was written")
    paths = write_grid(output_dir, chosen)
    sizes = " × ".join(f"{len(values)} {key}" for key, values in varied.items())
    left_out = f", {len(made) - len(chosen)} left out" if len(made) > len(chosen) else ""
    invalid = f", {len(broken)} of them not valid" if broken and not only_valid else ""
    click.echo(f"{sizes} = {len(made)} combination(s); {len(paths)} written to {shown(output_dir)}/{left_out}{invalid}")
    for path in paths:
        click.echo(f"  {path.name}")
    others = len(list(output_dir.glob("*.yaml"))) - len(paths)
    if others:
        note(f"{shown(output_dir)} holds {others} other configuration(s), which a pattern such as *.yaml matches too")
