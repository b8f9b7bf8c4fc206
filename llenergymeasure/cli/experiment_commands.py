"""`lem experiment`: one configuration measured, in as many processes as it asks for, and aggregated."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llenergymeasure.cli._findings import accept_findings, warn_of_missing
from llenergymeasure.cli._options import (
    backend_option,
    config_overrides,
    cycles_option,
    deprecated_options,
    dry_run_option,
    max_tokens_option,
    model_option,
    preset_option,
    prompt_options,
    results_dir_option,
    results_folder,
    seed_option,
    streaming_options,
    yes_option,
)
from llenergymeasure.cli._show import plain
from llenergymeasure.errors import LemError, LemUsageError
from medvllm_programs.commands import CONTEXT, note

if TYPE_CHECKING:
    from llenergymeasure.config import ExperimentConfig, Resolved
    from llenergymeasure.orchestration.experiment import Experiment
    from llenergymeasure.orchestration.state import ExperimentState
    from llenergymeasure.prompts import PromptSet

__all__ = ["experiment"]

# What says how to run, not what to measure: the rest can't be given with --resume.
_CONTROL = {"config_path", "no_aggregate", "fresh", "resume", "results_dir", "yes", "dry_run", "force"}
_CONTROL |= {"distributed", "process_of"}


@click.command(context_settings=CONTEXT)
@click.argument("config_path", required=False, metavar="[CONFIG]", type=click.Path(path_type=Path))
@prompt_options
@preset_option
@model_option
@backend_option
@streaming_options
@max_tokens_option
@seed_option
@cycles_option
@click.option("--no-aggregate", is_flag=True, help="Keep the raw results of the processes; do not aggregate them.")
@click.option("--fresh", is_flag=True, help="Start anew, even where the same experiment was left incomplete.")
@click.option("--resume", metavar="ID", help="Run an interrupted experiment on.")
@results_dir_option
@yes_option
@dry_run_option
@click.option("--force", is_flag=True, help="Run despite errors in the configuration.")
@deprecated_options
@click.option("--distributed", is_flag=True, hidden=True, help="This is one of the processes of a launcher.")
@click.option("--process-of", metavar="ID", hidden=True, help="Run one process, RANK, of an experiment that is there.")
def experiment(**params: Any) -> None:
    """Measure the experiment that CONFIG, or --preset with --model, describes, and aggregate its results.

    An experiment with the same configuration and prompts that was left incomplete is run on, unless --fresh is given.
    """
    if params["process_of"]:
        _run_child(params)
        return
    if params["fresh"] and params["resume"]:
        raise LemUsageError("--fresh starts anew and --resume goes on; give one of them")
    if params["resume"]:
        results_dir, state = _resumed(params)
        if params["dry_run"]:
            _show_plan(state.config, state.provenance)
            return
        chosen = _loaded(results_dir, state)
    elif params["config_path"] is None and params["preset"] is None:
        raise LemUsageError("give a configuration file, or --preset with --model, or --resume ID")
    else:
        resolved = _resolved(params)
        if params["dry_run"]:
            _show_plan(resolved.config.model_dump(mode="json"), resolved.provenance)
            warn_of_missing([resolved.config.backend])
            accept_findings(resolved.findings, yes=True, force=params["force"])
            return
        accept_findings(resolved.findings, yes=params["yes"], force=params["force"])
        following = _distributed_rank(params) > 0
        if following:
            _follow(resolved)
            return
        chosen = _chosen(resolved, params)
    _run(chosen, params)


def _resolved(params: Mapping[str, Any]) -> Resolved:
    """The configuration that the command line describes."""
    from llenergymeasure.config import resolve

    overrides = config_overrides(params)
    if "prompts.path" in overrides:  # a resumed run may start in another folder
        path, said = overrides["prompts.path"]
        overrides["prompts.path"] = (str(Path(str(path)).expanduser().absolute()), said)
    if params["distributed"]:
        from llenergymeasure.orchestration.processes import accelerate_processes, read_ranks

        world = read_ranks().world_size
        asked = accelerate_processes() if world == 1 else None
        if world > 1:
            overrides["num_processes"] = (world, "env WORLD_SIZE")
        elif asked is not None:
            overrides["num_processes"] = (asked, "accelerate launch --num_processes")
    return resolve(params["config_path"], preset=params["preset"], overrides=overrides)


def _distributed_rank(params: Mapping[str, Any]) -> int:
    if not params["distributed"]:
        return 0
    from llenergymeasure.orchestration.processes import read_ranks

    return read_ranks().rank


def _show_plan(config: Mapping[str, Any], provenance: Mapping[str, str]) -> None:
    """Every value of a configuration and where it came from, on stdout."""
    import json

    from llenergymeasure.config.builder import dotted

    values = dotted(config).items()
    width = max(len(f"{key}: {json.dumps(value)}") for key, value in values if len(json.dumps(value)) < 60)
    for key, value in values:
        text = f"{key}: {json.dumps(value, ensure_ascii=False)}"
        click.echo(plain(f"{text:<{width}}  # {provenance.get(key, 'default')}"))


def _chosen(resolved: Resolved, params: Mapping[str, Any]) -> Experiment:
    """A new experiment, or the same one left incomplete.

    Raises:
        LemError: the model, the backend or the prompts can't be had; nothing was made on disk.
    """
    from llenergymeasure.backends import check_backend
    from llenergymeasure.orchestration.experiment import Experiment, process_count, shard
    from llenergymeasure.orchestration.state import StateStore
    from llenergymeasure.prompts import load_prompts

    config = resolved.config
    check_backend(config)
    prompts = load_prompts(config)
    for warning in prompts.warnings:
        note(warning, kind="Warning")
    count = process_count(config)
    shard(prompts.prompts, 0, count)
    results_dir = _results_dir(resolved)
    states = StateStore(results_dir)
    digest = resolved.config_hash()
    left = [] if params["fresh"] else states.incomplete(config_hash=digest, prompts_sha256=prompts.source.sha256)
    state = _offered(left[-1], params) if left else None
    asked = _asks(params)
    if state is None:
        if asked:
            click.confirm(f"Measure {_described(config, prompts)}?", default=True, abort=True, err=True)
        state = states.create(
            config=config.model_dump(mode="json"),
            provenance=resolved.provenance,
            config_hash=digest,
            prompts=prompts.source,
            num_processes=count,
        )
    return Experiment(results_dir, state, config, prompts)


def _asks(params: Mapping[str, Any]) -> bool:
    return not params["yes"] and sys.stdin.isatty()


def _offered(state: ExperimentState, params: Mapping[str, Any]) -> ExperimentState | None:
    """An incomplete experiment, if it is to be run on."""
    said = f"{state.experiment_id} has the same configuration and prompts and was left incomplete ({state.status})"
    if not _asks(params):
        note(f"{said}; it is run on. --fresh starts anew")
        return state
    return state if click.confirm(f"{said}. Run it on?", default=True, err=True) else None


def _described(config: ExperimentConfig, prompts: PromptSet) -> str:
    cycles = f", {config.num_cycles} cycles" if config.num_cycles > 1 else ""
    return (
        f"{config.model_name} with {config.backend} on {len(prompts.prompts)} prompts of {prompts.source.name}{cycles}"
    )


def _resumed(params: Mapping[str, Any]) -> tuple[Path, ExperimentState]:
    """The results folder and the experiment that --resume names, which may run on.

    Raises:
        LemError: there is none, it runs, or it is complete.
        LemUsageError: options that would change what is measured.
    """
    from llenergymeasure.orchestration.state import StateStore

    described = params["config_path"] is not None or params["preset"] is not None
    resolved = _resolved(params) if described else None
    store = StateStore(_results_dir(resolved) if resolved else results_folder(params["results_dir"]))
    state = store.load(params["resume"])
    given = [name for name, value in params.items() if name not in _CONTROL and value is not None]  # 0 is a value
    if resolved is not None:
        if resolved.config_hash() != state.config_hash:
            raise LemError(
                f"{state.experiment_id} was started with another configuration; --resume takes its own: "
                "give the id alone"
            )
    elif given:
        option = given[0].replace("_", "-")
        raise LemUsageError(f"--resume takes the experiment's own configuration; --{option} can't be given with it")
    if state.status == "aggregated":
        raise LemError(f"{state.experiment_id} is complete; see it with: lem results show {state.experiment_id}")
    alive = store.running(state)
    if alive:
        raise LemError(f"{state.experiment_id} is running (pid {alive[0].pid}); wait for it or end it first")
    return store.root, state


def _results_dir(resolved: Resolved) -> Path:
    return Path(resolved.config.io.results_dir).expanduser()


def _loaded(results_dir: Path, state: ExperimentState) -> Experiment:
    """An experiment that is on disk, with its prompts.

    Raises:
        LemError: the prompts can't be had, or are not what they were.
    """
    from pydantic import ValidationError

    from llenergymeasure.config import ExperimentConfig
    from llenergymeasure.orchestration.experiment import Experiment
    from llenergymeasure.prompts import load_prompts

    try:
        config = ExperimentConfig.model_validate(state.config)
    except ValidationError as error:
        raise LemError(f"{state.experiment_id} was started by another version of lem; start with --fresh") from error
    prompts = load_prompts(config)
    if prompts.source.sha256 != state.prompts.sha256:
        raise LemError(
            f"the prompts of {state.prompts.name} are not those {state.experiment_id} was started with "
            "(their SHA-256 is another), so it can't be run on; start with --fresh"
        )
    return Experiment(results_dir, state, config, prompts)


def _run_child(params: Mapping[str, Any]) -> None:
    """One process of an experiment, whose parent waits for it."""
    from llenergymeasure.orchestration.experiment import run_process
    from llenergymeasure.orchestration.processes import read_ranks
    from llenergymeasure.orchestration.state import StateStore

    store = StateStore(results_folder(params["results_dir"]))
    run_process(_loaded(store.root, store.load(params["process_of"])), process_index=read_ranks().rank)


def _follow(resolved: Resolved) -> None:
    """A process that a launcher started beside process 0."""
    from llenergymeasure.orchestration.experiment import run_process
    from llenergymeasure.orchestration.processes import read_ranks, wait_for_experiment
    from llenergymeasure.orchestration.state import StateStore

    store = StateStore(_results_dir(resolved))
    state = store.load(wait_for_experiment(store.root))
    run_process(_loaded(store.root, state), process_index=read_ranks().rank)


def _run(chosen: Experiment, params: Mapping[str, Any]) -> None:
    from llenergymeasure.orchestration.processes import launch, launch_rank, read_ranks

    aggregated = not params["no_aggregate"]
    ranks = read_ranks() if params["distributed"] else None
    note(f"experiment {chosen.id} in {chosen.results_dir}")
    try:
        if ranks is not None and ranks.world_size > 1:
            result = launch_rank(chosen, ranks, aggregated=aggregated)
        else:
            result = launch(chosen, aggregated=aggregated)
    except (KeyboardInterrupt, SystemExit, LemError):  # SystemExit: SIGTERM
        folder = "" if chosen.results_dir == results_folder(None) else f" --results-dir {chosen.results_dir}"
        note(f"{chosen.id} is kept: lem experiment --resume {chosen.id}{folder} goes on from here")
        raise
    if result is None:
        click.echo(f"{chosen.id}: measured, not aggregated; run: lem aggregate {chosen.id}")
        return
    from llenergymeasure.cli._summary import print_summary

    print_summary(result, chosen.results_dir, known=chosen.prompts.warnings)
