"""What a recipe's command does: run here, start processes here, submit, or show what it would do."""

from __future__ import annotations

import os
from typing import Any

import click

from medvllm_programs.config_text import to_yaml
from medvllm_programs.files import shown
from nemotron.kit.cli.compose import Composed, compose
from nemotron.kit.cli.recipe import CommandSpec, Request
from nemotron.kit.config import plain
from nemotron.kit.errors import KitUsageError

__all__ = ["invoke"]


def invoke(spec: CommandSpec, request: Request, ctx: click.Context) -> None:
    """Carries out a checked command line.

    Raises:
        KitError: whatever keeps it from running, in one line.
    """
    from nemotron.kit.artifacts.lineage import run_context

    with run_context(command=" ".join(spec.path)):  # what is read from here on is noted in what the handler makes
        if request.profile is not None:
            ctx.exit(_submit(spec, request))
        only = [name for name in request.run_options if name != "nproc_per_node"]
        if only:
            raise KitUsageError(f"--run.{only[0]} changes a profile; give one with --run or --batch")
        ctx.exit(_run_here(spec, request, processes=int(request.run_options.get("nproc_per_node", 1))))


def _run_here(spec: CommandSpec, request: Request, *, processes: int) -> int:
    composed = compose(spec, request)
    if request.dry_run:
        where = "in this process" if processes == 1 else f"in {processes} processes by torchrun"
        click.echo(f"# {' '.join(spec.path)}: runs here, {where}")
        _show(composed)
        return 0
    if processes > 1:
        from nemotron.kit.execution.torchrun import run_by_torchrun

        return run_by_torchrun(spec, composed, processes)
    from nemotron.kit.artifacts.lineage import JOB_VARIABLE
    from nemotron.kit.execution.jobs import start_job
    from nemotron.kit.train_script import start_tracking

    handler = spec.function()
    if os.environ.get("RANK", "0") == "0" and JOB_VARIABLE not in os.environ:
        os.environ[JOB_VARIABLE] = start_job(spec, composed).name
    start_tracking(composed.data.get("run") or {})
    handler(composed.config)
    return 0


def _show(composed: Composed) -> None:
    from nemotron.kit.secrets import masked

    click.echo(f"# configuration: {shown(composed.file.path) if composed.file else 'no file'}")
    for name, reference in composed.references.items():
        click.echo(f"# artifact {name}: {reference}")
    data = plain(composed.config) if composed.config is not None else composed.resolved
    click.echo(to_yaml(masked(data)), nl=False)


def _submit(spec: CommandSpec, request: Request) -> int:
    from nemotron.kit.execution.profiles import load_run_profile, load_table
    from nemotron.kit.execution.submit import plan_submission, submit

    base = _env_of_file(spec, request)
    config = load_run_profile(request.profile or "", base=base, overrides=request.run_options)
    detached = not request.attached if config.detach is None else config.detach
    env: dict[str, Any] = {key: value for key, value in plain(config).items() if value not in (None, [], {})}
    composed = compose(spec, request, env=env)
    wandb = load_table("wandb")
    if wandb:
        composed.data.setdefault("run", {})["wandb"] = wandb
    plan = plan_submission(spec, composed, config, profile=request.profile or "", attached=not detached)
    if request.dry_run or config.dry_run:
        _show(composed)
        click.echo(plan.described(), nl=False)
        return 0
    return submit(plan)


def _env_of_file(spec: CommandSpec, request: Request) -> dict[str, Any]:
    """The `run.env` section of the configuration, under the profile's values."""
    from nemotron.kit.cli.compose import read_run_section

    env = read_run_section(spec, request).get("env") or {}
    if not isinstance(env, dict):
        raise KitUsageError(f"run.env: expected a mapping of a profile's keys, got {env!r}")
    return env
