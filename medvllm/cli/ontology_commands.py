"""`medvllm ontology`: what vocabularies there are, what a term means in them, and adding one's own."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from medvllm.cli._click import CONTEXT, LazyGroup

if TYPE_CHECKING:
    from medvllm.ontology.importer import Progress

__all__ = ["ontology"]


@click.group(cls=LazyGroup, context_settings=CONTEXT)
def ontology() -> None:
    """Look into the vocabularies that entities are linked to, and add your own."""


@ontology.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_vocabularies(as_json: bool) -> None:
    """List the names that --ontology takes, with how many codes each has here."""
    from medvllm.ontology.store import VOCABULARIES, OntologyStore
    from medvllm.ontology.user_stores import user_stores

    counts: dict[str, int] = {}
    for layer in OntologyStore.open(user=user_stores()).info():
        for name in VOCABULARIES:
            counts[name] = counts.get(name, 0) + int(layer.get(f"count.{name} codes", 0))
    if as_json:
        click.echo(json.dumps({name: counts.get(name, 0) for name in VOCABULARIES if name != "ALL"}, indent=2))
        return
    for name in VOCABULARIES:
        if name == "ALL":
            click.echo(f"{name:<10}every code of every vocabulary")
        else:
            click.echo(f"{name:<10}{counts.get(name, 0):>9,} codes")


@ontology.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def info(as_json: bool) -> None:
    """Show the stores in use: their sources, editions, licences and checksums."""
    from medvllm.ontology.store import OntologyStore
    from medvllm.ontology.user_stores import user_stores

    layers = OntologyStore.open(user=user_stores()).info()
    if as_json:
        click.echo(json.dumps(layers, indent=2, ensure_ascii=False))
        return
    for layer in layers:
        click.echo(layer["path"])
        for key, value in layer.items():
            if key != "path":
                click.echo(f"  {key}: {value}")


@ontology.command()
@click.argument("term")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def lookup(term: str, as_json: bool) -> None:
    """Show what TERM (a phrase, or a code such as I10) means and its codes everywhere."""
    from medvllm.errors import MedvllmError
    from medvllm.ontology.store import OntologyStore
    from medvllm.ontology.user_stores import user_stores

    found = OntologyStore.open(user=user_stores()).lookup(term)
    if as_json:
        rows = [
            {
                "name": entry.concept.name,
                "type": entry.concept.type,
                "match": entry.kind,
                "detected": entry.found_in_text,
                "codes": entry.concept.xrefs,
            }
            for entry in found
        ]
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
    for entry in [] if as_json else found:
        click.echo(f"{entry.concept.name} ({entry.concept.type or 'no type'}; {entry.kind})")
        for vocabulary, codes in entry.concept.xrefs.items():
            click.echo(f"  {vocabulary:<9}{', '.join(codes)}")
    if not found:
        raise MedvllmError(f"no vocabulary here has the term '{term}'")


@ontology.command("import")
@click.option("--rrf", type=click.Path(path_type=Path), help="MRCONSO.RRF of UMLS, or RXNCONSO.RRF of RxNorm.")
@click.option("--csv", "csv_file", type=click.Path(path_type=Path), help="A CSV: term,code,vocabulary[,type,name].")
@click.option("--name", help="What to call it  [default: the file's name]")
@click.option(
    "--language", "languages", multiple=True, default=["ENG"], show_default=True, help="RRF: languages to take."
)
@click.option("--source", "sources", multiple=True, help="RRF: only these source vocabularies (SAB); may be repeated.")
def import_vocabulary(
    rrf: Path | None, csv_file: Path | None, name: str | None, languages: tuple[str, ...], sources: tuple[str, ...]
) -> None:
    """Add your own vocabulary; it is used from then on, before the built-in ones.

    An interrupted import goes on where it was when the same command is given again.
    """
    from medvllm.ontology.importer import import_csv, import_rrf
    from medvllm.ontology.user_stores import user_store_folder

    if (rrf is None) == (csv_file is None):
        raise click.UsageError("give one of --rrf and --csv")
    source = rrf or csv_file
    assert source is not None
    folder = user_store_folder(name or source.stem)
    if rrf is not None:
        counts = import_rrf(
            rrf, folder, languages=languages, sabs=sources or None, progress=_Bar() if sys.stderr.isatty() else None
        )
    else:
        counts = import_csv(source, folder)
    click.echo(f"Imported {', '.join(f'{count:,} {what}' for what, count in counts.items())} into {folder}")


class _Bar:
    """A progress bar over the bytes of the files that are imported."""

    def __init__(self) -> None:
        self._shown = -1

    def __call__(self, progress: Progress) -> None:
        """Draws the bar where a percent has changed."""
        percent = 100 * progress.done_bytes // max(progress.total_bytes, 1)
        if percent != self._shown:
            self._shown = percent
            end = "\n" if progress.done_bytes >= progress.total_bytes else ""
            click.echo(f"\rImporting  [{'#' * (percent // 4):<25}]  {percent:3}%{end}", err=True, nl=False)


def _complete_store(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    from medvllm.ontology.user_stores import user_stores

    names = [Path(store).name for store in user_stores()]
    return [name for name in names if name.startswith(incomplete)]


@ontology.command()
@click.argument("name", shell_complete=_complete_store)
def remove(name: str) -> None:
    """Remove an imported vocabulary."""
    import shutil

    from medvllm.errors import MedvllmError
    from medvllm.ontology.user_stores import user_store_folder

    folder = user_store_folder(name)
    if not folder.is_dir():
        raise MedvllmError(f"no imported vocabulary is called '{name}'; see: medvllm ontology info")
    shutil.rmtree(folder)
    click.echo(f"Removed {folder}")
