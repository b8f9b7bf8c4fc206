"""Which requests form a batch, and when they arrive."""

from __future__ import annotations

import itertools
import statistics
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llenergymeasure.config.models import Batching
from llenergymeasure.orchestration.traffic import Requests, arrival_times, plan_batches
from llenergymeasure.prompts import Prompt


def prompts_of(lengths: list[int]) -> tuple[list[Prompt], dict[str, int]]:
    found = [Prompt(id=str(index), index=index, text="x" * length) for index, length in enumerate(lengths)]
    return found, {prompt.id: length for prompt, length in zip(found, lengths, strict=True)}


def planned(lengths: list[int], **options: object) -> list[list[int]]:
    prompts, tokens = prompts_of(lengths)
    batches = plan_batches(prompts, tokens=tokens, batching=Batching.model_validate(options))
    return [[tokens[prompt.id] for prompt in batch] for batch in batches]


def test_static_batches_are_full_but_the_last() -> None:
    assert planned([3, 1, 2, 5, 4], batch_size=2) == [[3, 1], [2, 5], [4]]


def test_sorted_batches_put_like_lengths_together() -> None:
    assert planned([3, 1, 2, 5, 4], batch_size=2, strategy="sorted_static") == [[5, 4], [3, 2], [1]]


def test_dynamic_batches_keep_the_token_budget_with_padding() -> None:
    # 2·3 fits in 6, a third of 3 does not; 10 is more than the budget and runs alone.
    found = planned([3, 2, 3, 10, 1, 1, 1], batch_size=4, strategy="dynamic", max_tokens_per_batch=6)
    assert found == [[3, 2], [3], [10], [1, 1, 1]]


@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=40),
    st.integers(1, 9),
    st.sampled_from(["static", "dynamic", "sorted_static", "sorted_dynamic"]),
    st.one_of(st.none(), st.integers(1, 120)),
)
def test_batches_have_each_prompt_once(lengths: list[int], size: int, strategy: str, budget: int | None) -> None:
    found = planned(lengths, batch_size=size, strategy=strategy, max_tokens_per_batch=budget)
    assert sorted(length for batch in found for length in batch) == sorted(lengths)
    for batch in found:
        assert 1 <= len(batch) <= size
        if budget is not None and strategy.endswith("dynamic"):
            assert len(batch) == 1 or max(batch) * len(batch) <= budget


def test_arrivals_have_the_rate_and_repeat_by_seed() -> None:
    assert arrival_times(3, rate=4, mode="constant") == [0.25, 0.5, 0.75]
    times = arrival_times(5000, rate=10, mode="poisson", seed=0)
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert statistics.fmean(gaps) == pytest.approx(0.1, rel=0.05)
    assert statistics.stdev(gaps) == pytest.approx(0.1, rel=0.08)  # exponential: deviation equals mean
    assert arrival_times(5, rate=10, mode="poisson", seed=0) == times[:5]
    assert arrival_times(5, rate=10, mode="poisson", seed=1) != times[:5]


@pytest.mark.parametrize(("strategy", "sizes"), [("static", [2, 2, 1]), ("dynamic", [1, 2, 2])])
def test_a_static_batch_waits_until_it_is_full(strategy: str, sizes: list[int]) -> None:
    prompts, tokens = prompts_of([1] * 5)
    arrivals = [0.0, 0.05, 0.05, 0.05, 0.05]
    batching = Batching.model_validate({"batch_size": 2, "strategy": strategy})
    source = Requests(prompts, tokens=tokens, batching=batching, arrivals=arrivals)
    found = []
    began = time.monotonic()
    while (batch := source.next_batch()) is not None:
        found.append([request.prompt.index for request in batch])
        assert all(request.arrived_s is not None and request.arrived_s <= time.monotonic() for request in batch)
        assert batch[0].arrived_s == pytest.approx(began + arrivals[found[-1][0]], abs=0.02)
    assert [len(batch) for batch in found] == sizes
    assert source.exhausted


def test_an_engine_takes_what_has_arrived() -> None:
    prompts, tokens = prompts_of([1] * 3)
    source = Requests(prompts, tokens=tokens, batching=Batching(), arrivals=[0.0, 0.03, 0.03])
    assert [request.prompt.index for request in source.take(5)] == [0]
    assert source.take(5) == []
    source.wait()
    assert [request.prompt.index for request in source.take(1)] == [1]
    assert not source.exhausted
    everything = Requests(prompts, tokens=tokens, batching=Batching())
    assert [request.arrived_s for request in everything.take(2)] == [None, None]
