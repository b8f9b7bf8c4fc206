"""`nemotron artifacts`: what the registry holds, where it came from, and whether it is whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from medvllm_programs.commands import CONTEXT, LazyGroup
from nemotron.kit.cli.recipe import complete_artifact
from nemotron.kit.errors import KitError

if TYPE_CHECKING:
    from nemotron.kit.artifacts import ArtifactRegistry

__all__ = ["artifacts"]

_registry = click.option(
    "--registry", metavar="ROOT", help="A folder or URL; without it $NEMOTRON_ARTIFACTS, else .nemotron/artifacts."
)
_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_reference = click.argument("reference", metavar="NAME[:VERSION]", shell_complete=complete_artifact)


def _open(root: str | None) -> ArtifactRegistry:
    from nemotron.kit.artifacts import ArtifactRegistry

    return ArtifactRegistry(root)


@click.group(cls=LazyGroup, context_settings=CONTEXT)
def artifacts() -> None:
    """List, show and trace artifacts."""


@artifacts.command("list", context_settings=CONTEXT)
@click.argument("name", required=False, shell_complete=complete_artifact)
@_registry
@_as_json
def list_(name: str | None, registry: str | None, as_json: bool) -> None:
    """The versions of all artifacts, or of NAME."""
    opened = _open(registry)
    found = opened.list(name)
    if as_json:
        from dataclasses import asdict

        click.echo(json.dumps([{"reference": each.reference, **asdict(each)} for each in found], indent=2))
        return
    if not found:
        click.echo(f"no artifacts in {opened.root}", err=True)
        return
    rows = [("Artifact", "Type", "Size", "Created", "Aliases")]
    rows += [
        (each.reference, each.type, _size(each.size_bytes), each.created_at[:19], ", ".join(each.aliases))
        for each in found
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    for row in rows:
        click.echo("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def _size(count: int | None) -> str:
    if count is None:
        return "in place"
    value, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


@artifacts.command(context_settings=CONTEXT)
@_reference
@_registry
@_as_json
def show(reference: str, registry: str | None, as_json: bool) -> None:
    """All that is known of a version: fields, files, who made it."""
    known: dict[str, Any] = _open(registry).show(reference)
    if as_json:
        click.echo(json.dumps(known, indent=2))
        return
    from medvllm_programs.config_text import to_yaml

    files = known.pop("files", {})
    known["files"] = {name: each["size"] for name, each in files.items()}
    click.echo(to_yaml({key: value for key, value in known.items() if value not in (None, [], {})}), nl=False)


@artifacts.command(context_settings=CONTEXT)
@_reference
@click.option("--svg", type=click.Path(path_type=Path, dir_okay=False), help="Write the picture to this file.")
@_registry
@_as_json
def lineage(reference: str, svg: Path | None, registry: str | None, as_json: bool) -> None:
    """What a version was made from, down to the sources: a tree, and with --svg a picture."""
    from nemotron.kit.artifacts import render_svg, render_tree

    node = _open(registry).lineage(reference)
    if svg is not None:
        try:
            svg.write_text(render_svg(node), "utf-8")
        except OSError as error:
            raise KitError(f"{svg}: {error.strerror}") from error
    if as_json:
        from dataclasses import asdict

        click.echo(json.dumps(asdict(node), indent=2))
    else:
        click.echo(render_tree(node))


@artifacts.command(context_settings=CONTEXT)
@_reference
@_registry
def verify(reference: str, registry: str | None) -> None:
    """Compare a version's files with their checksums; ends with 1 where one differs."""
    opened = _open(registry)
    problems = opened.verify(reference)
    if problems:
        raise KitError(f"{opened.find(reference)} is not as it was published: {'; '.join(problems)}")
    click.echo(f"{opened.find(reference)} is whole")
