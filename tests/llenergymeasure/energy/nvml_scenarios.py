"""What a meter makes of the stub's GPUs: run with the stub on LD_LIBRARY_PATH, prints a JSON object of scenarios.

python nvml_scenarios.py FOLDER             every scenario; FOLDER takes the stub's state files
python nvml_scenarios.py worker PLACE       one meter, started and stopped by lines on stdin
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from llenergymeasure.energy import EnergyMeter, Phase, combine, open_meter
from llenergymeasure.results.schema import Energy

A100 = {"name": "NVIDIA A100-PCIE-40GB", "memory": 42505273344, "energy_mj": 9_000_000, "power_mw": 61_000}
WINDOW_S = 0.13  # a little more than the counter's period
LOST, NOT_SUPPORTED = 15, 3


class Machine:
    """The stub's state, written whole at every change."""

    def __init__(self, path: Path, gpus: int, **fields: object) -> None:
        self.path = path
        self.state: dict[str, object] = {"count": gpus}
        for gpu in range(gpus):
            self.state |= {f"gpu{gpu}.{name}": value for name, value in A100.items()}
            self.state[f"gpu{gpu}.uuid"] = f"GPU-{gpu}0000000-aaaa"
        self.set(**fields)
        os.environ["STUB_NVML_STATE"] = str(path)

    def set(self, **fields: object) -> None:
        """Sets `gpuI_field` to a value."""
        self.state |= {name.replace("_", ".", 1) if name.startswith("gpu") else name: v for name, v in fields.items()}
        text = "".join(f"{name} {value}\n" for name, value in self.state.items())
        beside = self.path.with_suffix(".new")
        beside.write_text(text)
        beside.replace(self.path)  # a reader sees the old or the new

    def add_joules(self, gpu: int, joules: float) -> None:
        """Advances a counter."""
        self.set(**{f"gpu{gpu}_energy_mj": int(str(self.state[f"gpu{gpu}.energy_mj"])) + round(1000 * joules)})


@contextlib.contextmanager
def measured(
    answer: dict[str, Any], *, gpus: list[int] | None = None, visible: str | None = None, window_s: float = WINDOW_S
) -> Iterator[EnergyMeter]:
    """A meter started for the block; `answer` gets what it read."""
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    if visible is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible
    with open_meter(gpus=gpus, estimator=None, interval_s=0.02, powercap_root=Path("/nowhere")) as meter:
        meter.start()
        began = time.monotonic()
        yield meter
        time.sleep(max(0.0, began + window_s - time.monotonic()))
        reading = meter.stop()
        answer |= {
            "energy": reading.energy(None, []).model_dump(),
            "uuids": list(meter.gpu_uuids),
            "throttle": reading.throttle,
            "warnings": list(meter.warnings),
            "duration_s": reading.duration_s,
        }


def counters(path: Path, answer: dict[str, Any]) -> None:
    machine = Machine(path, 2)
    with measured(answer):
        machine.add_joules(0, 123.456)
        machine.add_joules(1, 50)


def one_of_two(path: Path, answer: dict[str, Any]) -> None:
    machine = Machine(path, 2)
    with measured(answer, gpus=[0]):
        machine.add_joules(0, 123.456)
        machine.add_joules(1, 50)


def invisible(path: Path, answer: dict[str, Any]) -> None:
    machine = Machine(path, 2)
    with measured(answer, visible="1"):
        machine.add_joules(0, 123.456)
        machine.add_joules(1, 50)


def by_uuid(path: Path, answer: dict[str, Any]) -> None:
    machine = Machine(path, 3)
    with measured(answer, visible="GPU-2,GPU-0,nonsense,1", gpus=[0]):
        machine.add_joules(2, 7)
        machine.add_joules(1, 50)


def all_hidden(path: Path, answer: dict[str, Any]) -> None:
    Machine(path, 2)
    with measured(answer, visible=""):
        pass


def beyond(path: Path, answer: dict[str, Any]) -> None:
    Machine(path, 2)
    with measured(answer, gpus=[2]):
        pass


def polled(path: Path, answer: dict[str, Any]) -> None:
    Machine(path, 1, gpu0_energy_error=NOT_SUPPORTED, gpu0_power_mw=200_000)
    with measured(answer, window_s=0.3):
        pass


