"""blend.json and the order in which training reads its shards.

```json
{"train": [["0.75", "/data/code/train_00000"], ["0.25", "/data/notes/train_00000"]], "valid": […], "test": […]}
```
A prefix that is no absolute path is relative to the blend.json.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from nemotron.kit.errors import KitError
from nemotron.recipes.nano3.data.megatron_shards import Shard

__all__ = ["Batch", "ConversationSource", "Source", "TextSource", "read_blend"]

# inputs, targets and mask (1 where the target counts), each (samples, seq_length); int64, int64, float32
Batch = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]


def read_blend(path: Path) -> dict[str, list[tuple[float, Path]]]:
    """Split → weights and prefixes.

    Raises:
        KitError: there is no such file, or it is no blend.
    """
    try:
        blend = json.loads(path.read_text(encoding="utf-8"))
        return {
            split: [(float(weight), path.parent / prefix) for weight, prefix in entries]
            for split, entries in blend.items()
        }
    except FileNotFoundError as error:
        raise KitError(f"no {path}; run data prep, or give the folder that it printed") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise KitError(f'{path} must look like {{"train": [["1.0", "/prefix"]], …}} ({error})') from error


class Source(Protocol):
    """Samples by number. The same number is the same sample in any process, so a position is all there is to resume."""

    seq_length: int

    def batch(self, samples: Sequence[int]) -> Batch:
        """The samples of these numbers."""


class TextSource:
    """Windows of `seq_length` + 1 tokens over the documents of a split, one after the other as Megatron's GPT data.

    Sample k comes from a shard drawn by the blend's weights and, in it, from the next window of a shuffled pass; each
    pass (epoch) is shuffled anew.
    """

    def __init__(self, blend: list[tuple[float, Path]], *, seq_length: int, samples: int, seed: int) -> None:
        self.seq_length = seq_length
        self._seed = seed
        self._shards = [Shard(prefix) for _, prefix in blend]
        self.windows = [max(len(shard.tokens) - 1, 0) // seq_length for shard in self._shards]
        weights = np.array([weight * (count > 0) for (weight, _), count in zip(blend, self.windows, strict=True)])
        if not weights.sum() > 0:
            tokens = sum(len(shard.tokens) for shard in self._shards)
            raise KitError(
                f"the split has {tokens} tokens, less than one window of seq_length {seq_length}; give more text"
            )
        order = np.random.Generator(np.random.PCG64([seed, 0]))
        self._shard_of = order.choice(len(weights), size=samples, p=weights / weights.sum()).astype(np.int32)
        self._turn_of = np.zeros(samples, dtype=np.int64)
        for index in range(len(weights)):
            mine = np.flatnonzero(self._shard_of == index)
            self._turn_of[mine] = np.arange(len(mine))
        self._pass = lru_cache(maxsize=2 * len(weights))(self._shuffled)

    def _shuffled(self, shard: int, epoch: int) -> np.ndarray[Any, Any]:
        order = np.random.Generator(np.random.PCG64([self._seed, 1, shard, epoch]))
        return order.permutation(self.windows[shard])

    def batch(self, samples: Sequence[int]) -> Batch:
        """See `Source`."""
        rows = np.empty((len(samples), self.seq_length + 1), dtype=np.int64)
        for row, sample in zip(rows, samples, strict=True):
            shard, turn = int(self._shard_of[sample]), int(self._turn_of[sample])
            epoch, place = divmod(turn, self.windows[shard])
            start = int(self._pass(shard, epoch)[place]) * self.seq_length
            row[:] = self._shards[shard].tokens[start : start + self.seq_length + 1]
        return rows[:, :-1], rows[:, 1:], np.ones((len(samples), self.seq_length), dtype=np.float32)


class ConversationSource:
    """Packed conversations: each document of a shard is one sample; `<prefix>_mask` says which tokens are answers."""

    def __init__(self, prefixes: list[Path], *, seed: int) -> None:
        self._seed = seed
        pairs = [(Shard(prefix), Shard(f"{prefix}_mask")) for prefix in prefixes]
        self._samples = [(tokens, mask, at) for tokens, mask in pairs for at in range(len(tokens))]
        if not self._samples:
            raise KitError("the split has no conversations; give more data, or a smaller valid_fraction")
        self.seq_length = len(self._samples[0][0][0]) - 1
        self._pass = lru_cache(maxsize=2)(self._shuffled)

    def __len__(self) -> int:
        return len(self._samples)

    def _shuffled(self, epoch: int) -> np.ndarray[Any, Any]:
        return np.random.Generator(np.random.PCG64([self._seed, 2, epoch])).permutation(len(self._samples))

    def batch(self, samples: Sequence[int]) -> Batch:
        """See `Source`."""
        rows = np.empty((len(samples), self.seq_length + 1), dtype=np.int64)
        masks = np.empty((len(samples), self.seq_length), dtype=np.float32)
        for row, mask_row, sample in zip(rows, masks, samples, strict=True):
            epoch, place = divmod(sample, len(self._samples))
            tokens, mask, at = self._samples[int(self._pass(epoch)[place])]
            row[:] = tokens[at]
            mask_row[:] = mask[at][1:]  # of the target, not of the input
        return rows[:, :-1], rows[:, 1:], masks
