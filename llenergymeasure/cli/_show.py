"""How results look in a terminal: the store that a command reads, tables, and numbers with their units."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from llenergymeasure.results.figures import number

if TYPE_CHECKING:
    from llenergymeasure.results.schema import Component, Interval
    from llenergymeasure.results.store import ResultStore

__all__ = [
    "number",
    "open_store",
    "plain",
    "print_json",
    "print_table",
    "shown_component",
    "with_interval",
]


def open_store(results_dir: str | None) -> ResultStore:
    """The store that a command without a configuration reads."""
    from llenergymeasure.cli._options import results_folder
    from llenergymeasure.results.store import ResultStore

    return ResultStore(results_folder(results_dir))


def with_interval(mean: float | None, interval: Interval | None, unit: str = "") -> str:
    """A mean with its interval's half width where it has one."""
    if mean is None or interval is None:
        return number(mean, unit)
    half = max(interval.high - mean, mean - interval.low)
    return f"{number(mean)} ± {number(half)} {unit}".rstrip()


def shown_component(component: Component) -> str:
    """An energy: its value, how it was had; or why there is none."""
    if component.value is None:
        return f"unavailable: {component.reason or 'no reason given'}"
    source = f", {component.source}" if component.source else ""
    return f"{with_interval(component.value, component.uncertainty, component.unit)} ({component.quality}{source})"


def number_of_energy(component: Component) -> str:
    """An energy in a cell of a table."""
    return (
        "unavailable" if component.value is None else f"{number(component.value, component.unit)} {component.quality}"
    )


def print_table(title: str | None, columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: str = "") -> None:
    """A table on stdout: drawn for a terminal; for a pipe as wide as its content, nothing cut.

    Args:
        title: above it.
        columns: headings.
        rows: cells, plain text.
        right: columns to align right, by number from 0: "134".
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    drawn = console.is_terminal
    table = Table(
        title=Text(plain(title)) if title else None,
        title_justify="left",
        title_style="bold" if drawn else "",
        box=box.SIMPLE_HEAD if drawn else None,
        pad_edge=False,
        show_header=any(columns),
        padding=(0, 2, 0, 0),
    )
    for place, heading in enumerate(columns):
        table.add_column(Text(plain(heading)), justify="right" if str(place) in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(plain(cell)) for cell in row))
    if drawn:
        console.print(table)
        return
    console = Console(width=1000, soft_wrap=True)
    with console.capture() as captured:
        console.print(table)
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def plain(text: str) -> str:
    """A text without what would steer a terminal; its lines stay."""
    return "".join(char if char.isprintable() or char == "\n" else "�" for char in text)


def print_json(value: Any) -> None:
    """Plain data as JSON on stdout."""
    import json

    click.echo(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))
