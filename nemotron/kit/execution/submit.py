"""A job for NeMo-Run: planned without it, so that it can be shown; then submitted, followed, and its exit code told."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shlex
import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from medvllm_programs.commands import note
from medvllm_programs.config_text import to_yaml
from nemotron.kit.errors import KitError
from nemotron.kit.execution.executors import CODE_FOLDER, build_executor, executor_arguments, import_nemo_run
from nemotron.kit.execution.exit_codes import exit_code
from nemotron.kit.execution.jobs import Job, new_job, provenance
from nemotron.kit.execution.packaging import CodeTree, code_tree, write_archive
from nemotron.kit.execution.run_config import RunConfig
from nemotron.kit.execution.target import Target, find_target
from nemotron.kit.secrets import PASSED_ON, masked

if TYPE_CHECKING:
    from nemotron.kit.cli.compose import Composed
    from nemotron.kit.cli.recipe import CommandSpec

__all__ = ["Plan", "plan_submission", "submit"]

CONFIG_IN_CODE = ".nemotron/job/train.yaml"


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """A submission that can be shown or made."""

    spec: CommandSpec
    composed: Composed
    config: RunConfig
    profile: str
    attached: bool
    target: Target
    tree: CodeTree

    def environment(self, code: str, job: str) -> dict[str, str]:
        """The job's variables; `code` is where its code will be."""
        here = Path.cwd().resolve()
        below = here.relative_to(self.tree.root) if here.is_relative_to(self.tree.root) else Path()
        roots = [code]
        if self.target.root is not None and self.target.root.is_relative_to(self.tree.root):
            roots.insert(0, str(Path(code, self.target.root.relative_to(self.tree.root))))
        made = {"NEMOTRON_CODE": str(Path(code, below)), "NEMOTRON_JOB": job}
        if not self._inherits():  # what NeMo-Run is given, it keeps in its files and an sbatch script prints to its log
            made |= {name: os.environ[name] for name in PASSED_ON if os.environ.get(name)}
        paths = list(dict.fromkeys(roots))
        if self.config.executor == "local":
            made["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
            paths += [path for path in sys.path if path]
        elif self._shares_files():
            paths += [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
        made["PYTHONPATH"] = os.pathsep.join(paths)
        registry = _registry_root()
        if "://" in registry or self._shares_files() or self._mounts_registry():
            made["NEMOTRON_ARTIFACTS"] = registry
        return made

    def _inherits(self) -> bool:
        """Whether the job gets this environment by itself: a process here, or sbatch here with its usual --export."""
        return self.config.executor == "local" or (self.config.executor == "slurm" and not self.config.by_ssh)

    def _shares_files(self) -> bool:
        """Whether the job sees this machine's files under the same paths."""
        slurm = self.config.executor == "slurm" and self.config.container_image is None and not self.config.by_ssh
        return self.config.executor == "local" or slurm

    def _mounts_registry(self) -> bool:
        """Whether a local registry can be mounted into the job's container."""
        container = self.config.executor == "docker" or (self.config.executor == "slurm" and not self.config.by_ssh)
        return container and "://" not in _registry_root()

    def run_config(self) -> RunConfig:
        """The profile, with the registry mounted where that is needed and can be."""
        if not self._mounts_registry() or self._shares_files():
            return self.config
        root = _registry_root()
        return dataclasses.replace(self.config, mounts=[*self.config.mounts, f"{root}:{root}"])

    def command(self, code: str) -> list[str]:
        """What each process runs, after the interpreter."""
        if self.target.script is not None and self.target.module is None:
            if not self.target.script.is_relative_to(self.tree.root):
                raise KitError(
                    f"the script {self.target.script} lies outside of the code to package, {self.tree.root}; run the "
                    "command from the folder that holds it"
                )
            first = [str(Path(code, self.target.script.relative_to(self.tree.root)))]
        else:
            first = self.target.command()[:2]
        return [*first, *self.target.arguments, "--config", str(Path(code, CONFIG_IN_CODE))]

    def script_config(self) -> dict[str, Any]:
        """What train.yaml holds: $PWD is where the packaged code is, and secrets of the profile are out."""
        data: dict[str, Any] = _with_code_path(self.composed.data)
        run = dict(data.get("run") or {})
        run["env"] = masked(run.get("env") or {})
        return {**data, "run": run}

    def described(self) -> str:
        """The submission as text: executor, its arguments, command, code."""
        code = "<job folder>/code" if self.config.executor == "local" else CODE_FOLDER
        name, arguments = executor_arguments(
            self.run_config(), attached=self.attached, env_vars=self.environment(code, "<job>")
        )
        if "tunnel" in arguments:
            kind, settings = arguments["tunnel"]
            arguments["tunnel"] = {kind: settings}
        start = "torchrun" if self.config.by_torchrun else "python"
        shown = {
            "profile": self.profile,
            "mode": "attached: follows the log, ends with the job's exit code" if self.attached else "detached",
            "executor": {name: masked(arguments)},
            "inherited": [name for name in PASSED_ON if self._inherits() and os.environ.get(name)],
            "command": f"{start} {shlex.join(self.command(code))}",
            "code": f"{len(self.tree.files)} files, {self.tree.size_bytes / 2**20:.1f} MiB of {self.tree.root}",
        }
        return f"# submission\n{to_yaml({'submission': shown})}# train.yaml of the job\n" + to_yaml(
            {"train.yaml": masked(self.script_config())}
        )


def plan_submission(spec: CommandSpec, composed: Composed, config: RunConfig, *, profile: str, attached: bool) -> Plan:
    """Checks all that can be checked without NeMo-Run.

    Raises:
        KitError: a key of the profile is missing, the code is too large, or there is nothing a job could run.
    """
    plan = Plan(spec, composed, config, profile, attached, find_target(spec), code_tree(Path.cwd()))
    plan.command(CODE_FOLDER)
    executor_arguments(config, attached=attached)
    if not attached and config.executor in ("local", "docker"):
        raise KitError(f"executor {config.executor!r} ends with the program that started it; use --run {profile}")
    return plan


def submit(plan: Plan) -> int:
    """Packages the code, submits the job, and for an attached one follows it; returns the exit code.

    Raises:
        KitError: NeMo-Run is not installed, or an artifact that the job reads is missing.
    """
    run = import_nemo_run()
    from nemotron.kit.execution.packager import ArchivePackager

    _pin(plan)
    job = new_job(plan.spec.path)
    data = plan.script_config()
    config_file = job.write("train.yaml", data)
    archive = job.folder / "code.tar.gz"
    write_archive(plan.tree, archive, {CONFIG_IN_CODE: config_file.read_bytes()})
    code = CODE_FOLDER
    if plan.config.executor == "local":
        code = str(job.folder / "code")
        with tarfile.open(archive) as packed:
            packed.extractall(code, filter="fully_trusted")
    environment = plan.environment(code, job.name)
    _tell_about_registry(environment)
    executor = build_executor(
        plan.run_config(),
        attached=plan.attached,
        env_vars=environment,
        packager=ArchivePackager(archive=str(archive)),
    )
    first, *arguments = plan.command(code)
    module = first == "-m"
    path = arguments.pop(0) if module else first
    script = run.Script(path=path, args=arguments, entrypoint="python", m=module)
    _write_provenance(plan, job, environment, [first, *([path] if module else []), *arguments])
    title = plan.config.job_name or "-".join(plan.spec.path)
    return _run(run, plan, job, executor, script, title, code)


def _run(run: Any, plan: Plan, job: Job, executor: Any, script: Any, title: str, code: str) -> int:
    os.environ.setdefault("LOGLEVEL", "WARNING")  # torchrun's own level, which NeMo-Run sets to INFO
    here = contextlib.chdir(code) if plan.config.executor == "local" else contextlib.nullcontext()
    with here, run.Experiment(title) as experiment:  # its end waits for an attached job
        experiment.add(script, executor=executor, name=plan.spec.path[-1], tail_logs=plan.attached)
        experiment.run(detach=not plan.attached, tail_logs=plan.attached)
    if not plan.attached:
        _tell_how_to_follow(str(experiment._id), job)
        return 0
    ended = exit_code(experiment, plan.config)
    click.echo(f"{job.name}: exit code {ended}; {job.folder}", err=True)
    return ended


def _tell_how_to_follow(identity: str, job: Job) -> None:
    click.echo(f"submitted {job.name}: {identity}", err=True)
    for what in ("status", "logs", "cancel"):
        number = "" if what == "status" else " 0"
        click.echo(f"  nemo experiment {what} {identity}{number}", err=True)
    click.echo(f"  {job.folder}", err=True)


def _write_provenance(plan: Plan, job: Job, environment: dict[str, str], command: list[str]) -> None:
    name, arguments = executor_arguments(plan.run_config(), attached=plan.attached, env_vars=environment)
    job.write(
        "job.yaml",
        provenance(plan.spec, plan.composed)
        | {
            "runs": {
                "profile": plan.profile,
                "attached": plan.attached,
                "executor": name,
                "arguments": masked({key: _plain(value) for key, value in arguments.items()}),
                "command": command,
                "packaged_files": len(plan.tree.files),
            }
        },
    )


def _plain(value: Any) -> Any:
    return [value[0], dict(value[1])] if isinstance(value, tuple) else value


def _pin(plan: Plan) -> None:
    """Writes the version that each reference means now into the job's configuration.

    Raises:
        KitError: there is no such artifact; the job would fail later.
    """
    from nemotron.kit.artifacts import ArtifactRegistry

    run = plan.composed.data.get("run") or {}
    for name, reference in plan.composed.references.items():
        if not reference.startswith(("/", ".", "~")):
            try:
                run[name] = str(ArtifactRegistry().find(reference))
            except KitError as error:
                raise KitError(f"artifact {name}: {error}") from error


def _registry_root() -> str:
    from nemotron.kit.artifacts import default_root

    return default_root()


def _tell_about_registry(environment: dict[str, str]) -> None:
    if "NEMOTRON_ARTIFACTS" not in environment:
        note(
            f"the job does not see the artifact registry {_registry_root()}; set NEMOTRON_ARTIFACTS to a URL (such as "
            "s3://…) that both sides reach"
        )


def _with_code_path(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _with_code_path(value) for key, value in data.items()}
    if isinstance(data, list):
        return [_with_code_path(value) for value in data]
    if isinstance(data, str):
        return data.replace("${oc.env:PWD}", "${oc.env:NEMOTRON_CODE,${oc.env:PWD}}")
    return data
