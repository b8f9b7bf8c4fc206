"""CPU time of one-shot commands, whole processes, beside bare Python in the same run.

    python benchmarks/benchmark_cli_startup.py [--runs 15] [--programs medvllm,lem,nemotron] [--peer /path/to/python]
        [--output FILE]

`--peer` is an interpreter with tyro, typer and hydra (tools/peers/make.py tyro FOLDER): the same nested command over
the same dataclass in each of them, and in nemotron.kit. Goals: `--help` at most 150 ms CPU, one-shot NER 400 ms.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import _repo_path  # noqa: F401
import _report
from absl import app, flags

FLAGS = flags.FLAGS
flags.DEFINE_integer("runs", 15, "Counted runs of each command, in turn, after one that is not counted.", lower_bound=1)
flags.DEFINE_string("output", None, "Also write the JSON to this file.")
flags.DEFINE_list("programs", ["medvllm", "lem", "nemotron"], "Which programs to time; one that is not there is named.")
flags.DEFINE_string("peer", None, "An interpreter with tyro, typer and hydra.")

PEERS = Path(__file__).resolve().parent / "peers"
MODULES = {"medvllm": "medvllm.cli", "lem": "llenergymeasure.cli", "nemotron": "nemotron.cli"}
NOTE = "Patient with HTN and DM."
COMMANDS = {
    "medvllm": {
        "medvllm --help": ["--help"],
        "inference ner --text": ["inference", "ner", "--text", NOTE],
    },
    "lem": {"lem --help": ["--help"]},
    "nemotron": {
        "nemotron --help": ["--help"],
        "nemotron nano3 pretrain --help": ["nano3", "pretrain", "--help"],
    },
}
HELP_GOAL_MS = 150
GOALS_MS = {"inference ner --text": 400}
LIBRARIES = ("tyro", "typer", "hydra")


def commands() -> tuple[dict[str, list[str]], list[str]]:
    """(name → whole command line, what is skipped and why)."""
    found = {"bare python": [sys.executable, "-c", "pass"]}
    skipped = []
    for program in FLAGS.programs:
        module = [sys.executable, "-m", MODULES[program]]
        if not succeeds([*module, "--help"]):
            skipped.append(f"{program}: `python -m {MODULES[program]} --help` does not run here")
            continue
        found |= {name: [*module, *arguments] for name, arguments in COMMANDS[program].items()}
    if FLAGS.peer is None:
        skipped.append("tyro, typer, hydra: no --peer given")
        return found, skipped
    found["recipe --help, nemotron.kit"] = [sys.executable, str(PEERS / "cli_kit.py"), "train", "--help"]
    found["bare python of the peers"] = [FLAGS.peer, "-c", "pass"]
    for library in LIBRARIES:
        command = [FLAGS.peer, str(PEERS / "cli_recipe.py"), library, "train", "--help"]
        if succeeds(command):
            found[f"recipe --help, {library}"] = command
        else:
            skipped.append(f"{library}: not in {FLAGS.peer}")
    return found, skipped


def goal_ms(name: str) -> int | None:
    """Ours have goals; bare Python and the peers are what they are measured by."""
    if name.startswith("bare") or name.endswith(LIBRARIES):
        return None
    return GOALS_MS.get(name, HELP_GOAL_MS)


def environment(command: list[str]) -> dict[str, str]:
    """Our path for our interpreter, none for a peer's; bytecode is kept, as an installed program has it."""
    if command[0] != sys.executable:
        return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ours = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return ours | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def succeeds(command: list[str]) -> bool:
    """Whether a command ends well; also warms the page cache and writes bytecode."""
    return subprocess.run(command, capture_output=True, env=environment(command)).returncode == 0


def cpu_ms(command: list[str]) -> float:
    """User and system time of one process in milliseconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment(command))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return 1000 * (after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)


def main(_argv: list[str]) -> None:
    """Runs the commands in turn and reports."""
    unknown = sorted(set(FLAGS.programs) - set(MODULES))
    if unknown:
        raise app.UsageError(f"--programs: {', '.join(unknown)} not among {', '.join(MODULES)}")
    found, skipped = commands()
    times: dict[str, list[float]] = {name: [] for name in found}
    for number in range(FLAGS.runs + 1):
        for name, command in found.items():
            taken = cpu_ms(command)
            if number:  # the first run warms the page cache and writes bytecode
                times[name].append(taken)
    summaries = {name: _report.summary(values) for name, values in times.items()}
    bare = summaries["bare python"]["median"]
    figures = {
        name: {
            "cpu_ms": cpu,
            "ratio_to_bare_python": round(cpu["median"] / bare, 2),
            "goal_ms": goal_ms(name),
        }
        for name, cpu in summaries.items()
    }
    report = {"benchmark": "cli_startup", "machine": _report.machine(), "commands": figures, "skipped": skipped}
    _report.write(report, FLAGS.output)


if __name__ == "__main__":
    app.run(main)
