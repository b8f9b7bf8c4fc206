"""What is summed, what is taken together, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy
import pytest

from llenergymeasure.errors import LemError
from llenergymeasure.results.schema import RawResult
from llenergymeasure.results.store import ResultStore

ID = "exp_20240115_123456"
Make = Callable[..., RawResult]


def write(store: ResultStore, *results: RawResult) -> None:
    for each in results:
        store.write_raw(each)


def test_energy_tokens_flops_and_rates_of_processes_are_summed(store: ResultStore, make: Make) -> None:
    write(
        store, *(make(process=p, processes=2, joules=j, duration_s=s) for p, j, s in ((0, 30.0, 2.0), (1, 50.0, 2.5)))
    )
    found = store.aggregate(ID)
    assert found.energy.total.value == pytest.approx(80.0)
    assert found.energy.total.quality == "measured"
    assert (found.throughput.requests, found.throughput.output_tokens) == (4, 20)
    assert found.throughput.duration_s == 2.5
    assert found.throughput.tokens_per_s == pytest.approx(10 / 2.0 + 10 / 2.5)
    assert [each.tokens_per_s for each in found.processes] == pytest.approx([5.0, 4.0])
    assert found.compute.flops_total == pytest.approx(2000.0 * 60)
    assert found.compute.peak_memory_mib == 101.0
    assert found.energy_per_output_token_j == pytest.approx(4.0)
    assert found.complete
    assert found.gpu_uuids == ["GPU-0", "GPU-1"]


def test_percentiles_are_of_all_samples_together(store: ResultStore, make: Make) -> None:
    write(
        store,
        make(process=0, processes=2, requests=21, latency_ms=[10.0] * 10 + [20.0]),
        make(process=1, processes=2, requests=21, latency_ms=[1000.0] * 10),
    )
    samples = [10.0] * 10 + [20.0] + [1000.0] * 10
    found = store.aggregate(ID).latencies.request_ms
    assert found is not None
    assert found.samples == 21
    for name, share in (("median", 50), ("p95", 95), ("p99", 99)):
        assert getattr(found, name) == pytest.approx(numpy.percentile(samples, share))
    assert found.median == pytest.approx(20.0)  # the mean of the two medians would be 505


def test_inter_token_times_are_trimmed_and_kept_in_full(store: ResultStore, make: Make) -> None:
    write(store, make())
    found = store.aggregate(ID).latencies
    assert found.itl_ms is not None
    assert found.itl_full_ms is not None
    assert (found.itl_ms.samples, found.itl_ms.max) == (8, 3.0)
    assert (found.itl_full_ms.samples, found.itl_full_ms.max) == (16, 99.0)


def test_an_unknown_energy_is_null_with_its_reason_and_never_zero(store: ResultStore, make: Make) -> None:
    write(store, make(process=0, processes=2, joules=None), make(process=1, processes=2, joules=50.0))
    found = store.aggregate(ID)
    assert found.energy.gpu.value is None
    assert "no sensor" in (found.energy.gpu.reason or "")
    assert found.energy_per_output_token_j is None
    data = json.loads(store.aggregated_path(ID).read_text())
    assert data["energy"]["total"]["value"] is None
    assert data["energy_per_request_j"] is None


def test_a_missing_process_is_refused_unless_not_strict(store: ResultStore, make: Make) -> None:
    write(store, make(process=0, processes=2))
    with pytest.raises(LemError, match=r"process 1 of cycle 0 has no result.*--no-strict"):
        store.aggregate(ID)
    assert not store.aggregated_path(ID).exists()
    found = store.aggregate(ID, strict=False)
    assert not found.complete
    assert any("process 1" in each for each in found.warnings)


def test_a_missing_marker_cycle_and_request_are_refused(store: ResultStore, make: Make) -> None:
    write(store, make(cycle=0, cycles=2))
    with pytest.raises(LemError, match="process 0 of cycle 1 has no result"):
        store.aggregate(ID)
    write(store, make(cycle=1, cycles=2, requests=4))
    store.marker_path(ID, 0, 1).unlink()
    with pytest.raises(LemError, match="has no marker"):
        store.aggregate(ID)
    short = make(cycle=1, cycles=2)
    write(store, short.model_copy(update={"requests": short.requests[:-1]}))
    with pytest.raises(LemError, match="1 of 4 requests of cycle 1 have no result"):
        store.aggregate(ID)


def test_replicas_that_ran_the_same_prompts_are_refused(store: ResultStore, make: Make) -> None:
    first = make(process=0, processes=2)
    same = make(process=1, processes=2).model_copy(update={"requests": first.requests})
    write(store, first, same)
    with pytest.raises(LemError, match=r"2 of 4 requests .* no result; 2 requests of cycle 0 have two results"):
        store.aggregate(ID)


def test_a_raw_file_edited_after_its_marker_is_refused(store: ResultStore, make: Make) -> None:
    write(store, make())
    path = store.raw_path(ID, 0)
    path.write_text(path.read_text().replace("100.0", "900.0", 1))
    with pytest.raises(LemError, match="is not what its process wrote"):
        store.aggregate(ID)


def test_mixed_backends_need_to_be_allowed(store: ResultStore, make: Make) -> None:
    write(store, make(process=0, processes=2), make(process=1, processes=2, backend="vllm"))
    with pytest.raises(LemError, match=r"mixes backends \(pytorch, vllm\).*--allow-mixed-backends"):
        store.aggregate(ID)
    assert store.aggregate(ID, allow_mixed_backends=True).backend == "pytorch+vllm"


def test_processes_that_hardly_ran_together_are_refused(store: ResultStore, make: Make) -> None:
    write(store, make(process=0, processes=2), make(process=1, processes=2, late_s=1.2))
    with pytest.raises(LemError, match="ran together for 40% of the longest one's time, 50% are needed"):
        store.aggregate(ID)
    write(store, make(process=1, processes=2, late_s=0.9))
    assert store.aggregate(ID).time_overlap == pytest.approx(0.55)


def test_two_processes_on_one_gpu_count_its_energy_once(store: ResultStore, make: Make) -> None:
    write(store, *(make(process=p, processes=2, gpu="GPU-0", joules=60.0) for p in (0, 1)))
    found = store.aggregate(ID)
    assert found.energy.total.value == pytest.approx(60.0)
    assert any("counted once" in each for each in found.warnings)
    assert found.gpu_uuids == ["GPU-0"]


def test_a_shared_gpu_without_windows_to_tell_is_refused(store: ResultStore, make: Make) -> None:
    for p in (0, 1):
        result = make(process=p, processes=2, gpu="GPU-0")
        write(store, result.model_copy(update={"energy": result.energy.model_copy(update={"devices": []})}))
    with pytest.raises(LemError, match="all measured GPU-0, whose energy would count twice"):
        store.aggregate(ID)


def test_cycles_have_means_with_students_intervals(store: ResultStore, make: Make) -> None:
    write(store, *(make(cycle=c, cycles=3, joules=j, duration_s=2.0) for c, j in enumerate((90.0, 100.0, 110.0))))
    whole = store.aggregate(ID)
    assert whole.energy.total.value == pytest.approx(300.0)
    assert whole.throughput.duration_s == 6.0
    assert whole.throughput.tokens_per_s == pytest.approx(10.0)
    found = store.load_multi_cycle(ID)
    assert found is not None
    metric = found.metrics["energy_total_j"]
    assert metric.values == [90.0, 100.0, 110.0]
    assert metric.mean == pytest.approx(100.0)
    assert metric.interval is not None
    assert metric.interval.high - 100.0 == pytest.approx(4.302653 * 10.0 / 3**0.5, rel=1e-5)  # t of 2 degrees, 97.5 %
    assert metric.quality == "measured"
    assert store.multi_cycle_path(ID).name == f"{ID}_multi_cycle.json"
    assert store.raw_path(ID, 0, 2).parent.name == "cycle_2"


def test_aggregating_again_needs_force(store: ResultStore, make: Make) -> None:
    write(store, make())
    store.aggregate(ID)
    with pytest.raises(LemError, match="--force does it again"):
        store.aggregate(ID)
    store.aggregate(ID, force=True)
