"""The sampler costs little and says how much; reading ends when the window does."""

from __future__ import annotations

import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest

from llenergymeasure.energy import open_meter
from llenergymeasure.energy.base import Channel
from llenergymeasure.energy.sampler import Track


def _tree(root: Path) -> Path:
    for zone, name in (("intel-rapl:0", "package-0"), ("intel-rapl:0:0", "dram")):
        (root / zone).mkdir(parents=True)
        (root / zone / "name").write_text(f"{name}\n")
        (root / zone / "energy_uj").write_text("5000000\n")
        (root / zone / "max_energy_range_uj").write_text("262143328850\n")
    return root


def test_sampling_at_10_hz_takes_less_than_a_hundredth_of_a_core(tmp_path: Path) -> None:
    with open_meter(gpus=[], estimator=None, interval_s=0.1, powercap_root=_tree(tmp_path)) as meter:
        before = time.process_time()
        meter.start()
        time.sleep(2)
        reading = meter.stop()
        spent_s = time.process_time() - before
    assert reading.sampler_cpu_s is not None
    print(f"{reading.sampler_cpu_s / reading.duration_s:.2%} of a core; the whole process {spent_s:.4f} s")
    assert 0 < reading.sampler_cpu_s < 0.01 * reading.duration_s
    assert reading.sampler_cpu_s <= spent_s + 1e-3  # and that is not less than what was used
    assert 15 <= len(reading.tracks[0].times) <= 22


def test_closing_a_meter_that_still_reads_ends_its_thread(tmp_path: Path) -> None:
    meter = open_meter(gpus=[], estimator=None, interval_s=0.02, powercap_root=_tree(tmp_path))
    meter.start()
    assert any(thread.name == "lem-energy" for thread in threading.enumerate())
    meter.close()
    assert not any(thread.name == "lem-energy" for thread in threading.enumerate())


def test_a_counter_without_power_of_its_own_shows_watts_and_a_trace(tmp_path: Path) -> None:
    root = _tree(tmp_path)
    with open_meter(gpus=[], estimator=None, interval_s=0.02, powercap_root=root) as meter:
        meter.start()
        for step in range(1, 31):
            beside = root / "new"
            beside.write_text(f"{5_000_000 + 1_000_000 * step}\n")
            beside.replace(root / "intel-rapl:0" / "energy_uj")
            time.sleep(0.02)
        watts = meter.power_w()
        trace = meter.stop().trace
    assert watts is not None
    assert trace is not None
    assert watts >= 0
    times = [0.0, *(at for at, _ in trace)]
    joules = sum(power * (after - before) for (before, after), (_, power) in zip(pairwise(times), trace, strict=True))
    assert joules == pytest.approx(30, abs=3)


def test_a_mean_since_the_last_reading_counts_for_its_own_stretch() -> None:
    watts = iter([900.0, 10.0, 10.0])
    channel = Channel(
        "cpu", "a model", "x", "x", "estimated", 0.01, read_watts=lambda: next(watts), mean_since_last=True
    )
    track = Track(channel, 0.02)
    for _ in range(3):
        track.sample()
        time.sleep(0.01)
    assert track.joules[-1] == pytest.approx(10 * (track.times[-1] - track.times[0]))
