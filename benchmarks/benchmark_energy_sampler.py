"""What lem's energy sampler costs: CPU time of its readings against the wall, for each source there is.

    python benchmarks/benchmark_energy_sampler.py [--hz 10] [--seconds 10] [--runs 3] [--output FILE]

Sources: a powercap tree of two processors on disk, as the kernel shows it (made here, so that it runs anywhere); this
machine's own powercap and NVIDIA GPUs, where it has them (a stub of libnvidia-ml.so.1 on LD_LIBRARY_PATH counts as
one); codecarbon's estimate. Goal: at most 1 % of one core at 10 Hz. The process does nothing else meanwhile, so that
its whole CPU time, printed beside, bounds what the sampler itself reports.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _repo_path  # noqa: F401
import _report
from absl import app, flags

from llenergymeasure.energy import EnergyMeter, open_meter
from llenergymeasure.energy.base import ComponentName
from llenergymeasure.energy.rapl import POWERCAP
from llenergymeasure.errors import LemError

FLAGS = flags.FLAGS
flags.DEFINE_float("hz", 10.0, "Samples a second.", lower_bound=0.1)
flags.DEFINE_float("seconds", 10.0, "Length of a run.", lower_bound=0.5)
flags.DEFINE_integer("runs", 3, "Counted runs of each source, after a second that is not counted.", lower_bound=1)
flags.DEFINE_string("output", None, "Also write the JSON to this file.")

GOAL_PERCENT = 1.0
ZONES = {"intel-rapl:0": "package-0", "intel-rapl:0:0": "dram", "intel-rapl:1": "package-1", "intel-rapl:1:0": "dram"}


def synthetic_tree(root: Path) -> Path:
    """A powercap tree of two processors with memory."""
    for zone, name in ZONES.items():
        (root / zone).mkdir(parents=True)
        (root / zone / "name").write_text(f"{name}\n")
        (root / zone / "energy_uj").write_text("123456789\n")
        (root / zone / "max_energy_range_uj").write_text("262143328850\n")
    return root


def measure(open_source: Callable[[], EnergyMeter], component: ComponentName) -> dict[str, Any]:
    """CPU time of a source's readings; `skipped`, with the reason of its component, where there is nothing to read."""
    try:
        meter = open_source()
    except LemError as error:
        return {"skipped": str(error)}
    with meter:
        if not meter.has_sensors:
            return {"skipped": meter.unavailable[component]}
        run(meter, 1.0)
        found = [run(meter, FLAGS.seconds) for _ in range(FLAGS.runs)]
    share = _report.summary([100 * one["sampler_cpu_s"] / one["wall_s"] for one in found])
    return {
        "sensors": found[0]["sensors"],
        "samples": found[0]["samples"],
        "sampler_percent_of_core": share,
        "process_percent_of_core": _report.summary([100 * one["process_cpu_s"] / one["wall_s"] for one in found]),
        "cpu_us_a_sample": _report.summary([1e6 * one["sampler_cpu_s"] / one["samples"] for one in found]),
        "goal_percent": GOAL_PERCENT,
        "ok": share["median"] <= GOAL_PERCENT,
    }


def run(meter: EnergyMeter, seconds: float) -> dict[str, Any]:
    """One window of an otherwise idle process."""
    before = time.process_time()
    meter.start()
    time.sleep(seconds)
    reading = meter.stop()
    return {
        "wall_s": reading.duration_s,
        "sampler_cpu_s": reading.sampler_cpu_s,
        "process_cpu_s": time.process_time() - before,
        "samples": max(len(track.times) for track in reading.tracks),
        "sensors": [f"{track.channel.device} by {track.channel.source}" for track in reading.tracks],
    }


def main(_argv: list[str]) -> None:
    """Measures every source and reports."""

    def opened(gpus: list[int] | None, root: Path, estimator: str | None = None) -> Callable[[], EnergyMeter]:
        return lambda: open_meter(gpus=gpus, estimator=estimator, interval_s=1 / FLAGS.hz, powercap_root=root)

    with tempfile.TemporaryDirectory() as folder:
        none = Path(folder) / "none"
        figures = {
            "powercap, synthetic": measure(opened([], synthetic_tree(Path(folder) / "powercap")), "cpu"),
            "powercap of this machine": measure(opened([], POWERCAP), "cpu"),
            "nvml": measure(opened(None, none), "gpu"),
            "codecarbon": measure(opened([], none, "codecarbon"), "cpu"),
        }
    report = {
        "benchmark": "energy_sampler",
        "machine": _report.machine(),
        "hz": FLAGS.hz,
        "seconds": FLAGS.seconds,
        "sources": figures,
    }
    _report.write(report, FLAGS.output)


if __name__ == "__main__":
    app.run(main)
