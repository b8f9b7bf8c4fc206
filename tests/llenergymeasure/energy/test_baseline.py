"""The cache of baselines, and baselines that can't be measured."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from llenergymeasure.energy import BaselineCache, measured_or_cached, open_meter


@pytest.fixture
def powercap(tmp_path: Path) -> Iterator[Path]:
    """A processor that draws 40 W, by its counter."""
    zone = tmp_path / "powercap" / "intel-rapl:0"
    zone.mkdir(parents=True)
    (zone / "name").write_text("package-0\n")
    (zone / "max_energy_range_uj").write_text("262143328850\n")
    ended = threading.Event()

    def advance() -> None:
        while True:
            (zone / "new").write_text(f"{40e6 * time.monotonic():.0f}\n")
            (zone / "new").replace(zone / "energy_uj")
            if ended.wait(0.005):
                return

    thread = threading.Thread(target=advance)
    thread.start()
    while not (zone / "energy_uj").exists():
        time.sleep(0.001)
    yield zone.parent
    ended.set()
    thread.join()


def test_a_baseline_is_kept_until_it_is_too_old(tmp_path: Path, powercap: Path) -> None:
    cache = BaselineCache(tmp_path / "cache")
    with open_meter(gpus=[], estimator=None, interval_s=0.02, powercap_root=powercap) as meter:
        first, was_kept = measured_or_cached(meter, duration_s=0.2, ttl_s=60, cache=cache)
        assert not was_kept
        began = time.monotonic()
        assert measured_or_cached(meter, duration_s=30, ttl_s=60, cache=cache) == (first, True)
        assert time.monotonic() - began < 5
        again, was_kept = measured_or_cached(meter, duration_s=0.2, ttl_s=0, cache=cache)
        assert not was_kept
        assert again.samples > 2


def test_a_baseline_is_sampled_at_its_own_interval(powercap: Path) -> None:
    with open_meter(gpus=[], estimator=None, interval_s=0.01, powercap_root=powercap) as meter:
        assert meter.measure_baseline(0.3, interval_s=0.1).samples <= 5
        meter.start()
        time.sleep(0.3)
        assert len(meter.stop().tracks[0].times) > 8


def test_a_file_of_another_key_or_that_is_broken_is_no_baseline(tmp_path: Path, powercap: Path) -> None:
    cache = BaselineCache(tmp_path)
    with open_meter(gpus=[], estimator=None, interval_s=0.02, powercap_root=powercap) as meter:
        cache.put("a", meter.measure_baseline(0.1))
    (path,) = tmp_path.glob("baseline-*.json")
    assert cache.get("a", ttl_s=60) is not None
    assert cache.get("b", ttl_s=60) is None
    path.write_text(json.dumps(json.loads(path.read_text()) | {"key": "b"}))
    assert cache.get("a", ttl_s=60) is None
    path.write_text("{")
    assert cache.get("a", ttl_s=60) is None


def test_a_machine_without_sensors_has_no_baseline_at_once_and_none_is_kept(tmp_path: Path) -> None:
    cache = BaselineCache(tmp_path / "cache")
    with open_meter(gpus=[], estimator=None, interval_s=0.1, powercap_root=tmp_path / "none") as meter:
        began = time.monotonic()
        baseline, _ = measured_or_cached(meter, duration_s=30, ttl_s=60, cache=cache)
        assert time.monotonic() - began < 5
    assert (baseline.power_w, baseline.standard_error_w) == (None, None)
    assert baseline.reason is not None
    assert "shows no package" in baseline.reason
    assert not cache.folder.exists()


def test_a_short_baseline_has_a_power_and_no_error_and_the_net_no_interval(powercap: Path) -> None:
    with open_meter(gpus=[], estimator=None, interval_s=0.02, powercap_root=powercap) as meter:
        baseline = meter.measure_baseline(0.3)
        assert baseline.power_w == pytest.approx(40, rel=0.1)
        assert baseline.standard_error_w is None
        meter.start()
        time.sleep(0.3)
        net = meter.stop().energy(baseline, []).net
    assert net.value == pytest.approx(0, abs=2)
    assert net.uncertainty is None


def test_a_meter_is_started_and_stopped_in_turn(tmp_path: Path) -> None:
    with open_meter(gpus=[], estimator=None, interval_s=0.1, powercap_root=tmp_path) as meter:
        with pytest.raises(RuntimeError, match="not been started"):
            meter.stop()
        assert meter.power_w() is None
        meter.start()
        with pytest.raises(RuntimeError, match="stop it first"):
            meter.start()


def test_sensors_that_stand_still_have_no_baseline(tmp_path: Path) -> None:
    zone = tmp_path / "intel-rapl:0"
    zone.mkdir()
    for name, text in (("name", "package-0"), ("energy_uj", "5000000"), ("max_energy_range_uj", "262143328850")):
        (zone / name).write_text(f"{text}\n")
    with open_meter(gpus=[], estimator=None, interval_s=0.02, powercap_root=tmp_path) as meter:
        baseline = meter.measure_baseline(0.1)
    assert baseline.power_w is None
    assert baseline.reason is not None
    assert "showed no energy" in baseline.reason
