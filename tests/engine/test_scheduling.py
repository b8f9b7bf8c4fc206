"""Blocks and the scheduler: reference counts, prefix reuse, copies, preemption; the faults other engines had there."""

from __future__ import annotations

import random

import pytest
from medvllm_kernels import engine_native

from medvllm.engine.block_manager import BlockManager
from medvllm.engine.precision import Precision
from medvllm.engine.scheduler import Scheduler
from medvllm.engine.sequence import Request, Sequence
from medvllm.engine.step_input import StepInput, build_step_input
from medvllm.sampling_params import SamplingParams


def sequence(tokens: list[int], *, n: int = 1, count: int = 100) -> Sequence:
    params = SamplingParams(n=n, temperature=1.0, max_tokens=count)
    request = Request(0, None, tokens, params, count, frozenset(), 0.0)
    seq = Sequence(request, tokens.copy(), len(tokens))
    request.sequences = [seq]
    return seq


def scheduler(blocks: int, *, size: int = 4, seqs: int = 8, tokens: int = 64, **options: bool) -> Scheduler:
    manager = BlockManager(blocks, size, enable_prefix_caching=options.pop("prefix", True))
    return Scheduler(manager, max_num_seqs=seqs, max_num_batched_tokens=tokens, **options)


def advance(found: Scheduler, token: int = 1) -> list[Sequence]:
    """A step without a model: every complete sequence gets `token`."""
    scheduled = found.schedule()
    for seq in scheduled:
        done = seq.samples
        seq.num_computed_tokens += seq.num_scheduled_tokens
        if done:
            seq.token_ids.append(token)
    return scheduled


def test_a_prompt_that_is_all_cached_computes_its_last_tokens() -> None:
    """A hit on every block would leave nothing to compute, and no logits."""
    found = scheduler(20)
    first = sequence(list(range(8)))
    found.add(first)
    advance(found)
    found.remove(first)
    second = sequence(list(range(8)))
    found.add(second)
    advance(found)
    assert second.num_scheduled_tokens == 4
    assert found.prefix_hit_tokens == 4
    assert len(second.token_ids) == 9


def test_prefix_hit_after_preemption() -> None:
    """A preempted sequence finds its own blocks again, those of generated tokens included, and goes on."""
    found = scheduler(20)
    seq = sequence(list(range(10)))
    found.add(seq)
    for token in range(50, 57):
        advance(found, token)
    found.preempt(found.running.pop())
    assert (seq.num_computed_tokens, len(seq.block_table)) == (0, 0)
    advance(found, 99)
    assert seq.token_ids == [*range(10), *range(50, 57), 99]
    assert found.prefix_hit_tokens == 16
    assert seq.num_computed_tokens == 17
    advance(found)
    assert len(seq.block_table) == 5


def test_prompts_of_one_step_share_blocks() -> None:
    found = scheduler(20)
    prompts = [sequence([*range(8), tail]) for tail in (100, 101, 102)]
    for seq in prompts:
        found.add(seq)
    advance(found)
    assert [seq.num_scheduled_tokens for seq in prompts] == [9, 1, 1]
    assert prompts[0].block_table[:2] == prompts[1].block_table[:2] == prompts[2].block_table[:2]
    assert found.block_manager.num_used == 5


def test_reused_blocks_are_forgotten() -> None:
    """A block given to somebody else is no hit any more."""
    found = scheduler(4)
    first = sequence(list(range(9)))
    found.add(first)
    advance(found)
    found.remove(first)
    other = sequence(list(range(100, 115)))
    found.add(other)
    advance(found)
    found.remove(other)
    again = sequence(list(range(9)))
    found.add(again)
    advance(found)
    assert again.num_computed_tokens == 9
    assert again.num_scheduled_tokens > 1


def test_copy_on_write() -> None:
    manager = BlockManager(8, 4)
    parent = sequence(list(range(6)))
    assert manager.prepare(parent, 6)
    parent.num_computed_tokens = 6
    child = parent.fork(1)
    manager.fork(parent, child)
    assert child.block_table == parent.block_table
    parent.token_ids.append(7)
    child.token_ids.append(8)
    assert manager.prepare(parent, 1)
    copied = manager.take_copies()
    assert copied == {parent.block_table[1]: child.block_table[1]}
    assert manager.prepare(child, 1)
    assert not manager.take_copies()  # the child is alone on its block now
    assert parent.block_table[0] == child.block_table[0]
    manager.free(parent)
    manager.free(child)
    assert manager.num_free == 8


def test_no_room_changes_nothing() -> None:
    manager = BlockManager(2, 4)
    seq = sequence(list(range(12)))
    assert not manager.prepare(seq, 12)
    assert manager.num_free == 2
    assert not seq.block_table


def test_chunks_and_decoding_share_a_step() -> None:
    found = scheduler(40, tokens=8)
    short, long = sequence([1, 2, 3]), sequence(list(range(20)))
    found.add(short)
    found.add(long)
    counts = []
    for _ in range(4):
        advance(found)
        counts.append((short.num_scheduled_tokens, long.num_scheduled_tokens))
    assert counts == [(3, 5), (1, 7), (1, 7), (1, 1)]


