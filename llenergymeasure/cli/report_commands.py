"""`lem compare`, `lem report` and `lem verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from llenergymeasure.cli._options import results_dir_option
from llenergymeasure.cli._show import number, open_store, print_json, print_table
from llenergymeasure.errors import LemError
from medvllm_programs.commands import CONTEXT, note, one_line

if TYPE_CHECKING:
    from llenergymeasure.results.compare import ComparedMetric, ResultComparison

__all__ = ["compare", "print_comparison", "report", "verify"]


@click.command(context_settings=CONTEXT)
@click.argument("a")
@click.argument("b")
@results_dir_option
@click.option("--paired/--unpaired", default=None, help="Pair cycles by number [default: within a campaign].")
@click.option("--allow-unlike-workloads", is_flag=True, help="Compare different prompts or token limits.")
@click.option("--allow-unlike-quality", is_flag=True, help="Compare energies that were not had in the same way.")
@click.option("--json", "as_json", is_flag=True, help="Output as JSON.")
def compare(
    a: str,
    b: str,
    results_dir: str | None,
    paired: bool | None,
    allow_unlike_workloads: bool,
    allow_unlike_quality: bool,
    as_json: bool,
) -> None:
    """Compare B with A: effect, 95 % interval and p-value of each quantity over the cycles.

    A and B are experiment ids, or CAMPAIGN/CONFIG_NAME for the runs of a configuration in a campaign.
    """
    from llenergymeasure.results.compare import compare as compare_samples
    from llenergymeasure.results.compare import comparison_data, find_sample

    store = open_store(results_dir)
    found = compare_samples(
        find_sample(store, a),
        find_sample(store, b),
        paired=paired,
        allow_unlike_workloads=allow_unlike_workloads,
        allow_unlike_quality=allow_unlike_quality,
    )
    if as_json:
        print_json(comparison_data(found))
        return
    print_comparison(found)
    if found.differences:
        rows = [[key, str(left), str(right)] for key, (left, right) in found.differences.items()]
        print_table("Configuration", ["", "A", "B"], rows)


def print_comparison(found: ResultComparison) -> None:
    """The table of a comparison, its notes on stderr."""
    for text in found.notes:
        note(text)
    rows = [_row(each) for each in found.metrics if each.a is not None or each.b is not None]
    missing = [each.name for each in found.metrics if each.a is None and each.b is None]
    how = "paired by cycle" if found.paired else "unpaired"
    columns = ["", "A", "B", "B − A", "relative", "95 % interval", "p"]
    print_table(f"A = {found.a}, B = {found.b}, {how}", columns, rows, right="123456")
    if missing:
        note(f"not known on either side: {', '.join(missing)}")
    if any(each.comparison and each.comparison.p_value is not None for each in found.metrics):
        note("each p-value is of its row alone; with many rows some fall below 0.05 by chance")


def _row(each: ComparedMetric) -> list[str]:
    label = f"{each.name} ({each.unit})"
    if each.quality:
        label += f", {' and '.join(dict.fromkeys(each.quality))}"
    row = [label, number(each.a), number(each.b)]
    found = each.comparison
    if found is None:
        return [*row, "–", "–", "–", "–"]
    relative = f"{found.relative:+.1%}" if found.relative is not None else "–"
    interval = f"{number(found.interval.low)} to {number(found.interval.high)}" if found.interval else "–"
    p_value = "–" if found.p_value is None else "< 0.001" if found.p_value < 0.001 else f"{found.p_value:.3f}"
    return [*row, number(found.effect), relative, interval, p_value]


@click.command(context_settings=CONTEXT)
@click.argument("experiment_ids", nargs=-1, required=True, metavar="ID...")
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("report.html"),
    show_default=True,
    help="The page.",
)
@click.option("--results-dir", metavar="DIR", help="Results directory.")
def report(experiment_ids: tuple[str, ...], output: Path, results_dir: str | None) -> None:
    """Write one HTML page about experiments, which needs no network."""
    from llenergymeasure.files import make_folder, write_atomically
    from llenergymeasure.results.report import render

    store = open_store(results_dir)
    page = render(store, experiment_ids)
    make_folder(output.parent)
    write_atomically(output, page.encode())
    click.echo(output)


@click.command(context_settings=CONTEXT)
@click.argument("experiment_id")
@results_dir_option
@click.option("--head", metavar="HASH", help="Also check that the manifest ends in this hash.")
def verify(experiment_id: str, results_dir: str | None, head: str | None) -> None:
    """Check the files of EXPERIMENT_ID against its manifest, a chain of hashes."""
    from llenergymeasure.results import manifest

    store = open_store(results_dir)
    problems = store.verify(experiment_id)
    for each in problems:
        click.echo(one_line(f"{each.path}: {each.what}"))
    if problems:
        raise LemError(f"{experiment_id} is not as it was written: {len(problems)} file(s) differ")
    found = manifest.head(store.raw_folder(experiment_id))
    if head is not None and found != head:
        raise LemError(f"the manifest of {experiment_id} ends in {found}, expected {head}: it was written anew")
    files = len({each.path for each in manifest.read(store.raw_folder(experiment_id))})
    click.echo(f"{experiment_id}: {files} files are as they were written; head {found}")
