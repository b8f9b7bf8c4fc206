"""`medvllm model`: the model registry."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import click

from medvllm.registry import MODEL_TYPES, TASKS, ModelEntry, ModelRegistry, RegistryWarning
from medvllm_programs.commands import CONTEXT, LazyGroup, one_line, warn

__all__ = ["complete_name", "model", "open_registry"]


@contextmanager
def open_registry() -> Iterator[ModelRegistry]:
    """The user's registry; what it warns of is printed as one line each."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RegistryWarning)
        try:
            yield ModelRegistry()
        finally:
            for warning in caught:
                warn(str(warning.message))


def complete_name(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Registered names that begin so, for the shell's completion."""
    with open_registry() as registry:
        return [entry.name for entry in registry.entries() if entry.name.startswith(incomplete)]


@click.group(cls=LazyGroup, context_settings=CONTEXT)
def model() -> None:
    """Manage the model registry."""


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def _show(entry: ModelEntry) -> None:
    click.echo(f"{entry.name}{' (built in)' if entry.builtin else ''}")
    rows = {
        "path": entry.path,
        "type": entry.type,
        "tasks": ", ".join(entry.tasks),
        "tags": ", ".join(entry.tags),
        "description": entry.description,
        **{f"parameter {key}": value for key, value in entry.parameters.items()},
    }
    for key, value in rows.items():
        if value:
            click.echo(f"  {key + ':':<14}{one_line(value)}")


@model.command()
@click.argument("name")
@click.argument("path")
@click.option("--type", "kind", type=click.Choice(MODEL_TYPES), help="[default: as the model's config.json says]")
@click.option("--description", default="", help="One line about the model.")
@click.option("--tag", "tags", multiple=True, help="A tag; may be repeated.")
@click.option("--param", "params", multiple=True, metavar="KEY=VALUE", help="A parameter; may be repeated.")
@click.option("--task", "tasks", multiple=True, type=click.Choice(TASKS), help="What it can do; may be repeated.")
@click.option("--replace", is_flag=True, help="Replace an entry of the same name.")
@json_option
def register(
    name: str,
    path: str,
    kind: str | None,
    description: str,
    tags: tuple[str, ...],
    params: tuple[str, ...],
    tasks: tuple[str, ...],
    replace: bool,
    as_json: bool,
) -> None:
    """Register the model at PATH (a local path or a hub id) as NAME."""
    parameters = {}
    for param in params:
        key, separator, value = param.partition("=")
        if not separator or not key:
            raise click.BadParameter(f"expected KEY=VALUE, got {param!r}", param_hint="--param")
        parameters[key] = value
    with open_registry() as registry:
        entry = registry.register(
            name,
            path,
            type=kind,
            description=description,
            tags=list(tags),
            parameters=parameters,
            tasks=list(tasks),
            replace=replace,
        )
    click.echo(json.dumps(entry.to_dict(), indent=2) if as_json else f"Registered '{entry.name}' ({entry.path})")


@model.command()
@click.argument("name", shell_complete=complete_name)
def unregister(name: str) -> None:
    """Remove NAME from the registry; the model's files stay."""
    with open_registry() as registry:
        entry = registry.unregister(name)
    click.echo(f"Unregistered '{entry.name}'")


@model.command("list")
@click.option("--task", type=click.Choice(TASKS), help="Only models that can do this.")
@json_option
def list_models(task: str | None, as_json: bool) -> None:
    """List the registered models."""
    with open_registry() as registry:
        entries = [entry for entry in registry.entries() if task is None or task in entry.tasks]
    if as_json:
        click.echo(json.dumps([entry.to_dict() for entry in entries], indent=2))
        return
    _columns(["NAME", "TYPE", "TASKS", "PATH"], [[e.name, e.type, ",".join(e.tasks), e.path] for e in entries])


@model.command()
@click.argument("name", required=False, shell_complete=complete_name)
@click.option("--name", "name_option", metavar="NAME", help="The model, as an option.", shell_complete=complete_name)
@json_option
def info(name: str | None, name_option: str | None, as_json: bool) -> None:
    """Show what is known of a model."""
    if name and name_option and name != name_option:
        raise click.UsageError(f"two models are named, '{name}' and '{name_option}'; name one")
    wanted = name or name_option
    if not wanted:
        raise click.UsageError("name a model: medvllm model info NAME")
    with open_registry() as registry:
        entry = registry.get(wanted)
    if as_json:
        click.echo(json.dumps(entry.to_dict(), indent=2))
    else:
        _show(entry)


@model.command("list-capabilities")
@json_option
def list_capabilities(as_json: bool) -> None:
    """List which tasks each model declares."""
    with open_registry() as registry:
        entries = registry.entries()
    if as_json:
        click.echo(json.dumps({entry.name: entry.capabilities for entry in entries}, indent=2))
        return
    _columns(["NAME", "TASKS"], [[entry.name, ", ".join(entry.tasks) or "-"] for entry in entries])


@model.command("clear-cache")
def clear_cache() -> None:
    """Remove converted and compiled artefacts; registered models and their files stay."""
    freed = ModelRegistry().clear_cache()
    click.echo(f"Freed {freed / 2**20:.1f} MiB")


def _columns(header: list[str], rows: list[list[str]]) -> None:
    """Prints aligned columns, the last one as wide as it is."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header) - 1)]
    for row in [header, *[[one_line(cell) for cell in row] for row in rows]]:
        click.echo("  ".join([*(cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=True)), row[-1]]))