def test_without_chunks_a_prompt_waits_for_a_whole_step() -> None:
    found = scheduler(40, tokens=10, enable_chunked_prefill=False)
    first, second = sequence(list(range(8))), sequence(list(range(50, 56)))
    found.add(first)
    found.add(second)
    assert advance(found) == [first]
    assert advance(found) == [first, second]
    assert (first.num_scheduled_tokens, second.num_scheduled_tokens) == (1, 6)


def test_the_youngest_gives_way() -> None:
    found = scheduler(6, prefix=False)
    old, young = sequence(list(range(7))), sequence(list(range(20, 27)))
    found.add(old)
    found.add(young)
    for _ in range(12):
        advance(found)
    assert found.num_preemptions == 1
    assert list(found.waiting) == [young]
    assert len(old.token_ids) == 19
    found.remove(old)
    advance(found)
    assert young.num_computed_tokens == len(young.token_ids) - 1


def test_seats_are_kept_for_all_completions() -> None:
    found = scheduler(40, seqs=4)
    found.add(sequence([1, 2], n=3))
    found.add(sequence([3, 4], n=2))
    assert len(advance(found)) == 1


@pytest.mark.parametrize("seed", range(5))
def test_blocks_are_neither_lost_nor_given_twice(seed: int) -> None:
    """Random traffic: after every step each block is free or counted right; in the end all are free."""
    rng = random.Random(seed)
    found = scheduler(24, seqs=6, tokens=16)
    live: list[Sequence] = []
    for _ in range(300):
        if rng.random() < 0.4 and len(live) < 12:
            head = [rng.randrange(2) for _ in range(8)]
            live.append(sequence(head + [rng.randrange(50) for _ in range(rng.randint(1, 20))]))
            found.add(live[-1])
        for seq in advance(found, rng.randrange(50)):
            if seq.num_computed_tokens == len(seq.token_ids) - 1 and rng.random() < 0.2 and len(found.running) < 6:
                child = seq.fork(1)
                found.fork(seq, child)
                live.append(child)
        for seq in [seq for seq in live if len(seq.token_ids) > 60 or rng.random() < 0.02]:
            found.remove(seq)
            live.remove(seq)
        manager = found.block_manager
        manager.take_copies()
        held = [block for seq in live for block in seq.block_table]
        assert manager.num_used == len(set(held))
        assert all(manager._ref_counts[block] == held.count(block) for block in set(held))
    for seq in live:
        found.remove(seq)
    assert found.block_manager.num_free == 24


def test_step_input_survives_packing() -> None:
    found = scheduler(40, tokens=30)
    for tokens in ([1, 2, 3], list(range(20)), list(range(50, 59))):
        found.add(sequence(tokens))
    step = build_step_input(found.schedule(), {5: 3, 7: 2}, 4)
    again = StepInput.unpack(step.pack())
    for name in StepInput.__slots__:
        assert (getattr(step, name) == getattr(again, name)).all(), name
    assert step.positions.tolist() == [*range(3), *range(20), *range(7)]
    assert step.logits_indices.tolist() == [2, 22]
    assert step.copies.tolist() == [[3, 2], [5, 7]]
    blocks = step.block_tables
    assert step.slot_mapping[3:23].tolist() == [int(blocks[1, i // 4]) * 4 + i % 4 for i in range(20)]


def test_a_sequence_that_decodes_alone_has_the_step_it_has_beside_another() -> None:
    found = scheduler(40)
    first, second = sequence(list(range(9))), sequence([5, 6, 7])
    found.add(first)
    found.add(second)
    for _ in range(12):
        advance(found)
        first.num_scheduled_tokens = second.num_scheduled_tokens = 1
        if not (found.block_manager.prepare(first, 1) and found.block_manager.prepare(second, 1)):
            raise AssertionError("there are blocks for both")
        alone, both = build_step_input([first], {}, 4), build_step_input([first, second], {}, 4)
        assert alone.seqlens_q.tolist() == [1]
        for name in ("input_ids", "positions", "slot_mapping", "seqlens_q", "seqlens_k", "logits_indices"):
            one, other = getattr(alone, name), getattr(both, name)
            assert one.dtype == other.dtype
            assert one.tolist() == other[:1].tolist(), name
        width = alone.block_tables.shape[1]
        assert alone.block_tables.dtype == both.block_tables.dtype
        assert alone.block_tables.tolist() == both.block_tables[:1, :width].tolist()
        assert not both.block_tables[0, width:].any()
        assert alone.copies.shape == (2, 0)
    copies = build_step_input([first], {5: 3}, 4).copies
    assert copies.tolist() == [[3], [5]]


def test_weights_rounded_without_the_native_library_count_as_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    rounded = Precision("bfloat16", "float32", "bfloat16", "int8", "int8")
    monkeypatch.setattr(engine_native, "library", lambda: None)
    assert rounded.held == "float32"
    assert Precision("bfloat16", "bfloat16", "bfloat16", None, None).held == "bfloat16"
