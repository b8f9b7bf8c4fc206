"""`lem campaign`."""

from __future__ import annotations

import glob
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llenergymeasure.cli._options import (
    dataset_option,
    dry_run_option,
    results_dir_option,
    sample_size_option,
    seed_option,
    yes_option,
)
from llenergymeasure.cli._show import print_table, with_interval
from llenergymeasure.errors import LemError, LemUsageError
from medvllm_programs.commands import CONTEXT, note

if TYPE_CHECKING:
    from llenergymeasure.campaigns.plan import Campaign, Member, Step
    from llenergymeasure.campaigns.run import CampaignRun, CampaignState
    from llenergymeasure.campaigns.times import Timetable
    from llenergymeasure.config import Resolved

__all__ = ["campaign"]

SECONDS = click.FloatRange(min=0)
_EXECUTION = {
    "cycles": "cycles",
    "structure": "structure",
    "warmup_prompts": "warmup_prompts",
    "warmup_timeout": "warmup_timeout_seconds",
    "config_gap": "config_gap_seconds",
    "cycle_gap": "cycle_gap_seconds",
}


def _finite(_ctx: click.Context, _param: click.Parameter, value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"expected a number of seconds, got {value}")
    return value


@click.command(context_settings=CONTEXT)
@click.argument("config_paths", nargs=-1, required=True, metavar="CONFIG_PATHS...")
@click.option("--campaign-name", metavar="NAME", help="Campaign name (required for multiple configs).")
@dataset_option()
@sample_size_option
@click.option("--cycles", "-c", type=click.IntRange(1, 20), help="Number of cycles.  [default: 3]")
@click.option(
    "--structure",
    type=click.Choice(["interleaved", "shuffled", "grouped"]),
    help="Execution order.  [default: interleaved]",
)
@click.option("--warmup-prompts", type=click.IntRange(min=0), help="Min warm-up prompts per config.  [default: 5]")
@click.option(
    "--warmup-timeout",
    type=click.FloatRange(min=0, min_open=True),
    callback=_finite,
    help="Max warm-up time in seconds.  [default: 30]",
)
@click.option("--config-gap", type=SECONDS, callback=_finite, help="Gap between configs, seconds.  [default: 60]")
@click.option("--cycle-gap", type=SECONDS, callback=_finite, help="Gap between cycles, seconds.  [default: 300]")
@seed_option
@results_dir_option
@dry_run_option
@yes_option
@click.option("--fresh", is_flag=True, help="Start anew, do not go on with an unfinished campaign of this name.")
def campaign(
    config_paths: tuple[str, ...], campaign_name: str | None, dry_run: bool, yes: bool, fresh: bool, **params: Any
) -> None:
    """Compare configurations over several cycles.

    CONFIG_PATHS is one campaign file, or experiment configurations. A campaign that was killed goes on where it was
    when it is started again; one that failed in part runs what failed.
    """
    found = _campaign(_expanded(config_paths), campaign_name, params)
    run, resolved = _prepared(found, params)
    _accept(resolved, yes=yes or dry_run)
    if dry_run:
        _show_plan(run, resolved)
        return
    _run(run, [each.name for each in _members(run)], fresh=fresh, yes=yes)


def _expanded(patterns: Sequence[str]) -> list[Path]:
    """Paths as they are; a pattern that no shell has expanded becomes the files it matches."""
    paths: list[Path] = []
    for pattern in patterns:
        matched = sorted(map(Path, glob.glob(pattern))) if glob.has_magic(pattern) else [Path(pattern)]
        if not matched:
            raise LemError(f"no file matches {pattern!r}")
        paths += matched
    return paths


def _campaign(paths: list[Path], name: str | None, params: dict[str, Any]) -> Campaign:
    """The campaign of a file or of configurations, with what the command line says over it; its paths are absolute."""
    from llenergymeasure.campaigns.plan import Campaign, check_name, is_campaign_file, load_campaign

    campaigns = [path for path in paths if is_campaign_file(path)]
    if campaigns and len(paths) > 1:
        raise LemUsageError(f"{campaigns[0]} is a campaign: give it alone, or experiment configurations only")
    if campaigns:
        base = paths[0].resolve().parent
        found = load_campaign(paths[0])
        configs = _expanded([str(base / Path(each).expanduser()) for each in found.configs])
    else:
        if name is None and len(paths) > 1:
            raise LemUsageError("--campaign-name is needed with several configurations")
        configs = paths
        found = Campaign(campaign_name=name or paths[0].stem, configs=[str(path) for path in paths])
    changes = {key: params[option] for option, key in _EXECUTION.items() if params[option] is not None}
    return found.model_copy(
        update={
            "campaign_name": check_name(name or found.campaign_name),
            "configs": [str(path.resolve()) for path in configs],
            "dataset": params["dataset"] or found.dataset,
            "num_samples": params["sample_size"] or found.num_samples,
            "execution": found.execution.model_copy(update=changes),
        }
    )


