"""The ranks of a torchrun job, or the one process there is without it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist

from nemotron.kit.errors import KitError

__all__ = ["Ranks", "open_ranks"]


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among the job's."""

    rank: int
    count: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process writes the files and speaks."""
        return self.rank == 0

    def barrier(self) -> None:
        """Waits for all."""
        if self.count > 1:
            dist.barrier()

    def total(self, value: torch.Tensor) -> torch.Tensor:
        """The sum over the ranks."""
        if self.count > 1:
            dist.all_reduce(value)
        return value


@contextmanager
def open_ranks(device: str, *, threads: int) -> Iterator[Ranks]:
    """Joins the job that torchrun describes in the environment: NCCL on GPUs, gloo on CPUs.

    Args:
        device: auto, cpu or cuda.
        threads: CPU threads of this process; 0 leaves torch's choice.

    Raises:
        KitError: cuda was asked for and is not there.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise KitError("device=cuda was asked for, but torch sees no GPU; use device=cpu or device=auto")
    if threads:
        torch.set_num_threads(threads)
    on_gpu = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    local = int(os.environ.get("LOCAL_RANK", 0))
    place = torch.device("cuda", local) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(place)
    count = int(os.environ.get("WORLD_SIZE", 1))
    if count == 1:
        yield Ranks(0, 1, place)
        return
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield Ranks(dist.get_rank(), count, place)
    finally:
        dist.destroy_process_group()
