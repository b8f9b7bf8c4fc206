"""The tensor-parallel group that layers split themselves over; one rank of one where none was set."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["all_reduce", "gather_last_dim", "set_tensor_parallel_group", "smallest_over_ranks", "tp_rank", "tp_size"]

_group: dist.ProcessGroup | None = None


def set_tensor_parallel_group(group: dist.ProcessGroup | None) -> None:
    """Makes `group` the one that layers built from now on split over; None for a single rank."""
    global _group
    _group = group


def tp_size() -> int:
    """Ranks in the group."""
    return 1 if _group is None else dist.get_world_size(_group)


def tp_rank() -> int:
    """This process's place in the group."""
    return 0 if _group is None else dist.get_rank(_group)


def all_reduce(x: Tensor) -> Tensor:
    """The sum of every rank's `x`, in place."""
    if _group is not None:
        dist.all_reduce(x, group=_group)
    return x


def gather_last_dim(x: Tensor) -> Tensor:
    """Every rank's `x` (n, part) side by side, (n, part × ranks), on every rank."""
    if _group is None:
        return x
    parts = [torch.empty_like(x) for _ in range(tp_size())]
    dist.all_gather(parts, x.contiguous(), group=_group)
    return torch.cat(parts, dim=-1)


def smallest_over_ranks(value: int) -> int:
    """The smallest of all ranks' values."""
    if _group is None:
        return value
    device = "cuda" if dist.get_backend(_group) == "nccl" else "cpu"
    found = torch.tensor([value], device=device)
    dist.all_reduce(found, op=dist.ReduceOp.MIN, group=_group)
    return int(found)
