"""`lem batch`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from llenergymeasure.cli._options import dataset_option, results_dir_option, sample_size_option
from llenergymeasure.cli._show import number, print_table
from llenergymeasure.errors import LemError
from medvllm_programs.commands import CONTEXT, note

if TYPE_CHECKING:
    from llenergymeasure.campaigns.batch import BatchMember, Checked
    from llenergymeasure.campaigns.children import Child

__all__ = ["batch"]


@click.command(context_settings=CONTEXT)
@click.argument("config_pattern")
@dataset_option()
@sample_size_option
@click.option("--parallel", type=click.IntRange(1, 64), default=1, metavar="N", help="Run N configurations at once.")
@results_dir_option
@click.option("--dry-run", is_flag=True, help="List the configurations without running them.")
def batch(
    config_pattern: str,
    dataset: str | None,
    sample_size: int | None,
    parallel: int,
    results_dir: str | None,
    dry_run: bool,
) -> None:
    """Run every configuration that CONFIG_PATTERN matches, such as "configs/*.yaml"."""
    from llenergymeasure.campaigns.batch import checked, matching

    found = checked(matching(config_pattern), dataset=dataset, sample_size=sample_size)
    if dry_run:
        _show_plan(found)
        return
    for each in found:
        if each.problem:
            note(f"{each.path}: {each.problem}", kind="Error")
    if parallel > 1 and len(found) > 1:
        note(
            "runs at once share the machine: each one's throughput is less than alone, and a sensor that reads a whole "
            "device reads the others' energy too",
            kind="Warning",
        )
    folder = Path(results_dir) if results_dir else None
    rows, failed = _run(found, parallel, dataset=dataset, sample_size=sample_size, results_dir=folder)
    print_table(None, ["configuration", "outcome", "experiment", "time", "tokens/s", "energy"], rows, right="345")
    if failed:
        raise LemError(f"{failed} of {len(found)} configurations failed")


def _show_plan(found: list[Checked]) -> None:
    """What would run. A library that is not installed here is told, no failure: a plan may be for another machine."""
    from llenergymeasure.backends import missing

    rows = []
    for each in found:
        config = each.resolved.config if each.resolved else None
        named = [config.config_name, config.model_name, config.backend] if config else ["–"] * 3
        lacks = missing(config.backend) if config else None
        rows.append([str(each.path), *named, each.problem or lacks or "ready"])
    print_table(None, ["file", "config", "model", "backend", ""], rows)
    if invalid := sum(each.problem is not None for each in found):
        raise LemError(f"{invalid} of {len(found)} configurations can't run")


def _run(
    found: list[Checked], parallel: int, *, dataset: str | None, sample_size: int | None, results_dir: Path | None
) -> tuple[list[list[str]], int]:
    """(rows of the summary, how many failed)."""
    import tempfile

    from llenergymeasure.campaigns.batch import job_of
    from llenergymeasure.campaigns.children import Job, run_jobs

    ready = [each for each in found if each.problem is None]
    with tempfile.TemporaryDirectory(prefix="lem-batch-") as folder:
        members = [
            job_of(
                each,
                folder=Path(folder),
                number=place,
                dataset=dataset,
                sample_size=sample_size,
                results_dir=results_dir,
            )
            for place, each in enumerate(ready)
        ]

        def starts(job: Job, place: int) -> None:
            note(f"[{place + 1}/{len(members)}] {job.name}")

        def ends(child: Child) -> None:
            if child.exit_code:
                note(f"{child.job.name} failed with exit code {child.exit_code}", kind="Warning")

        children = run_jobs([each.job for each in members], parallel=parallel, on_start=starts, on_end=ends)
    rows = [_row(member, child) for member, child in zip(members, children, strict=True)]
    rows += [[str(each.path), "not valid", "–", "–", "–", "–"] for each in found if each.problem]
    return rows, sum(child.exit_code != 0 for child in children) + len(found) - len(ready)


def _row(member: BatchMember, child: Child) -> list[str]:
    from llenergymeasure.campaigns.batch import result_of
    from llenergymeasure.cli._show import number_of_energy
    from llenergymeasure.results.store import ResultStore

    experiment_id = result_of(member)
    row = [
        str(member.path),
        "done" if child.exit_code == 0 else f"failed ({child.exit_code})",
        experiment_id or "–",
        number(child.duration_s, "s"),
    ]
    try:
        result = ResultStore(member.results_dir).load(experiment_id) if experiment_id else None
    except LemError:  # it failed before it had one
        result = None
    if result is None:
        return [*row, "–", "–"]
    return [*row, number(result.throughput.tokens_per_s), number_of_energy(result.energy.total)]
