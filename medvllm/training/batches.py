"""Batches of an epoch by number: which examples, in which order, on which rank; the same for the same seed."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from medvllm.errors import MedvllmError

__all__ = ["Batch", "check_dataset", "eval_plan", "example_batch", "load", "train_plan"]

# Steps whose examples are sorted by length together: more save padding, fewer keep the order random.
_SORTED_STEPS = 50

Batch = list[int]  # the examples' numbers; empty: none is left for this rank


def check_dataset(dataset: Any, name: str) -> None:
    """Refuses what is no map-style dataset, or has no example.

    Raises:
        MedvllmError: says what came instead.
    """
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        raise MedvllmError(
            f"the {name} data must have __len__ and __getitem__, as a torch Dataset or a list has; "
            f"got {type(dataset).__name__}"
        )
    if len(dataset) == 0:
        raise MedvllmError(f"the {name} data has no example; give at least one")


def train_plan(
    examples: int,
    *,
    batch_size: int,
    grad_accum: int = 1,
    ranks: int = 1,
    rank: int = 0,
    seed: int,
    epoch: int,
    lengths: Sequence[int] | None = None,
) -> list[list[Batch]]:
    """For each step of an epoch the batches of one rank, from a permutation drawn from (seed, epoch).

    A step takes the next `batch_size * grad_accum * ranks` examples of the permutation, and these are parted into
    batches and ranks: two ranks of 8, and one that accumulates twice 8, do what one of 16 does. The examples of the
    last, smaller step are spread evenly; a rank may get none. With `lengths` (one an example) a step has examples of
    similar length.
    """
    generator = torch.Generator().manual_seed((seed << 20) + epoch)
    order = torch.randperm(examples, generator=generator).tolist()
    at_once = batch_size * grad_accum * ranks
    if lengths is not None:
        block = at_once * _SORTED_STEPS
        order = [
            example
            for start in range(0, examples, block)
            for example in sorted(order[start : start + block], key=lengths.__getitem__, reverse=True)
        ]
    steps = [order[start : start + at_once] for start in range(0, examples, at_once)]
    if lengths is not None:
        whole = steps[: examples // at_once]
        mixed = torch.randperm(len(whole), generator=generator).tolist()
        steps = [whole[place] for place in mixed] + steps[len(whole) :]
    return [
        [_part(batch, ranks, rank) for batch in _parts(step, math.ceil(len(step) / (batch_size * ranks)))]
        for step in steps
    ]


def eval_plan(examples: int, *, batch_size: int, ranks: int, rank: int) -> list[Batch]:
    """The batches of one rank over all examples in order; every rank has as many, the last may be empty."""
    at_once = batch_size * ranks
    return [
        _part(list(range(start, min(start + at_once, examples))), ranks, rank) for start in range(0, examples, at_once)
    ]


def _parts(numbers: list[int], count: int) -> list[list[int]]:
    return [_part(numbers, count, place) for place in range(count)]


def _part(numbers: list[int], count: int, place: int) -> list[int]:
    """The place-th of `count` consecutive parts of nearly the same size."""
    size, more = divmod(len(numbers), count)
    start = place * size + min(place, more)
    return numbers[start : start + size + (place < more)]


def load(
    dataset: Any, plan: Sequence[Batch], *, seed: int, num_workers: int = 0, pin_memory: bool = False
) -> Iterator[tuple[Any, Batch]]:
    """The collated batches of a plan, each with its examples' numbers.

    Where a rank has no example it gets the first one of the data, with an empty list: the ranks compute in step, and
    the trainer counts that batch as nothing.
    """
    source: Any = _Seeded(dataset, seed) if num_workers else dataset
    loader = DataLoader(
        source,
        batch_sampler=[numbers or [0] for numbers in plan],
        collate_fn=_collate_fn(dataset),
        num_workers=num_workers,
        pin_memory=pin_memory,
        generator=torch.Generator().manual_seed(seed),  # or it would draw from the generator that dropout uses
    )
    yield from zip(loader, plan, strict=True)


def example_batch(dataset: Any, *, examples: int = 2) -> Any:
    """The first examples as a batch."""
    batch, _ = next(load(dataset, [list(range(min(examples, len(dataset))))], seed=0))
    return batch


def _collate_fn(dataset: Any) -> Callable[[list[Any]], Any] | None:
    """The dataset's own collate_fn, also of the dataset that a torch Subset is a part of; None: torch's."""
    while dataset is not None:
        own: Callable[[list[Any]], Any] | None = getattr(dataset, "collate_fn", None)
        if own is not None:
            return own
        dataset = getattr(dataset, "dataset", None)
    return None


class _Seeded(Dataset):
    """A dataset for worker processes: chance in an example depends on its number, not on the worker that loads it."""

    def __init__(self, dataset: Any, seed: int) -> None:
        self.dataset, self.seed = dataset, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, number: int) -> Any:
        import numpy

        seed = (self.seed * 1_000_003 + number) % 2**32
        random.seed(seed)
        numpy.random.seed(seed)
        torch.manual_seed(seed)
        return self.dataset[number]
