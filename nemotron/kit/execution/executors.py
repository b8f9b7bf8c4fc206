"""From a RunConfig to an executor of NeMo-Run: which class, with which arguments."""

from __future__ import annotations

import logging
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nemotron.kit.errors import KitError
from nemotron.kit.execution.run_config import RunConfig

__all__ = ["CODE_FOLDER", "build_executor", "executor_arguments", "import_nemo_run", "nemo_run_home"]

# Where NeMo-Run puts the packaged code: the folder in a container, and in an sbatch script a name that it replaces.
CODE_FOLDER = "/nemo_run/code"
_REQUIRED = {
    "local": (),
    "docker": ("container_image",),
    "slurm": ("account",),
    "skypilot": (),
    "dgxcloud": (
        "base_url",
        "kube_apiserver_url",
        "client_id",
        "client_secret",
        "project_name",
        "container_image",
        "pvc_nemo_run_dir",
    ),
    "lepton": ("container_image", "nemo_run_dir"),
}


def import_nemo_run() -> Any:
    """The package `nemo_run`; takes seconds.

    Raises:
        KitError: it is not installed, or does not import.
    """
    try:
        import nemo_run
    except ModuleNotFoundError as error:
        if error.name == "nemo_run":
            raise KitError(
                "--run and --batch need NeMo-Run; install the extra kit-run: pip install 'medvllm[kit-run]'"
            ) from error
        raise KitError(
            f"NeMo-Run does not import: {error}; install the extra kit-run again, which pins what it needs"
        ) from error
    logging.getLogger("torchx").setLevel(logging.WARNING)
    return nemo_run


def nemo_run_home() -> Path:
    """$NEMORUN_HOME, else ~/.nemo_run."""
    return Path(os.environ.get("NEMORUN_HOME") or Path.home() / ".nemo_run")


def executor_arguments(
    config: RunConfig, *, attached: bool = True, env_vars: dict[str, str] | None = None
) -> tuple[str, dict[str, Any]]:
    """(class of NeMo-Run, its arguments); what is None in the profile is left to the class. Imports nothing.

    `tunnel` is given as (class, arguments), too.

    Raises:
        KitError: a key that this executor needs is missing.
    """
    missing = [name for name in _REQUIRED[config.executor] if not getattr(config, name)]
    if config.by_ssh and config.executor == "slurm":
        missing += [name for name in ("host", "user", "remote_job_dir") if not getattr(config, name)]
    if missing:
        raise KitError(
            f"a profile with executor {config.executor!r} needs {', '.join(missing)}; set it in env.toml, or by "
            f"--run.{missing[0]}"
        )
    make: Callable[[RunConfig, bool], tuple[str, dict[str, Any]]] = _MAKERS[config.executor]
    name, arguments = make(config, attached)
    arguments |= {
        "launcher": "torchrun" if config.by_torchrun else None,
        "env_vars": {**(env_vars or {}), **config.env_vars},
    }
    if config.retries:
        arguments["retries"] = config.retries
    if name == "SlurmExecutor":  # written into a script without quotes by NeMo-Run
        arguments["env_vars"] = {key: _exported(value) for key, value in arguments["env_vars"].items()}
    return name, {key: value for key, value in arguments.items() if value is not None and value != [] and value != {}}


def _exported(value: str) -> str:
    """A value for `export KEY=value`; `$PATH` in it is the job's own."""
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("`", "\\`") + '"'


def build_executor(
    config: RunConfig,
    *,
    attached: bool = True,
    env_vars: dict[str, str] | None = None,
    packager: Any = None,
) -> Any:
    """The executor of NeMo-Run that a profile describes.

    Args:
        config: a profile, from `load_run_profile` or made by hand.
        attached: which partition to take: `run_partition` or `batch_partition`.
        env_vars: variables of the job, under the profile's own.
        packager: how code gets there; without one, NeMo-Run's default.

    Raises:
        KitError: NeMo-Run is not installed, or a key is missing.
    """
    name, arguments = executor_arguments(config, attached=attached, env_vars=env_vars)
    run = import_nemo_run()
    if "tunnel" in arguments:
        kind, settings = arguments["tunnel"]
        arguments["tunnel"] = getattr(run, kind)(**settings)
    if packager is not None:
        arguments["packager"] = packager
    return getattr(run, name)(**arguments)


def setup_lines(config: RunConfig) -> list[str]:
    """The profile's shell lines."""
    if config.setup is None:
        return []
    return [config.setup] if isinstance(config.setup, str) else list(config.setup)


def _local(config: RunConfig, attached: bool) -> tuple[str, dict[str, Any]]:
    return "LocalExecutor", {"ntasks_per_node": config.processes_per_node, "nodes": config.nodes}