def _prepared(found: Campaign, params: dict[str, Any]) -> tuple[CampaignRun, dict[str, Resolved]]:
    """The campaign ready to run, and each of its configurations as it will run."""
    from llenergymeasure.campaigns.plan import members_of, plan, plan_hash
    from llenergymeasure.campaigns.run import CampaignRun, member_values

    members = members_of([Path(each) for each in found.configs], found.grid)
    seed = params["seed"] if params["seed"] is not None else 0
    steps = plan(members, found.execution, seed=seed)
    resolved: dict[str, Resolved] = {}
    values: dict[str, dict[str, Any]] = {}
    for each in members:
        plain = _resolve(each, dict(each.values), found)
        values[each.name] = member_values(each.values, found.execution, warmup_max=plain.config.warmup.max)
        resolved[each.name] = _resolve(each, values[each.name], found)
    timetable, total_s = _timetable(found)
    settings = {"execution": found.execution.model_dump(), "seed": seed, "dataset": found.dataset}
    settings |= {"num_samples": found.num_samples, "schedule": found.schedule and found.schedule.model_dump()}
    run = CampaignRun(
        name=found.campaign_name,
        steps=steps,
        plan_hash=plan_hash(steps, settings, {name: each.config_hash() for name, each in resolved.items()}),
        settings=settings,
        results_dir=_results_dir(params["results_dir"], resolved),
        values=values,
        metadata={name: each.config.extra_metadata for name, each in resolved.items()},
        options=[
            *(["--dataset", found.dataset] if found.dataset else []),
            *(["--sample-size", str(found.num_samples)] if found.num_samples else []),
        ],
        tell=note,
        timetable=timetable,
        total_s=total_s,
    )
    return run, resolved


def _resolve(member: Member, values: dict[str, Any], found: Campaign) -> Resolved:
    from llenergymeasure.config import resolve

    overrides: dict[str, tuple[object, str]] = {key: (value, "campaign") for key, value in values.items()}
    if found.dataset:
        overrides["dataset.name"] = (found.dataset, "cli --dataset")
    if found.num_samples:
        overrides["num_input_prompts"] = (found.num_samples, "cli --sample-size")
    return resolve(member.path, overrides=overrides)


def _results_dir(given: str | None, resolved: dict[str, Resolved]) -> Path:
    if given:
        return Path(given).expanduser()
    folders = sorted({each.config.io.results_dir for each in resolved.values()})
    if len(folders) > 1:
        raise LemError(f"the configurations write to different folders ({', '.join(folders)}); give one: --results-dir")
    return Path(folders[0]).expanduser()


def _timetable(found: Campaign) -> tuple[Timetable | None, float | None]:
    from llenergymeasure.campaigns.times import Timetable, parse_at, parse_days, parse_interval

    section = found.schedule
    if section is None or not section.enabled:
        return None, None
    if found.execution.structure == "grouped":
        raise LemUsageError("a schedule is of cycles: structure must be interleaved or shuffled, got grouped")
    if section.interval is None and section.at is None:
        raise LemUsageError("schedule needs an interval such as 6h, or at with a time of day")
    days = ",".join(section.days) if isinstance(section.days, list) else section.days
    timetable = Timetable(
        parse_interval(section.interval, option="schedule.interval") if section.interval else None,
        parse_at(section.at) if section.at and not section.interval else None,
        parse_days(days) if days else frozenset(range(7)),
    )
    total = section.total_duration
    return timetable, parse_interval(total, option="schedule.total_duration") if total else None


def _accept(resolved: dict[str, Resolved], *, yes: bool) -> None:
    """Shows the remarks on the configurations; errors stop, warnings ask or need --yes."""
    from llenergymeasure.cli._findings import accept_findings

    findings = {str(finding): finding for each in resolved.values() for finding in each.findings}
    accept_findings(list(findings.values()), yes=yes, force=False)


def _members(run: CampaignRun) -> list[Member]:
    return list({step.member.name: step.member for step in run.steps}.values())


# Showing.


