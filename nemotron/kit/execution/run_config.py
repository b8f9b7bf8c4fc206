"""`RunConfig`: where and how a job runs; the keys of a profile in env.toml and of `--run.<key>`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from nemotron.kit.errors import KitError

__all__ = ["RunConfig"]


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A resolved profile. None leaves a choice to the executor."""

    executor: Literal["local", "docker", "slurm", "skypilot", "dgxcloud", "lepton"] = "local"
    launcher: Literal["torchrun", "none"] | None = None  # None: torchrun where there is more than one process
    nproc_per_node: int | None = None  # processes torchrun starts per node; None: gpus_per_node, else 1
    nodes: int = 1
    gpus_per_node: int | None = None
    ntasks_per_node: int | None = None  # tasks that the scheduler itself starts per node, without torchrun
    job_name: str | None = None
    env_vars: dict[str, str] = field(default_factory=dict)
    setup: list[str] | str | None = None  # shell lines before the command
    retries: int = 0
    dry_run: bool = False
    detach: bool | None = None  # None: as --run or --batch says

    # Containers
    container_image: str | None = None
    mounts: list[str] = field(default_factory=list)  # "/host:/container"
    shm_size: str | None = None  # Docker
    network: str | None = None  # Docker
    runtime: str | None = None  # Docker, such as nvidia

    # Slurm
    account: str | None = None
    partition: str | None = None
    run_partition: str | None = None  # with --run, over partition
    batch_partition: str | None = None  # with --batch, over partition
    time: str = "01:00:00"
    cpus_per_task: int | None = None
    mem: str | None = None
    exclusive: bool | None = None
    qos: str | None = None
    constraint: str | None = None
    gres: str | None = None
    array: str | None = None
    additional_parameters: dict[str, Any] = field(default_factory=dict)  # further sbatch flags
    srun_args: list[str] = field(default_factory=list)

    # How to reach Slurm
    tunnel: Literal["local", "ssh"] | None = None  # None: ssh where a host is given
    host: str | None = None
    user: str | None = None
    identity: str | None = None  # a private key's file
    remote_job_dir: str | None = None  # a folder that the compute nodes see

    # SkyPilot
    cloud: str | None = None
    region: str | None = None
    zone: str | None = None
    gpus: str | None = None  # the kind, such as H100
    cpus: int | None = None
    memory: int | None = None  # GiB
    instance_type: str | None = None
    cluster_name: str | None = None
    use_spot: bool | None = None
    disk_size: int | None = None  # GiB
    autodown: bool = False
    idle_minutes_to_autostop: int | None = None

    # DGX Cloud
    base_url: str | None = None
    kube_apiserver_url: str | None = None
    client_id: str | None = None
    client_secret: str | None = None
    project_name: str | None = None
    pvc_nemo_run_dir: str | None = None
    pvcs: list[dict[str, Any]] = field(default_factory=list)

    # Lepton
    nemo_run_dir: str | None = None
    resource_shape: str | None = None
    node_group: str | None = None
    node_reservation: str | None = None
    storage: list[dict[str, Any]] = field(default_factory=list)  # {path, mount_path, from}
    secret_vars: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("nodes", "nproc_per_node", "ntasks_per_node"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise KitError(f"{name} must be at least 1, got {value}")

    @property
    def processes_per_node(self) -> int:
        """What one node runs."""
        return self.nproc_per_node or self.ntasks_per_node or self.gpus_per_node or 1

    @property
    def by_torchrun(self) -> bool:
        """Whether torchrun starts the processes."""
        if self.launcher is not None:
            return self.launcher == "torchrun"
        if self.nproc_per_node is None and self.ntasks_per_node is not None:
            return False
        return self.processes_per_node * self.nodes > 1

    @property
    def by_ssh(self) -> bool:
        """Whether Slurm is reached through SSH."""
        return self.tunnel == "ssh" or (self.tunnel is None and self.host is not None)

    def partition_for(self, *, attached: bool) -> str | None:
        """The partition of a `--run` (attached) or a `--batch` job."""
        return (self.run_partition if attached else self.batch_partition) or self.partition