def _docker(config: RunConfig, attached: bool) -> tuple[str, dict[str, Any]]:
    return "DockerExecutor", {
        "container_image": config.container_image,
        "ntasks_per_node": config.processes_per_node,
        "num_gpus": config.gpus_per_node,
        "shm_size": config.shm_size,
        "runtime": config.runtime,
        "network": config.network,
        "volumes": list(config.mounts),
    }


def _slurm(config: RunConfig, attached: bool) -> tuple[str, dict[str, Any]]:
    lines = setup_lines(config)
    if config.container_image is None and not config.by_ssh:  # the job finds this interpreter and its torchrun
        lines.insert(0, f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH")
    tunnel: tuple[str, dict[str, Any]]
    if config.by_ssh:
        tunnel = (
            "SSHTunnel",
            {
                "host": config.host,
                "user": config.user,
                "job_dir": config.remote_job_dir,
                "identity": config.identity,
            },
        )
    else:  # NeMo-Run finds its jobs again only below its own home
        tunnel = "LocalTunnel", {"job_dir": str(nemo_run_home() / "experiments")}
    return "SlurmExecutor", {
        "account": config.account,
        "partition": config.partition_for(attached=attached),
        "time": config.time,
        "nodes": config.nodes,
        "ntasks_per_node": 1 if config.by_torchrun else config.ntasks_per_node or 1,
        "torchrun_nproc_per_node": config.processes_per_node if config.by_torchrun else None,
        "gpus_per_node": config.gpus_per_node,
        "cpus_per_task": config.cpus_per_task,
        "mem": config.mem,
        "exclusive": config.exclusive,
        "qos": config.qos,
        "constraint": config.constraint,
        "gres": config.gres,
        "array": config.array,
        "container_image": config.container_image,
        "container_mounts": list(config.mounts),
        "additional_parameters": dict(config.additional_parameters),
        "srun_args": list(config.srun_args),
        "setup_lines": "\n".join(lines) or None,
        "tunnel": tunnel,
    }


def _skypilot(config: RunConfig, attached: bool) -> tuple[str, dict[str, Any]]:
    return "SkypilotExecutor", {
        "container_image": config.container_image,
        "cloud": config.cloud,
        "region": config.region,
        "zone": config.zone,
        "gpus": config.gpus,
        "gpus_per_node": config.gpus_per_node,
        "cpus": config.cpus,
        "memory": config.memory,
        "instance_type": config.instance_type,
        "num_nodes": config.nodes,
        "use_spot": config.use_spot,
        "disk_size": config.disk_size,
        "cluster_name": config.cluster_name,
        "setup": "\n".join(setup_lines(config)) or None,
        "autodown": config.autodown,
        "idle_minutes_to_autostop": config.idle_minutes_to_autostop,
        "torchrun_nproc_per_node": config.processes_per_node if config.by_torchrun else None,
        "file_mounts": {there: here for here, _, there in (mount.partition(":") for mount in config.mounts)},
    }


def _dgxcloud(config: RunConfig, attached: bool) -> tuple[str, dict[str, Any]]:
    return "DGXCloudExecutor", {
        "base_url": config.base_url,
        "kube_apiserver_url": config.kube_apiserver_url,
        "client_id": config.client_id,
        "client_secret": config.client_secret,
        "project_name": config.project_name,
        "container_image": config.container_image,
        "pvc_nemo_run_dir": config.pvc_nemo_run_dir,
        "nodes": config.nodes,
        "gpus_per_node": config.gpus_per_node or 0,
        "nprocs_per_node": config.processes_per_node,
        "pvcs": list(config.pvcs),
    }


def _lepton(config: RunConfig, attached: bool) -> tuple[str, dict[str, Any]]:
    return "LeptonExecutor", {
        "container_image": config.container_image,
        "nemo_run_dir": config.nemo_run_dir,
        "nodes": config.nodes,
        "gpus_per_node": config.gpus_per_node or 0,
        "nprocs_per_node": config.processes_per_node,
        "resource_shape": config.resource_shape,
        "node_group": config.node_group,
        "node_reservation": config.node_reservation,
        "mounts": list(config.storage),
        "secret_vars": dict(config.secret_vars),
        "pre_launch_commands": setup_lines(config),
    }


_MAKERS: dict[str, Callable[[RunConfig, bool], tuple[str, dict[str, Any]]]] = {
    "local": _local,
    "docker": _docker,
    "slurm": _slurm,
    "skypilot": _skypilot,
    "dgxcloud": _dgxcloud,
    "lepton": _lepton,
}
