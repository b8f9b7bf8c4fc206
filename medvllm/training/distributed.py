"""The ranks of a torchrun job, or the one process there is without it; and how they share a model."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from medvllm.errors import MedvllmError
from medvllm.utils.device import resolve_device

__all__ = ["Ranks", "full", "gradients_apart", "like", "open_ranks", "share"]


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among the job's, and its device."""

    rank: int
    count: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process writes the files and speaks."""
        return self.rank == 0

    def total(self, value: Tensor) -> Tensor:
        """The sum over the ranks; `value` itself is overwritten."""
        if self.count > 1:
            dist.all_reduce(value)
        return value

    def barrier(self) -> None:
        """Waits for all."""
        if self.count > 1:
            dist.barrier()

    def gathered(self, value: Any) -> list[Any]:
        """The values of all ranks, in their order, on every rank."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        return values


@contextmanager
def open_ranks(device: str, *, threads: int | None = None) -> Iterator[Ranks]:
    """Joins the job that torchrun describes in the environment: NCCL on GPUs, gloo on CPUs.

    Raises:
        MedvllmError: the device is not there, or the job's environment is incomplete.
    """
    kind = resolve_device(device)
    if threads is not None:
        torch.set_num_threads(threads)
    count = int(os.environ.get("WORLD_SIZE", 1))
    place = _place(kind)
    if count == 1:
        yield Ranks(0, 1, place)
        return
    if kind == "xla":
        raise MedvllmError("--device xla runs in one process; start it without torchrun")
    if dist.is_initialized():  # the caller's own job
        yield Ranks(dist.get_rank(), dist.get_world_size(), place)
        return
    try:
        dist.init_process_group("nccl" if kind == "cuda" else "gloo")
    except ValueError as error:
        raise MedvllmError(f"WORLD_SIZE is {count}, but {error}; start the ranks with torchrun") from error
    try:
        yield Ranks(dist.get_rank(), count, place)
    finally:
        dist.destroy_process_group()


def _place(kind: str) -> torch.device:
    if kind == "xla":
        import torch_xla

        place: torch.device = torch_xla.device()
        return place
    if kind == "cpu":
        return torch.device("cpu")
    local = int(os.environ.get("LOCAL_RANK", 0))
    if local >= torch.cuda.device_count():
        raise MedvllmError(
            f"rank {local} of this machine has no GPU, it has {torch.cuda.device_count()}; lower --nproc-per-node"
        )
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


def share(model: nn.Module, ranks: Ranks, *, parallel: str, unused: bool) -> nn.Module:
    """The module to call in training: the model itself, in DistributedDataParallel, or with its weights sharded.

    `parallel` is ddp or fsdp; FSDP shards the model in place: each block of a ModuleList by itself, then the rest.
    `unused`: the loss does not depend on some weight (a pooler that is there and not used), which DDP must look for in
    every step.
    """
    if ranks.count == 1:
        return model
    if parallel == "ddp":
        ids = [ranks.device.index] if ranks.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=ids, find_unused_parameters=unused)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    # It warns of in-place changes of what the model returns; there are none here.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view")
    scales = {name: getattr(weight, "lr_scale", None) for name, weight in model.named_parameters()}
    mesh = init_device_mesh(ranks.device.type, (ranks.count,))
    for blocks in (module for module in model.modules() if isinstance(module, nn.ModuleList)):
        for block in blocks:
            fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for name, weight in model.named_parameters():  # these are new objects
        if scales[name] is not None:
            weight.lr_scale = scales[name]
    return model


def gradients_apart(module: nn.Module, *, apart: bool) -> AbstractContextManager[Any]:
    """Between the batches of a step gradients are only added up on each rank; the last one sends them."""
    if isinstance(module, DistributedDataParallel) and apart:
        inside: AbstractContextManager[Any] = module.no_sync()
        return inside
    if hasattr(module, "set_requires_gradient_sync"):  # a module that FSDP shards
        module.set_requires_gradient_sync(not apart)
    return nullcontext()


def full(value: Any) -> Any:
    """A tensor whole and on the CPU, whatever part of it this rank holds; other values as they are. All ranks call."""
    if not isinstance(value, Tensor):
        return value
    value = value.detach()
    if hasattr(value, "full_tensor"):
        value = value.full_tensor()
    return value.cpu()


def like(value: Tensor, target: Tensor) -> Tensor:
    """A whole tensor on the device of `target`, and cut as it is cut. All ranks call."""
    if hasattr(target, "device_mesh"):
        from torch.distributed.tensor import distribute_tensor

        return distribute_tensor(value.to(target.device), target.device_mesh, target.placements)
    return value.to(target.device)
