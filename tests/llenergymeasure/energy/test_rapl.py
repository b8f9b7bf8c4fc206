"""Processor and memory energy from a powercap tree on disk that the test advances."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from llenergymeasure.energy import EnergyMeter, combine, open_meter
from llenergymeasure.energy.base import Channel
from llenergymeasure.energy.sampler import Track
from llenergymeasure.results.schema import Baseline, DeviceIdle, Energy

RANGE_J = 1000.0
SOCKETS = {
    "intel-rapl:0": "package-0",
    "intel-rapl:0:0": "core",
    "intel-rapl:0:1": "dram",
    "intel-rapl:1": "package-1",
    "intel-rapl:1:0": "dram",
    "intel-rapl:2": "psys",
    "intel-rapl-mmio:0": "package-0",
}


class Tree:
    """A powercap folder; every domain of it can be advanced by joules."""

    def __init__(self, root: Path, zones: dict[str, str], *, nested: bool = False, start_j: float = 0.0) -> None:
        self.root = root
        self.folders: dict[str, Path] = {}
        self.joules = dict.fromkeys(zones, start_j)
        for zone, name in zones.items():
            parent = self.folders.get(zone.rpartition(":")[0]) if nested else None
            folder = (parent or (root / zone.partition(":")[0] if nested else root)) / zone
            folder.mkdir(parents=True)
            self.folders[zone] = folder
            (folder / "name").write_text(name + "\n")
            (folder / "max_energy_range_uj").write_text(f"{RANGE_J * 1e6:.0f}\n")
            self.add(zone, 0)

    def add(self, zone: str, joules: float) -> None:
        """Advances a counter, which wraps as the kernel's does; a reader sees the old or the new."""
        self.joules[zone] = (self.joules[zone] + joules) % RANGE_J
        new = self.folders[zone] / "new"
        new.write_text(f"{self.joules[zone] * 1e6:.0f}\n")
        new.replace(self.folders[zone] / "energy_uj")


def _measured(root: Path, during: Callable[[EnergyMeter], None], *, interval_s: float = 0.01) -> Energy:
    with open_meter(gpus=[], estimator=None, interval_s=interval_s, powercap_root=root) as meter:
        meter.start()
        time.sleep(0.02)
        during(meter)
        time.sleep(0.02)
        return meter.stop().energy(None, [])


@pytest.mark.parametrize("nested", [False, True])
def test_packages_and_memory_are_summed_and_nothing_twice(tmp_path: Path, nested: bool) -> None:
    tree = Tree(tmp_path, SOCKETS, nested=nested)

    def advance(_meter: EnergyMeter) -> None:
        for zone, joules in zip(SOCKETS, (30.5, 20, 4.25, 12, 1, 80, 30.5), strict=True):
            tree.add(zone, joules)

    energy = _measured(tmp_path, advance)
    assert energy.cpu.value == pytest.approx(42.5, rel=1e-3)
    assert energy.ram.value == pytest.approx(5.25, rel=1e-3)
    assert energy.total.value == pytest.approx(47.75, rel=1e-3)
    assert energy.total.quality == "measured"
    assert [device.device for device in energy.devices] == [
        "package-0",
        "package-1",
        "package-0 dram",
        "package-1 dram",
    ]
    assert energy.gpu.reason == "no GPU is used"
    assert energy.total.reason == "without gpu: no GPU is used"


def test_several_wraps_within_a_window_are_counted(tmp_path: Path) -> None:
    tree = Tree(tmp_path, {"intel-rapl:0": "package-0"}, start_j=990)

    def advance(meter: EnergyMeter) -> None:
        for _ in range(9):
            tree.add("intel-rapl:0", 400)
            time.sleep(0.1)

    energy = _measured(tmp_path, advance)
    assert energy.cpu.value == pytest.approx(3600, rel=1e-3)
    assert energy.ram.value is None
    assert energy.ram.reason == "this processor's RAPL has no dram domain"


def test_a_slow_interval_is_shortened_so_that_no_wrap_is_missed(tmp_path: Path) -> None:
    tree = Tree(tmp_path, {"intel-rapl:0": "package-0"})

    def advance(meter: EnergyMeter) -> None:
        for _ in range(3):
            tree.add("intel-rapl:0", 900)
            time.sleep(0.6)

    assert _measured(tmp_path, advance, interval_s=600).cpu.value == pytest.approx(2700, rel=1e-3)


