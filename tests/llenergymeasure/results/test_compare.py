"""Two results side by side: like with like, paired where they ran in pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from scipy import stats as scipy_stats

from llenergymeasure.errors import LemError
from llenergymeasure.results.compare import ComparedMetric, ResultComparison, compare, config_differences, find_sample
from llenergymeasure.results.schema import PromptSource, RawResult
from llenergymeasure.results.store import ResultStore

Make = Callable[..., RawResult]
A, B = (10.0, 11.0, 12.0, 10.5), (10.8, 11.7, 12.9, 11.1)


def experiment(store: ResultStore, make: Make, name: str, durations: Sequence[float], **changes: object) -> None:
    for cycle, duration in enumerate(durations):
        values = {"experiment_id": name, "cycle": cycle, "cycles": len(durations), "duration_s": duration} | changes
        store.write_raw(make(**values))
    store.aggregate(name)


def campaign(store: ResultStore, make: Make, config_name: str, durations: Sequence[float], started: str) -> None:
    for cycle, duration in enumerate(durations):
        tags = {"campaign": "c1", "campaign_started": started, "campaign_config": config_name, "campaign_cycle": cycle}
        name = f"exp_{started}_{config_name}_{cycle}"
        store.write_raw(make(experiment_id=name, duration_s=duration, config={"extra_metadata": tags}))
        store.aggregate(name)


def metric(found: ResultComparison, name: str) -> ComparedMetric:
    return next(each for each in found.metrics if each.name == name)


def test_two_experiments_are_compared_unpaired_by_welch(store: ResultStore, make: Make) -> None:
    experiment(store, make, "a", A)
    experiment(store, make, "b", B)
    found = compare(find_sample(store, "a"), find_sample(store, "b"))
    assert not found.paired
    comparison = metric(found, "duration_s").comparison
    assert comparison is not None
    expected = scipy_stats.ttest_ind(B, A, equal_var=False)
    assert comparison.p_value == pytest.approx(expected.pvalue, rel=1e-6)
    assert comparison.effect == pytest.approx(sum(B) / 4 - sum(A) / 4)
    interval = expected.confidence_interval(0.95)
    assert comparison.interval is not None
    assert (comparison.interval.low, comparison.interval.high) == pytest.approx(tuple(interval), rel=1e-5)


def test_runs_of_one_campaign_are_paired_by_cycle(store: ResultStore, make: Make) -> None:
    campaign(store, make, "x", A, "2024-01-15")
    campaign(store, make, "y", B, "2024-01-15")
    found = compare(find_sample(store, "c1/x"), find_sample(store, "c1/y"))
    assert found.paired
    comparison = metric(found, "duration_s").comparison
    assert comparison is not None
    assert comparison.p_value == pytest.approx(scipy_stats.ttest_rel(B, A).pvalue, rel=1e-6)


def test_runs_of_different_starts_of_a_campaign_are_no_pairs(store: ResultStore, make: Make) -> None:
    campaign(store, make, "x", A, "2024-01-15")
    campaign(store, make, "y", B, "2024-01-16")
    assert not compare(find_sample(store, "c1/x"), find_sample(store, "c1/y")).paired


def test_metadata_of_ones_own_are_no_campaign(store: ResultStore, make: Make) -> None:
    for name in ("a", "b"):
        store.write_raw(make(experiment_id=name, config={"extra_metadata": {"campaign": "c", "campaign_cycle": "one"}}))
        store.aggregate(name)
    assert not compare(find_sample(store, "a"), find_sample(store, "b")).paired
    with pytest.raises(LemError, match="campaigns have: none"):
        find_sample(store, "c/x")


def test_the_latest_run_of_a_campaign_counts(store: ResultStore, make: Make) -> None:
    campaign(store, make, "x", (1.0, 1.0, 1.0), "2024-01-15")
    campaign(store, make, "x", (2.0, 2.0), "2024-01-16")
    assert sorted(find_sample(store, "c1/x").cycles) == [0, 1]
    assert all(each.throughput.duration_s == 2.0 for each in find_sample(store, "c1/x").cycles.values())
    with pytest.raises(LemError, match=r"no run of c1/z .*campaigns have: c1/x"):
        find_sample(store, "c1/z")


def test_pairing_can_be_asked_for_and_needs_common_cycles(store: ResultStore, make: Make) -> None:
    experiment(store, make, "a", A)
    experiment(store, make, "b", B[:1])
    with pytest.raises(LemError, match="1 cycles in common"):
        compare(find_sample(store, "a"), find_sample(store, "b"), paired=True)
    found = compare(find_sample(store, "a"), find_sample(store, "b"))
    comparison = metric(found, "duration_s").comparison
    assert comparison is not None
    assert comparison.interval is None
    assert any("one cycle" in each for each in found.notes)


def test_unlike_prompts_and_limits_are_refused(store: ResultStore, make: Make) -> None:
    experiment(store, make, "a", A)
    other = PromptSource(
        name="other", revision=None, split=None, column=None, requests=4, available=None, sha256="0" * 64
    )
    experiment(store, make, "b", B, prompts=other, config={"max_output_tokens": 9})
    with pytest.raises(
        LemError, match=r"different work: prompts builtin .*max_output_tokens 5 and 9.*--allow-unlike-w"
    ):
        compare(find_sample(store, "a"), find_sample(store, "b"))
    found = compare(find_sample(store, "a"), find_sample(store, "b"), allow_unlike_workloads=True)
    assert sum("unlike workloads" in each for each in found.notes) == 2


def test_unlike_energy_qualities_are_refused(store: ResultStore, make: Make) -> None:
    experiment(store, make, "a", A)
    experiment(store, make, "b", B, quality="estimated")
    experiment(store, make, "c", B, joules=None)
    with pytest.raises(LemError, match=r"gpu measured and estimated.*--allow-unlike-quality"):
        compare(find_sample(store, "a"), find_sample(store, "b"))
    with pytest.raises(LemError, match="gpu measured and unavailable"):
        compare(find_sample(store, "a"), find_sample(store, "c"))
    found = compare(find_sample(store, "a"), find_sample(store, "c"), allow_unlike_quality=True)
    row = metric(found, "energy_total_j")
    assert row.a == pytest.approx(100.0)
    assert row.b is None
    assert row.comparison is None
    assert row.quality == ("measured", "unavailable")


def test_differences_of_configurations_leave_names_out() -> None:
    a = {"config_name": "a", "batching": {"batch_size": 1}, "io": {"results_dir": "x"}}
    b = {"config_name": "b", "batching": {"batch_size": 4}, "io": {"results_dir": "y"}, "streaming": True}
    assert config_differences(a, b) == {"batching.batch_size": (1, 4), "streaming": (None, True)}