def polled_steps(path: Path, answer: dict[str, Any]) -> None:
    machine = Machine(path, 1, gpu0_energy_error=NOT_SUPPORTED, gpu0_power_mw=100_000)
    with measured(answer, window_s=0.8) as meter:
        began = time.monotonic()
        time.sleep(0.4)
        machine.set(gpu0_power_mw=300_000)
        answer["at_100_w_s"] = time.monotonic() - began
        time.sleep(0.1)
        answer["live_w"] = meter.power_w()


def polled_gap(path: Path, answer: dict[str, Any]) -> None:
    machine = Machine(path, 1, gpu0_energy_error=NOT_SUPPORTED, gpu0_power_mw=100_000)
    with measured(answer, window_s=1.3):
        machine.set(gpu0_power_error=999)
        time.sleep(1.1)
        machine.set(gpu0_power_error=0)


def mig(path: Path, answer: dict[str, Any]) -> None:
    machine = Machine(path, 1, **MIG)
    with measured(answer, visible="MIG-aaaa-1"):
        machine.add_joules(0, 80)


def two_instances(path: Path, answer: dict[str, Any]) -> None:
    machine = Machine(path, 1, **MIG)
    with measured(answer, visible="MIG-aaaa-1,MIG-GPU-00000000-aaaa/7/0", gpus=[0, 1]):
        machine.add_joules(0, 80)


MIG: dict[str, object] = {
    "gpu0_mig": 2,
    "gpu0_mig0.uuid": "MIG-aaaa-0",
    "gpu0_mig0.name": "NVIDIA A100-PCIE-40GB MIG 1g.5gb",
    "gpu0_mig0.memory": 5100273664,
    "gpu0_mig1.uuid": "MIG-aaaa-1",
    "gpu0_mig1.name": "NVIDIA A100-PCIE-40GB MIG 2g.10gb",
}


def lost(path: Path, answer: dict[str, Any]) -> None:
    machine = Machine(path, 2)
    with measured(answer):
        machine.add_joules(0, 10)
        machine.add_joules(1, 10)
        time.sleep(0.05)
        machine.set(gpu1_energy_error=LOST, gpu1_power_error=LOST, gpu1_throttle_error=LOST)


def hiccup(path: Path, answer: dict[str, Any]) -> None:
    machine = Machine(path, 1)
    with measured(answer, window_s=0.2):
        machine.set(gpu0_energy_error=999)
        time.sleep(0.08)
        machine.set(gpu0_energy_error=0)
        machine.add_joules(0, 33.3)


def backwards(path: Path, answer: dict[str, Any]) -> None:
    machine = Machine(path, 1)
    with measured(answer):
        machine.add_joules(0, -8000)


def short(path: Path, answer: dict[str, Any]) -> None:
    machine = Machine(path, 1)
    with measured(answer, window_s=0.01):
        machine.add_joules(0, 5)


def throttled(path: Path, answer: dict[str, Any]) -> None:
    machine = Machine(path, 1, gpu0_throttle=0x1)
    with measured(answer):
        machine.set(gpu0_throttle=0x1 | 0x4 | 0x20)


def no_sensor(path: Path, answer: dict[str, Any]) -> None:
    Machine(path, 1, gpu0_energy_error=NOT_SUPPORTED, gpu0_power_error=NOT_SUPPORTED)
    with measured(answer):
        pass


def no_driver(path: Path, answer: dict[str, Any]) -> None:
    Machine(path, 1, init_error=9)
    with measured(answer):
        pass


def unlike(path: Path, answer: dict[str, Any]) -> None:
    Machine(path, 2, gpu1_name="NVIDIA T4")
    with measured(answer):
        pass


def idle_and_net(path: Path, answer: dict[str, Any]) -> None:
    """100 W at rest for 3 s; then a run at that power with 60 J more in its first half, the prefill."""
    machine = Machine(path, 1, gpu0_clock_mw=100_000, gpu0_processes=1)
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    with open_meter(gpus=None, estimator=None, interval_s=0.05, powercap_root=Path("/nowhere")) as meter:
        answer["key"] = meter.idle_key()
        machine.set(gpu0_processes=2)
        answer["other_key"] = meter.idle_key()
        baseline = meter.measure_baseline(3.0)
        meter.start()
        began = time.monotonic()
        time.sleep(0.4)
        machine.add_joules(0, 60)
        time.sleep(0.4)
        middle = time.monotonic()
        answer["prefill_s"] = middle - began
        time.sleep(0.8)
        reading = meter.stop()
        phases = [Phase("prefill", began, middle), Phase("decode", middle, time.monotonic())]
        answer["baseline"] = baseline.model_dump()
        answer["energy"] = reading.energy(baseline, phases, carbon_intensity_kg_per_kwh=0.36).model_dump()
        tiny = [Phase("prefill", began + 0.2 * n, began + 0.2 * n + 0.02) for n in range(4)]
        rest = [Phase("decode", began + 0.2 * n + 0.02, began + 0.2 * (n + 1)) for n in range(4)]
        answer["tiny"] = reading.energy(baseline, tiny + rest).model_dump()
        clash = [Phase("prefill", began, middle), Phase("decode", middle - 0.1, middle + 0.5)]
        answer["clash"] = reading.energy(baseline, clash).model_dump()
        answer["trace"] = reading.trace