def test_a_pause_in_which_the_counter_may_have_wrapped_twice_is_refused(tmp_path: Path) -> None:
    counted = iter([5.0, 4.0])
    channel = Channel(
        "cpu", "package-0", "x", "rapl", "measured", 0.001, lambda: next(counted), range_j=10.0, power_limit_w=1000.0
    )
    track = Track(channel, 0.001)
    track.sample(edge=True)
    time.sleep(0.02)
    track.sample(edge=True)
    assert track.failure is not None
    assert "may have wrapped more than once" in track.failure


def test_psys_is_read_only_where_no_package_is(tmp_path: Path) -> None:
    tree = Tree(tmp_path, {"intel-rapl:0": "psys"})
    energy = _measured(tmp_path, lambda _: tree.add("intel-rapl:0", 17))
    assert energy.cpu.value == pytest.approx(17, rel=1e-3)
    assert energy.cpu.scope is not None
    assert "whole platform" in energy.cpu.scope
    assert energy.ram.reason is not None
    assert "within psys" in energy.ram.reason


def test_mmio_stands_in_where_it_is_alone(tmp_path: Path) -> None:
    tree = Tree(tmp_path, {"intel-rapl-mmio:0": "package-0"})
    assert _measured(tmp_path, lambda _: tree.add("intel-rapl-mmio:0", 3)).cpu.value == pytest.approx(3, rel=1e-3)


def test_a_counter_that_only_root_reads_is_null_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = Tree(tmp_path, SOCKETS)
    path = tree.folders["intel-rapl:1"] / "energy_uj"
    if os.geteuid() == 0:  # root reads everything; the kernel's answer to others is given in its place
        opened = os.open

        def deny(file: str | Path, flags: int) -> int:
            if Path(file) == path:
                raise PermissionError(13, "Permission denied", str(file))
            return opened(file, flags)

        monkeypatch.setattr(os, "open", deny)
    else:
        path.chmod(0)
    energy = _measured(tmp_path, lambda _: tree.add("intel-rapl:0:1", 5))
    assert energy.cpu.value is None  # half of the processors would pass for all
    assert energy.cpu.reason is not None
    assert "permission denied; run as root, or allow it: sudo chmod a+r" in energy.cpu.reason
    assert energy.ram.value == energy.total.value == pytest.approx(5, rel=1e-3)
    assert energy.total.scope is not None
    assert energy.total.scope.startswith("ram: ")
    assert energy.total.reason is not None
    assert "without" in energy.total.reason


def test_a_counter_that_goes_away_or_holds_no_number_is_null(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "gone", {"intel-rapl:0": "package-0"})
    energy = _measured(tree.root, lambda _: (tree.folders["intel-rapl:0"] / "energy_uj").unlink())
    assert (energy.cpu.value, energy.total.value, energy.mean_power_w) == (None, None, None)
    assert energy.cpu.reason is not None
    assert "no such file" in energy.cpu.reason
    tree = Tree(tmp_path / "words", {"intel-rapl:0": "package-0"})
    energy = _measured(tree.root, lambda _: _write(tree.folders["intel-rapl:0"] / "energy_uj", "n/a"))
    assert energy.cpu.reason is not None
    assert "holds no number" in energy.cpu.reason


def _write(path: Path, text: str) -> None:
    path.write_text(text)


def test_a_counter_that_stands_still_is_null_and_not_zero(tmp_path: Path) -> None:
    tree = Tree(tmp_path, {"intel-rapl:0": "package-0", "intel-rapl:0:1": "dram"})
    still = _measured(tmp_path, lambda _: None)
    assert (still.cpu.value, still.ram.value, still.total.value, still.net.value) == (None, None, None, None)
    assert still.cpu.reason is not None
    assert "showed no energy in" in still.cpu.reason
    moved = _measured(tmp_path, lambda _: tree.add("intel-rapl:0", 9))
    assert moved.total.value == pytest.approx(9, rel=1e-3)  # of the processor; its dram domain is not in use
    assert moved.ram.value is None


