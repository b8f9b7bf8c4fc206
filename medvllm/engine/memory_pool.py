"""One preallocated arena for the model's intermediate tensors, reused by every layer of every step."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["MemoryPool", "PoolStats"]

_ALIGNMENT = 64  # bytes: a cache line, and the widest vector


@dataclass(frozen=True, slots=True)
class PoolStats:
    """What the pool did so far."""

    device: str
    reserved_bytes: int  # of the arena
    max_bytes: int | None  # the cap; None for none
    hits: int  # tensors placed in the arena
    misses: int  # tensors that had to be allocated
    fallback_bytes: int  # bytes of those
    hit_rate: float | None  # None before the first request


class MemoryPool:
    """Named regions of one arena. A region holds one tensor at a time: taking it again overwrites the last one.

    Names are roles such as "qkv_proj": the layers run one after another, so the last layer's tensor of a role is dead
    when the next layer takes it. What does not fit in its region is allocated by torch and counted; `begin_step` then
    enlarges the arena, as far as the cap allows, smallest need first.

    Attributes:
        arena: the memory, as bytes.
    """

    def __init__(self, device: torch.device, *, max_bytes: int | None = None) -> None:
        self.device, self.max_bytes = device, max_bytes
        self._wanted: dict[str, int] = {}  # role → bytes
        self._regions: dict[str, tuple[int, int]] = {}  # role → offset and bytes
        self.arena = torch.empty(0, dtype=torch.uint8, device=device)
        self._views: dict[tuple[str, tuple[int, ...], torch.dtype], Tensor] = {}
        self._grown = False
        self._hits = self._misses = self._fallback_bytes = 0

    def reserve(self, role: str, bytes_: int) -> None:
        """Announces the most that a role will ask for; the next step finds room for it."""
        self._wanted[role] = max(bytes_, self._wanted.get(role, 0))
        self._grown = True

    def begin_step(self) -> None:
        """Enlarges the arena where the last step, or `reserve`, asked for more."""
        if not self._grown:
            return
        self._grown = False
        regions, end = {}, 0
        for role, size in sorted(self._wanted.items(), key=lambda item: item[1]):
            size = -(-size // _ALIGNMENT) * _ALIGNMENT
            if self.max_bytes is None or end + size <= self.max_bytes:
                regions[role] = (end, size)
                end += size
        if regions != self._regions:
            self._views.clear()
            self.arena = torch.empty(end, dtype=torch.uint8, device=self.device)
            self._regions = regions

    def take(self, role: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """An uninitialised tensor for `role`, valid until the role is taken again."""
        key = (role, shape, dtype)
        view = self._views.get(key)
        if view is not None:
            self._hits += 1
            return view
        size = math.prod(shape) * dtype.itemsize
        offset, room = self._regions.get(role, (0, -1))
        if size > room:
            self._miss(role, size)
            return torch.empty(shape, dtype=dtype, device=self.device)
        self._hits += 1
        view = self.arena[offset : offset + size].view(dtype).view(shape)
        if len(self._views) >= 4096:  # prompts of every length make a shape each
            self._views.clear()
        self._views[key] = view
        return view

    def _miss(self, role: str, size: int) -> None:
        self._misses += 1
        self._fallback_bytes += size
        if size > self._wanted.get(role, 0):
            self.reserve(role, size)

    def stats(self) -> PoolStats:
        """The counters."""
        taken = self._hits + self._misses
        return PoolStats(
            device=str(self.device),
            reserved_bytes=self.arena.numel(),
            max_bytes=self.max_bytes,
            hits=self._hits,
            misses=self._misses,
            fallback_bytes=self._fallback_bytes,
            hit_rate=self._hits / taken if taken else None,
        )
