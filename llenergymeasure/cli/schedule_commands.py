"""`lem schedule`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from llenergymeasure.cli._options import (
    config_overrides,
    dataset_option,
    model_option,
    preset_option,
    results_dir_option,
    sample_size_option,
)
from llenergymeasure.errors import LemError, LemUsageError
from medvllm_programs.commands import CONTEXT, note

__all__ = ["schedule"]


@click.command(context_settings=CONTEXT)
@click.argument("config", required=False, metavar="[CONFIG]", type=click.Path(path_type=Path))
@click.option("--interval", "-i", metavar="TIME", help="Time between runs: 30m, 6h, 1d. Wins over --at.")
@click.option("--at", metavar="HH:MM", help="Time of day, local.")
@click.option("--days", metavar="DAYS", help="Days to run on: mon,wed,fri, weekdays or weekends.")
@click.option("--duration", "-d", metavar="TIME", help="How long the daemon runs.  [default: 24h]")
@dataset_option(short=False)
@sample_size_option
@model_option
@preset_option
@results_dir_option
@click.option(
    "--skip-first", is_flag=True, help="Wait for the first time that is due; without it a run starts at once."
)
@click.option("--dry-run", is_flag=True, help="Show when runs would start, and stop.")
def schedule(
    config: Path | None,
    interval: str | None,
    at: str | None,
    days: str | None,
    duration: str | None,
    skip_first: bool,
    dry_run: bool,
    **params: Any,
) -> None:
    """Run an experiment again and again, at an interval or a time of day.

    The first run starts at once. SIGTERM and Ctrl-C let the present run finish; a second Ctrl-C interrupts it.
    """
    from llenergymeasure.campaigns.children import Job, run_jobs
    from llenergymeasure.campaigns.schedule import Daemon
    from llenergymeasure.campaigns.times import Timetable, parse_at, parse_days, parse_interval
    from llenergymeasure.cli._findings import accept_findings, warn_of_missing
    from llenergymeasure.config import resolve

    if config is None and params["preset"] is None:
        raise LemUsageError("give a configuration file, or --preset with --model")
    resolved = resolve(config, preset=params["preset"], overrides=config_overrides(params))
    accept_findings(resolved.findings, yes=True, force=False)
    section = resolved.config.schedule
    interval, at, days = _chosen(interval, at, days, section if section.enabled else None)
    if interval is None and at is None:
        raise LemUsageError("say when to run: --interval 6h, or --at 09:00 with --days")
    if interval is not None and at is not None:
        note("--interval wins over --at")
    timetable = Timetable(
        parse_interval(interval) if interval is not None else None,
        parse_at(at) if at is not None and interval is None else None,
        parse_days(days) if days else frozenset(range(7)),
    )
    total_s = parse_interval(duration or section.total_duration, option="--duration")
    if dry_run:
        warn_of_missing([resolved.config.backend])
        _show_times(timetable, total_s, skip_first=skip_first)
        return
    job = Job(resolved.config.config_name, tuple(_arguments(config, params)))

    def run_once() -> int:
        child = run_jobs([job], parallel=1, on_start=lambda *_: None, on_end=lambda _: None)[0]
        if child.exit_code:
            note(f"the run failed with exit code {child.exit_code}", kind="Warning")
        return child.exit_code

    daemon = Daemon(timetable, total_s, run_once, note, skip_first=skip_first)
    ended_by = daemon.serve()
    failed = sum(code != 0 for code in daemon.codes)
    click.echo(f"{len(daemon.codes)} run(s), {failed} failed")
    if ended_by is not None and ended_by.name == "SIGINT":
        raise KeyboardInterrupt
    if failed:
        raise LemError(f"{failed} of {len(daemon.codes)} runs failed")


def _chosen(
    interval: str | None, at: str | None, days: str | None, section: Any
) -> tuple[str | None, str | None, str | None]:
    """What the command line says, else the configuration's own schedule."""
    if section is not None:
        days = days or section.days
        if interval is None and at is None:
            interval, at = section.interval, section.at
    return interval, at, days


def _arguments(config: Path | None, params: dict[str, Any]) -> list[str]:
    arguments = [str(config)] if config is not None else []
    for name, option in (
        ("preset", "--preset"),
        ("model", "--model"),
        ("dataset", "--dataset"),
        ("sample_size", "--sample-size"),
        ("results_dir", "--results-dir"),
    ):
        if params[name] is not None:
            arguments += [option, str(params[name])]
    return [*arguments, "--yes", "--fresh"]


def _show_times(timetable: Any, total_s: float, *, skip_first: bool) -> None:
    """The first runs that would start, if each took no time."""
    from datetime import datetime, timedelta

    began, elapsed, shown = datetime.now(), 0.0, 0
    if not skip_first:
        click.echo(f"{began:%a %Y-%m-%d %H:%M:%S}  at once")
    while shown < 20:
        wait = timetable.wait_s(elapsed_s=elapsed, now=began + timedelta(seconds=elapsed))
        if elapsed + wait > total_s:
            return
        elapsed, shown = elapsed + wait, shown + 1
        click.echo(f"{began + timedelta(seconds=elapsed):%a %Y-%m-%d %H:%M:%S}")
    click.echo("…")
