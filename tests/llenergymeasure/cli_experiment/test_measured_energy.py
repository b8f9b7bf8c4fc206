"""Energy of experiments, read from a powercap tree of the test's own that a thread keeps counting in."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Lem = Callable[..., Any]
Configure = Callable[..., Path]
WATTS = 50.0


class Package:
    """A processor package that draws WATTS until it is told to fail."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "intel-rapl:0"
        self.folder.mkdir(parents=True)
        (self.folder / "name").write_text("package-0\n")
        (self.folder / "max_energy_range_uj").write_text(str(2**40))
        self._began_s = time.monotonic()
        self._stop = threading.Event()
        self.fail_when: Callable[[], bool] = lambda: False
        self._write()
        self._thread = threading.Thread(target=self._count, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops counting."""
        self._stop.set()
        self._thread.join()

    def _write(self) -> None:
        temporary = self.folder / "next"
        temporary.write_text(f"{int((time.monotonic() - self._began_s) * WATTS * 1e6)}\n")
        os.replace(temporary, self.folder / "energy_uj")

    def _count(self) -> None:
        while not self._stop.wait(0.005):
            if self.fail_when():
                (self.folder / "energy_uj").unlink()
                return
            self._write()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Package]:
    found = Package(tmp_path / "powercap")
    monkeypatch.setattr("llenergymeasure.energy.rapl.POWERCAP", tmp_path / "powercap")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    yield found
    found.close()


@pytest.fixture
def metered(write_config: Configure) -> Path:
    """An experiment of about a second, with a short idle baseline."""
    size, baseline = {"batch_size": 2}, {"duration": "300ms"}
    dataset = {"name": "builtin", "sample_size": 16}
    series = {"enabled": True, "save": True, "interval": "20ms"}
    options = {"batching": size, "baseline": baseline, "dataset": dataset, "timeseries": series}
    return write_config(max_output_tokens=32, energy={"carbon_intensity_kg_per_kwh": 0.4}, **options)


def raw_of(folder: Path) -> dict[str, Any]:
    (path,) = (folder / "results" / "raw").glob("*/process_0.json")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def journaled(folder: Path) -> int:
    journals = (folder / "results" / "raw").glob("*/journal/*.jsonl")
    return sum(path.read_bytes().count(b'"finished_s":') for path in journals)


def test_measured_joules_are_those_drawn(lem: Lem, metered: Path, package: Package, tmp_path: Path) -> None:
    done = lem("experiment", metered, "-y")
    assert done.code == 0, done.stderr
    raw = raw_of(tmp_path)
    energy, duration = raw["energy"], raw["throughput"]["duration_s"]
    assert energy["cpu"]["quality"] == energy["total"]["quality"] == "measured"
    assert energy["total"]["value"] == pytest.approx(WATTS * duration, rel=0.1)
    assert energy["mean_power_w"] == pytest.approx(WATTS, rel=0.1)
    idle_w = raw["baseline"]["power_w"]
    assert idle_w == pytest.approx(WATTS, rel=0.5)  # a window of 0.3 s, and a thread that counts when it gets to
    assert energy["net"]["value"] == pytest.approx(energy["total"]["value"] - idle_w * duration, abs=0.1 * WATTS)
    assert energy["gpu"]["value"] is None
    assert energy["carbon"]["value"] == pytest.approx(energy["total"]["value"] / 3.6e6 * 0.4)
    trace = [json.loads(line) for line in next((tmp_path / "results").rglob("power_0.jsonl")).open()]
    assert raw["power_trace"] == "power_0.jsonl"
    assert len(trace) > 5
    assert {point["segment"] for point in trace} == {0}
    assert "measured" in done.stdout


def test_a_counter_that_fails_makes_energy_unknown_not_zero(
    lem: Lem, metered: Path, package: Package, tmp_path: Path
) -> None:
    package.fail_when = lambda: journaled(tmp_path) >= 4
    done = lem("experiment", metered, "-y")
    assert done.code == 0, done.stderr
    energy = raw_of(tmp_path)["energy"]
    assert (energy["cpu"]["value"], energy["total"]["value"]) == (None, None)
    assert "energy_uj" in energy["total"]["reason"]
    assert "Energy        unavailable: " in done.stdout


def test_segments_of_an_interrupted_run_add_up(lem: Lem, metered: Path, package: Package, tmp_path: Path) -> None:
    def interrupt() -> None:
        until = time.monotonic() + 60
        while journaled(tmp_path) < 4 and time.monotonic() < until:
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    assert lem("experiment", metered, "-y").code == 130
    thread.join()
    again = lem("experiment", metered, "-y")
    assert again.code == 0, again.stderr
    raw = raw_of(tmp_path)
    parts = [segment["energy"]["total"]["value"] for segment in raw["segments"]]
    assert len(parts) == 2
    assert all(part > 0 for part in parts)
    assert raw["energy"]["total"]["value"] == pytest.approx(sum(parts))
    assert raw["energy"]["total"]["value"] == pytest.approx(WATTS * raw["throughput"]["duration_s"], rel=0.15)
