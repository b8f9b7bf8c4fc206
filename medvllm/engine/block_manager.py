"""Blocks of the paged KV cache: reference counts, copy-on-write, and reuse of prefixes by a chain of hashes."""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict

from medvllm.engine.sequence import Sequence

__all__ = ["BlockManager"]


class BlockManager:
    """Owns which block belongs to whom; the cache's memory itself is the model runner's.

    A block is free when nobody refers to it. A free block that is full of known tokens keeps its hash, so that a later
    prompt with the same beginning can take it up again; the least recently used are given away first.
    """

    def __init__(self, num_blocks: int, block_size: int, *, enable_prefix_caching: bool = True) -> None:
        self.num_blocks, self.block_size = num_blocks, block_size
        self.enable_prefix_caching = enable_prefix_caching
        self._ref_counts = [0] * num_blocks
        self._hashes: list[bytes | None] = [None] * num_blocks
        self._cached: dict[bytes, int] = {}  # hash of a full block and all before it → the block
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))  # least recently used first
        self._copies: dict[int, int] = {}  # destination → source, to be done before the next step

    @property
    def num_free(self) -> int:
        """Blocks nobody refers to."""
        return len(self._free)

    @property
    def num_used(self) -> int:
        """Blocks some sequence refers to."""
        return self.num_blocks - len(self._free)

    def blocks_for(self, tokens: int) -> int:
        """Blocks that hold `tokens` tokens."""
        return -(-tokens // self.block_size)

    def take_prefix(self, seq: Sequence) -> int:
        """Gives a sequence without blocks the cached ones its tokens begin with; returns the tokens they hold.

        At least the last token stays to be computed, for its logits are needed.
        """
        if not self.enable_prefix_caching or seq.wants_prompt_logprobs:
            return 0
        for index in range((len(seq.token_ids) - 1) // self.block_size):
            block = self._cached.get(self._hash(seq, index))
            if block is None:
                break
            self._free.pop(block, None)
            self._ref_counts[block] += 1
            seq.block_table.append(block)
        return len(seq.block_table) * self.block_size

    def prepare(self, seq: Sequence, tokens: int) -> bool:
        """Makes room for the next `tokens` tokens of `seq`, all of them known; False, changing nothing, without room.

        A shared block that would be written to is replaced by a copy.
        """
        size, start = self.block_size, seq.num_computed_tokens
        first = start // size
        copied = first < len(seq.block_table) and self._ref_counts[seq.block_table[first]] > 1
        new = self.blocks_for(start + tokens) - len(seq.block_table)
        if new + copied > len(self._free):
            return False
        if copied:
            source = seq.block_table[first]
            self._ref_counts[source] -= 1
            seq.block_table[first] = self._take()
            self._copies[seq.block_table[first]] = source
        seq.block_table.extend(self._take() for _ in range(new))
        self._remember(seq, first, (start + tokens) // size)
        return True

    def fork(self, parent: Sequence, child: Sequence) -> None:
        """Lets `child` share all blocks of `parent`."""
        child.block_table = array("i", parent.block_table)
        child.block_hashes = parent.block_hashes.copy()
        child.num_computed_tokens = parent.num_computed_tokens
        for block in child.block_table:
            self._ref_counts[block] += 1

    def free(self, seq: Sequence) -> None:
        """Takes all blocks from `seq`; its last blocks are the first to be given away."""
        for block in reversed(seq.block_table):
            self._ref_counts[block] -= 1
            if self._ref_counts[block] == 0:
                self._free[block] = None
        seq.block_table = array("i")
        seq.num_computed_tokens = 0

    def take_copies(self) -> dict[int, int]:
        """The copies {destination: source} to make before the step that was scheduled."""
        copies, self._copies = self._copies, {}
        return copies

    def forget_prefixes(self) -> None:
        """Forgets every hash: what the blocks hold is no longer known."""
        self._cached.clear()
        self._hashes = [None] * self.num_blocks
        self._copies.clear()

    def _take(self) -> int:
        """A free block, of one reference; what was cached in it is forgotten."""
        block, _ = self._free.popitem(last=False)
        known = self._hashes[block]
        if known is not None:
            del self._cached[known]
            self._hashes[block] = None
        self._ref_counts[block] = 1
        return block

    def _remember(self, seq: Sequence, start: int, end: int) -> None:
        """Enters the blocks [start, end) of a sequence, which the step being scheduled fills.

        A sequence scheduled later for the same step may use them: every layer stores the keys of the whole step before
        it attends.
        """
        if not self.enable_prefix_caching:
            return
        for index in range(start, end):
            key, block = self._hash(seq, index), seq.block_table[index]
            if key not in self._cached:
                self._cached[key], self._hashes[block] = block, key

    def _hash(self, seq: Sequence, index: int) -> bytes:
        """The hash of block `index` of a sequence and of all before it: 16 bytes of BLAKE2b."""
        for done in range(len(seq.block_hashes), index + 1):
            parent = seq.block_hashes[-1] if seq.block_hashes else b""
            tokens = array("i", seq.token_ids[done * self.block_size : (done + 1) * self.block_size])
            seq.block_hashes.append(hashlib.blake2b(parent + tokens.tobytes(), digest_size=16).digest())
        return seq.block_hashes[index]