def two_processes(path: Path, answer: dict[str, Any]) -> None:
    """Two meters in processes of their own, on one GPU, over windows that overlap; and one on another GPU."""
    machine = Machine(path, 2)
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    command = [sys.executable, __file__, "worker"]
    workers = [
        subprocess.Popen([*command, place], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for place in ("0", "0", "1")
    ]
    first, second, other = workers
    for worker in (first, other):
        _tell(worker, "start")
    machine.add_joules(0, 10)
    time.sleep(WINDOW_S)
    _tell(second, "start")
    machine.add_joules(0, 100)
    machine.add_joules(1, 1000)
    time.sleep(WINDOW_S)
    found = [_tell(first, "stop"), _tell(other, "stop")]
    machine.add_joules(0, 1)
    time.sleep(WINDOW_S)
    found.append(_tell(second, "stop"))
    energies = [Energy.model_validate_json(text) for text in found]
    answer["alone"] = [energy.gpu.value for energy in energies]
    answer["energy"] = combine(energies).model_dump()
    answer["apart"] = combine(energies[:2]).model_dump()
    for worker in workers:
        worker.communicate(timeout=10)


def _tell(worker: subprocess.Popen[str], word: str) -> str:
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write(word + "\n")
    worker.stdin.flush()
    return worker.stdout.readline()


def work(place: int) -> None:
    """Starts and stops a meter when told to."""
    with open_meter(gpus=[place], estimator=None, interval_s=0.02, powercap_root=Path("/nowhere")) as meter:
        sys.stdin.readline()
        meter.start()
        print("started", flush=True)
        sys.stdin.readline()
        reading = meter.stop()
        phases = [Phase("decode", reading.started_s, reading.finished_s)]
        print(reading.energy(None, phases).model_dump_json(), flush=True)


def topology(path: Path, answer: dict[str, Any]) -> None:
    from click.testing import CliRunner

    from llenergymeasure.cli.gpu_commands import gpus

    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    machine = Machine(path, 4)
    instances = {name.split("_", 1)[1]: value for name, value in MIG.items()}
    for gpu in (1, 2, 3):
        machine.set(**{f"gpu{gpu}_{name}": value for name, value in instances.items()} | {f"gpu{gpu}_mig": 3})
        machine.set(**{f"gpu{gpu}_mig2.uuid": "MIG-aaaa-2"})
    answer["tree"] = CliRunner().invoke(gpus, []).output
    machine.set(gpu3_handle_error=LOST)
    answer["instances"] = CliRunner().invoke(gpus, ["--instances"], env={"CUDA_VISIBLE_DEVICES": "1"}).output
    answer["json"] = json.loads(CliRunner().invoke(gpus, ["--json"], env={"CUDA_VISIBLE_DEVICES": "1"}).output)


SCENARIOS: list[Callable[[Path, dict[str, Any]], None]] = [
    counters,
    one_of_two,
    invisible,
    by_uuid,
    all_hidden,
    beyond,
    polled,
    polled_steps,
    polled_gap,
    mig,
    two_instances,
    lost,
    hiccup,
    backwards,
    short,
    throttled,
    no_sensor,
    no_driver,
    unlike,
    idle_and_net,
    two_processes,
    topology,
]


def main(arguments: list[str]) -> None:
    """Runs what the command line says."""
    if arguments[0] == "worker":
        work(int(arguments[1]))
        return
    answers = {}
    for scenario in SCENARIOS:
        answers[scenario.__name__] = answer = dict[str, Any]()
        scenario(Path(arguments[0]) / f"{scenario.__name__}.txt", answer)
    print(json.dumps(answers))


if __name__ == "__main__":
    main(sys.argv[1:])