def test_one_dead_counter_among_several_leaves_no_sum(tmp_path: Path) -> None:
    tree = Tree(tmp_path, {"intel-rapl:0": "package-0", "intel-rapl:1": "package-1"})
    energy = _measured(tmp_path, lambda _: tree.add("intel-rapl:0", 9))
    assert (energy.cpu.value, energy.total.value) == (None, None)
    assert energy.cpu.reason is not None
    assert energy.cpu.reason.startswith("package-1: the sensor showed no energy in")


def test_no_tree_is_a_reason(tmp_path: Path) -> None:
    energy = _measured(tmp_path / "none", lambda _: None)
    assert energy.cpu.quality == energy.ram.quality == energy.total.quality == "unavailable"
    assert energy.cpu.reason is not None
    assert "shows no package" in energy.cpu.reason
    assert energy.sampler_cpu_s is None


def test_processes_that_overlap_count_a_package_once_also_across_a_wrap(tmp_path: Path) -> None:
    tree = Tree(tmp_path, {"intel-rapl:0": "package-0"}, start_j=900)
    meters = [open_meter(gpus=[], estimator=None, interval_s=0.02, powercap_root=tmp_path) for _ in range(2)]
    meters[0].start()
    time.sleep(0.1)
    tree.add("intel-rapl:0", 150)  # wraps
    time.sleep(0.1)
    meters[1].start()
    tree.add("intel-rapl:0", 200)
    time.sleep(0.1)
    first = meters[0].stop().energy(None, [])
    tree.add("intel-rapl:0", 50)
    time.sleep(0.05)
    second = meters[1].stop().energy(None, [])
    assert (first.cpu.value, second.cpu.value) == pytest.approx((350, 250))
    assert combine([second, first]).cpu.value == pytest.approx(400, rel=1e-3)


def test_segments_one_after_the_other_are_summed(tmp_path: Path) -> None:
    tree = Tree(tmp_path, {"intel-rapl:0": "package-0", "intel-rapl:0:1": "dram"})
    baseline = Baseline(
        power_w=50.0,
        standard_error_w=1.0,
        duration_s=30.0,
        samples=300,
        measured_at="2026-01-01T00:00:00+00:00",
        devices=[
            DeviceIdle(device="package-0", power_w=40.0, standard_error_w=0.8, degrees=19),
            DeviceIdle(device="package-0 dram", power_w=10.0, standard_error_w=0.6, degrees=19),
        ],
    )
    with open_meter(gpus=[], estimator=None, interval_s=0.02, powercap_root=tmp_path) as meter:
        energies = []
        for joules in (10.0, 30.0):
            meter.start()
            time.sleep(0.05)
            tree.add("intel-rapl:0", joules - 1)
            tree.add("intel-rapl:0:1", 1)
            time.sleep(0.05)
            energies.append(meter.stop().energy(baseline, [], carbon_intensity_kg_per_kwh=0.5))
            tree.add("intel-rapl:0", 500)  # between segments: nobody's
    both = combine(energies)
    assert both.total.value == pytest.approx(40, rel=1e-3)
    assert both.net.value == pytest.approx(40 - 50 * sum(each.devices[0].duration_s for each in energies), abs=0.02)
    assert both.net.uncertainty is not None
    assert both.carbon.value == pytest.approx(40 / 3.6e6 * 0.5)
    assert both.mean_power_w == pytest.approx(40 / sum(energy.devices[0].duration_s for energy in energies), rel=0.01)


def test_a_failed_segment_makes_the_sum_unknown(tmp_path: Path) -> None:
    tree = Tree(tmp_path, {"intel-rapl:0": "package-0"})
    good = _measured(tmp_path, lambda _: tree.add("intel-rapl:0", 5))
    bad = _measured(tmp_path, lambda _: (tree.folders["intel-rapl:0"] / "energy_uj").unlink())
    unread = _measured(tmp_path / "none", lambda _: None)
    for other, reason in ((bad, "no such file"), (unread, "1 of 2 parts have no reading")):
        both = combine([good, other])
        assert (both.cpu.value, both.total.value) == (None, None)
        assert both.cpu.reason is not None
        assert reason in both.cpu.reason
