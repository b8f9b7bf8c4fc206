"""Which sequences run in the next step, and how many of their tokens."""

from __future__ import annotations

from collections import deque

from medvllm.engine.block_manager import BlockManager
from medvllm.engine.sequence import Sequence

__all__ = ["Scheduler"]


class Scheduler:
    """Continuous batching, first come first served: what runs goes on, then what waits is admitted.

    A step holds at most `max_num_batched_tokens` tokens; prompts longer than what is left of it are cut into chunks.
    When the cache has no block for a running sequence, the youngest one gives up its blocks and is recomputed later.
    """

    def __init__(
        self,
        block_manager: BlockManager,
        *,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        enable_chunked_prefill: bool = True,
    ) -> None:
        self.block_manager = block_manager
        self.max_num_seqs, self.max_num_batched_tokens = max_num_seqs, max_num_batched_tokens
        self.enable_chunked_prefill = enable_chunked_prefill
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.num_preemptions = 0
        self.prefix_hit_tokens = 0
        self.prefix_query_tokens = 0

    def add(self, seq: Sequence) -> None:
        """Puts a sequence at the end of the queue."""
        self.waiting.append(seq)

    def schedule(self) -> list[Sequence]:
        """The sequences of the next step, each with its `num_scheduled_tokens`, and their blocks prepared."""
        scheduled: list[Sequence] = []
        preempted, budget = self.num_preemptions, self.max_num_batched_tokens
        index = 0
        while index < len(self.running) and budget:
            seq = self.running[index]
            count = self._tokens(seq, budget)
            if count and not self._prepare(seq, count):
                break  # the sequence itself was the youngest
            index += 1
            budget -= self._take(seq, count, scheduled)
        if self.num_preemptions == preempted:
            self._admit(budget, scheduled)
        return scheduled

    def _prepare(self, seq: Sequence, count: int) -> bool:
        """Finds blocks for `seq`, taking those of others; False when it had to give up its own."""
        while not self.block_manager.prepare(seq, count):
            if self._park():
                continue
            victim = self.running.pop()
            self.preempt(victim)
            if victim is seq:
                return False
        return True

    def _park(self) -> bool:
        """Takes the blocks of the youngest beam that waits for the others of its request; False without one.

        It stays in its place: its continuations are known already.
        """
        for seq in reversed(self.running):
            if seq.candidates is not None and seq.block_table:
                self.block_manager.free(seq)
                self.num_preemptions += 1
                return True
        return False

    def _admit(self, budget: int, scheduled: list[Sequence]) -> None:
        """Lets waiting sequences in while there is room for all their completions, tokens and blocks."""
        seats = self.max_num_seqs - sum(self._seats(seq) for seq in self.running)
        while self.waiting and budget and seats >= self._seats(self.waiting[0]):
            seq = self.waiting[0]
            seq.num_computed_tokens = self.block_manager.take_prefix(seq)
            count = self._tokens(seq, budget)
            if not count or not self.block_manager.prepare(seq, count):
                self.block_manager.free(seq)
                if scheduled or not self._park():
                    return
                continue
            self._count_prefix(seq)
            seats -= self._seats(seq)
            self.running.append(self.waiting.popleft())
            budget -= self._take(seq, count, scheduled)

    def _seats(self, seq: Sequence) -> int:
        """Places a sequence needs: those of the completions it will be forked into, as long as it is the only one."""
        return seq.request.width if len(seq.request.sequences) == 1 else 1

    def _tokens(self, seq: Sequence, budget: int) -> int:
        """Tokens of `seq` to compute in a step with room for `budget`; 0 when it has none or may not be cut."""
        count = seq.num_uncomputed_tokens
        return count if count <= budget else budget if self.enable_chunked_prefill else 0

    @staticmethod
    def _take(seq: Sequence, count: int, scheduled: list[Sequence]) -> int:
        seq.num_scheduled_tokens = count
        if count:
            scheduled.append(seq)
        return count

    def _count_prefix(self, seq: Sequence) -> None:
        self.prefix_hit_tokens += seq.num_computed_tokens
        self.prefix_query_tokens += len(seq.token_ids)
        if not seq.num_output_tokens:
            seq.request.num_cached_tokens = max(seq.request.num_cached_tokens, seq.num_computed_tokens)

    def preempt(self, seq: Sequence) -> None:
        """Takes a sequence's blocks away and puts it at the head of the queue; the caller removed it from `running`."""
        self.block_manager.free(seq)
        self.num_preemptions += 1
        self.waiting.appendleft(seq)

    def fork(self, parent: Sequence, child: Sequence) -> None:
        """Lets `child` run beside `parent` on the same blocks, or wait where the parent lost its own."""
        self.block_manager.fork(parent, child)
        if child.block_table:
            self.running.append(child)
        else:
            self.waiting.appendleft(child)

    def resume(self, seq: Sequence) -> None:
        """Puts a beam whose blocks were taken while it waited back into the queue; others just go on."""
        if not seq.block_table and seq in self.running:
            self.running.remove(seq)
            self.waiting.appendleft(seq)

    def remove(self, seq: Sequence) -> None:
        """Lets go of a sequence that is finished or dropped, wherever it is."""
        self.block_manager.free(seq)
        if seq in self.running:
            self.running.remove(seq)
        elif seq in self.waiting:
            self.waiting.remove(seq)

    def preempt_all(self) -> None:
        """After a step that broke off: nothing in the cache can be relied on, every running sequence is recomputed."""
        while self.running:
            self.preempt(self.running.pop())
        self.block_manager.forget_prefixes()