def _show_plan(run: CampaignRun, resolved: dict[str, Resolved]) -> None:
    """Every run with when it would start: gaps, and how long runs of these configurations took before."""
    from llenergymeasure.campaigns.times import shown_duration
    from llenergymeasure.cli._findings import warn_of_missing

    warn_of_missing(each.config.backend for each in resolved.values())
    took = _earlier_durations(run, resolved)
    starts, known = 0.0, True
    rows = []
    for step in run.steps:
        config = resolved[step.member.name].config
        starts += step.gap_s
        start = _due(run, step) if run.timetable and step.new_cycle else f"+{shown_duration(starts)}"
        row = [str(step.number + 1), str(step.cycle + 1), step.member.name, config.model_name, config.backend]
        duration = took.get(step.member.name)
        rows.append([*row, start if known else f"{start} and the runs before", _duration(duration)])
        starts, known = starts + (duration or 0.0), known and duration is not None
    columns = ["run", "cycle", "config", "model", "backend", "starts", "takes"]
    print_table(f"{run.name}: {len(run.steps)} runs, results in {run.results_dir}", columns, rows, right="01")
    gaps = sum(step.gap_s for step in run.steps)
    work = sum(took.get(step.member.name, 0.0) for step in run.steps)
    total = f"{shown_duration(gaps)} of gaps"
    total += f" and {shown_duration(work)} of runs" if known else "; the runs take as long as they take"
    click.echo(f"In all {total}.")


def _due(run: CampaignRun, step: Step) -> str:
    from datetime import datetime, timedelta

    assert run.timetable is not None
    if step.cycle == 0:
        return "at once"
    now, elapsed = datetime.now(), 0.0
    for _ in range(step.cycle):
        elapsed += run.timetable.wait_s(elapsed_s=elapsed, now=now + timedelta(seconds=elapsed))
    return f"{now + timedelta(seconds=elapsed):%a %Y-%m-%d %H:%M}"


def _duration(seconds: float | None) -> str:
    from llenergymeasure.campaigns.times import shown_duration

    return f"about {shown_duration(seconds)}" if seconds is not None else "not known yet"


def _earlier_durations(run: CampaignRun, resolved: dict[str, Resolved]) -> dict[str, float]:
    """Configuration → the median time of its earlier runs in these results, s."""
    from datetime import datetime
    from statistics import median

    from llenergymeasure.results.store import ResultStore

    found: dict[str, list[float]] = {}
    hashes = {each.config_hash(): name for name, each in resolved.items()}
    for each in ResultStore(run.results_dir).list():
        if each.aggregated and each.aggregated.config_hash in hashes:
            begin, end = (datetime.fromisoformat(t) for t in (each.aggregated.started_at, each.aggregated.finished_at))
            found.setdefault(hashes[each.aggregated.config_hash], []).append((end - begin).total_seconds())
    return {name: median(values) for name, values in found.items()}


# Running.


def _run(run: CampaignRun, names: list[str], *, fresh: bool, yes: bool) -> None:
    from filelock import FileLock, Timeout

    from llenergymeasure.files import make_folder

    if not yes and sys.stdin.isatty():
        click.confirm(f"Run {len(run.steps)} experiments?", default=True, abort=True, err=True)
    make_folder(run.folder)
    lock = FileLock(run.folder / "campaign.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise LemError(f"another process is running the campaign {run.name} in {run.folder}") from error
    with lock:
        state = run.prepare(fresh=fresh)
        try:
            run.run(state)
        except KeyboardInterrupt:
            note(f"{run.name} is interrupted; the same command goes on with it")
            raise
        _summary(run, state, names)
    failed = sum(each.status == "failed" for each in state.runs)
    if failed:
        raise LemError(f"{failed} of {len(state.runs)} runs failed; the same command runs them again")


def _summary(run: CampaignRun, state: CampaignState, names: list[str]) -> None:
    from llenergymeasure.campaigns.summary import METRICS, as_data, summarise
    from llenergymeasure.cli.report_commands import print_comparison
    from llenergymeasure.files import write_json
    from llenergymeasure.results.store import ResultStore

    summary = summarise(ResultStore(run.results_dir), state, names)
    for text in summary.notes:
        note(text, kind="Warning")
    shown = [metric for metric in METRICS if any(found[metric].mean is not None for found in summary.metrics.values())]
    rows = []
    for name, found in summary.metrics.items():
        cells = []
        for metric in shown:
            each = found[metric]
            quality = f" {each.quality}" if each.quality and each.mean is not None else ""
            cells.append(with_interval(each.mean, each.interval, each.unit) + quality)
        rows.append([name, str(len(summary.samples[name].cycles)), *cells])
    if rows:
        title = f"{run.name}: mean over cycles ± 95 % interval (Student's t)"
        print_table(title, ["config", "cycles", *shown], rows, right="123456")
    if "energy_total_j" not in shown and rows:
        first = next(iter(summary.samples.values())).results[0]
        note(f"energy unavailable: {first.energy.total.reason or 'no reason given'}")
    for comparison in summary.comparisons:
        print_comparison(comparison)
    path = run.folder / "summary.json"
    write_json(path, as_data(summary, state))
    click.echo(path)
