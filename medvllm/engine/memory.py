"""How much memory there is, and how it is shared out between weights and the KV cache."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from medvllm.errors import MedvllmError

__all__ = ["CACHE_SHARES", "available_bytes", "kv_blocks", "mib", "peak_bytes", "require"]

# Of the memory there is, what the cache takes by itself: with prefix caching a process fills it sooner or later, and on
# a CPU it is everybody's memory.
CACHE_SHARES = {"cpu": 0.125, "cuda": 0.5}


def mib(count: float) -> str:
    """Bytes as MiB for people."""
    return f"{count / 2**20:,.0f} MiB"


def available_bytes(device: str) -> int | None:
    """Memory that can still be taken on `device`; None where the system does not say."""
    if device == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    found = [each for each in (_meminfo(), _cgroup()) if each is not None]
    return min(found) if found else None


def _meminfo() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


def _cgroup() -> int | None:
    """What a container's limit (cgroup v2) leaves."""
    folder = Path("/sys/fs/cgroup")
    try:
        limit = (folder / "memory.max").read_text().strip()
        used = int((folder / "memory.current").read_text())
    except (OSError, ValueError):
        return None
    return None if limit == "max" else max(0, int(limit) - used)


def peak_bytes(device: str) -> int | None:
    """The most memory this process has held: resident on a CPU, allocated by torch on a GPU; None where unknown.

    From VmHWM, for `ru_maxrss` of a started process begins at what its parent held.
    """
    if device == "cuda":
        return int(torch.cuda.max_memory_allocated())
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)


def require(needed: int, available: int | None, what: str) -> None:
    """Refuses to begin what there is no memory for."""
    if available is not None and needed > available:
        raise MedvllmError(
            f"{what} needs {mib(needed)}, {mib(available)} are available; use a smaller model or dtype, or free memory"
        )


def kv_blocks(
    *,
    block_bytes: int,
    block_size: int,
    max_model_len: int,
    max_num_seqs: int,
    budget: int | None,
    limit: int | None,
    share: float,
) -> int:
    """Blocks the cache gets.

    Args:
        block_bytes: bytes of a block over all layers.
        budget: bytes the user gave; None takes what `max_num_seqs` sequences of `max_model_len` tokens need, at most
            `share` of `limit`, but for one sequence at least.
        limit: bytes available; None where unknown.
        share: of CACHE_SHARES.

    Raises:
        MedvllmError: not even one sequence of `max_model_len` tokens fits; says how much is needed.
    """
    for_one = -(-max_model_len // block_size)
    wanted = budget
    if wanted is None:
        wanted = for_one * max_num_seqs * block_bytes
        if limit is not None:
            wanted = min(wanted, max(int(limit * share), min(for_one * block_bytes, limit)))
    elif limit is not None and wanted > limit:
        require(wanted, limit, "the KV cache asked for")
    blocks = wanted // block_bytes
    if blocks < for_one:
        source = "kv_cache_bytes" if budget is not None else "the memory available"
        raise MedvllmError(
            f"{source} holds {blocks} KV blocks of {block_size} tokens ({mib(wanted)}), but one sequence of "
            f"max_model_len={max_model_len} needs {for_one} ({mib(for_one * block_bytes)}); "
            f"give at least {for_one * block_bytes} bytes, or a smaller max_model_len"
        )
    return blocks
