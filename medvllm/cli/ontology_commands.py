"""`medvllm ontology`: what vocabularies there are, what a term means in them, and adding one's own."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from medvllm_programs.commands import CONTEXT, LazyGroup, one_line

if TYPE_CHECKING:
    from medvllm.ontology.importer import Progress
    from medvllm.ontology.store import OntologyStore

__all__ = ["ontology"]


@click.group(cls=LazyGroup, context_settings=CONTEXT)
def ontology() -> None:
    """Look into the vocabularies that entities are linked to, and add your own."""


def _store() -> OntologyStore:
    from medvllm.ontology.store import OntologyStore
    from medvllm.ontology.user_stores import user_stores

    return OntologyStore.open(user=user_stores())


@ontology.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_vocabularies(as_json: bool) -> None:
    """List the names that --ontology takes, with how many codes each has here."""
    counts = _store().code_counts()
    if as_json:
        click.echo(json.dumps(counts, indent=2))
        return
    for name, count in counts.items():
        click.echo(f"{one_line(name):<10}{count:>9,} codes")
    click.echo(f"{'ALL':<10}every code of every vocabulary")


@ontology.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def info(as_json: bool) -> None:
    """Show the stores in use: their sources, editions, licences and checksums."""
    layers = _store().info()
    if as_json:
        click.echo(json.dumps(layers, indent=2, ensure_ascii=False))
        return
    for layer in layers:
        click.echo(f"{one_line(layer['path'])}: {int(layer['count.terms']):,} terms, SHA-256 {layer['content_sha256']}")
        rows = [("NAME", "EDITION", "CODES", "LICENCE", "CREDIT [SOURCE]"), *_described_vocabularies(layer)]
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        for row in rows:
            click.echo("  ".join(["", *(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]]))


def _described_vocabularies(layer: dict[str, str]) -> Iterator[tuple[str, str, str, str, str]]:
    """Name, edition, codes, licence, and credit with source, of each vocabulary in a store's meta table."""
    for number in itertools.count():
        name = layer.get(f"vocabulary.{number}.name")
        if name is None:
            return
        edition, licence, credit, source = (
            one_line(layer.get(f"vocabulary.{number}.{key}", "")) for key in ("edition", "licence", "credit", "source")
        )
        codes = layer.get(f"count.{name} codes")
        yield one_line(name), edition, f"{int(codes):,}" if codes else "-", licence, f"{credit} [{source}]"


@ontology.command()
@click.argument("term")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def lookup(term: str, as_json: bool) -> None:
    """Show what TERM (a phrase, or a code such as I10) means and its codes everywhere."""
    from medvllm.errors import MedvllmError

    store = _store()
    found = store.lookup(term)
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
        near = store.near(term)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise MedvllmError(f"no vocabulary here has the term '{term}'{hint}")


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


def _imported_names() -> list[str]:
    from medvllm.ontology.user_stores import user_stores

    return [Path(store).name for store in user_stores()]


def _complete_store(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    return [name for name in _imported_names() if name.startswith(incomplete)]


@ontology.command()
@click.argument("name", shell_complete=_complete_store)
def remove(name: str) -> None:
    """Remove an imported vocabulary."""
    import shutil

    from medvllm.errors import MedvllmError
    from medvllm.ontology.user_stores import user_store_folder

    folder = user_store_folder(name)
    if not folder.is_dir():
        import difflib

        names = _imported_names()
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5) or names
        have = f"imported are {', '.join(near)}" if near else "none is imported"
        raise MedvllmError(f"no imported vocabulary is called '{name}'; {have}")
    shutil.rmtree(folder)
    click.echo(f"Removed {folder}")
