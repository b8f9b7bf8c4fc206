"""Which GPUs a process computes on."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from llenergymeasure.errors import LemError

if TYPE_CHECKING:
    from llenergymeasure.config import ExperimentConfig

__all__ = ["only_gpus", "process_gpus"]

_VISIBLE = "CUDA_VISIBLE_DEVICES"


def process_gpus(config: ExperimentConfig, *, process_index: int, num_processes: int) -> list[int]:
    """The GPUs of one process: those of the list dealt out in turn.

    Raises:
        LemError: there are fewer than processes.
    """
    if num_processes > len(config.gpus):
        raise LemError(f"{num_processes} processes need as many GPUs, got gpus {list(config.gpus)}; list more")
    return list(config.gpus[process_index::num_processes])


@contextmanager
def only_gpus(gpus: Sequence[int]) -> Iterator[None]:
    """Shows an engine that is started within only these of the visible GPUs: engines take those they see.

    Raises:
        LemError: one of them is not visible.
    """
    before = os.environ.get(_VISIBLE)
    names = [name.strip() for name in before.split(",")] if before else list(map(str, range(max(gpus) + 1)))
    if max(gpus) >= len(names):
        raise LemError(f"gpus names {max(gpus)}, but {len(names)} are visible; see: lem gpus")
    os.environ[_VISIBLE] = ",".join(names[index] for index in gpus)
    try:
        yield
    finally:
        if before is None:
            del os.environ[_VISIBLE]
        else:
            os.environ[_VISIBLE] = before
