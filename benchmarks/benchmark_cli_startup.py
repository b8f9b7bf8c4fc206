"""CPU time of one-shot commands, whole processes, beside bare Python in the same run.

    python benchmarks/benchmark_cli_startup.py [--runs 15] [--output FILE]

Goals: `medvllm --help` at most 150 ms CPU, one-shot NER at most 400 ms.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys

import _repo_path  # noqa: F401
import _report
from absl import app, flags

FLAGS = flags.FLAGS
flags.DEFINE_integer("runs", 15, "Counted runs of each command, in turn, after one that is not counted.", lower_bound=1)
flags.DEFINE_string("output", None, "Also write the JSON to this file.")

COMMANDS = {
    "bare python": ["-c", "pass"],
    "medvllm --help": ["-m", "medvllm.cli", "--help"],
    "inference ner --text": ["-m", "medvllm.cli", "inference", "ner", "--text", "Patient with HTN and DM."],
}
GOALS_MS = {"medvllm --help": 150, "inference ner --text": 400}


def cpu_ms(arguments: list[str]) -> float:
    """User and system time of one process in milliseconds."""
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(path for path in sys.path if path))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return 1000 * (after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)


def main(_argv: list[str]) -> None:
    """Runs the commands in turn and reports."""
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for number in range(FLAGS.runs + 1):
        for name, arguments in COMMANDS.items():
            taken = cpu_ms(arguments)
            if number:  # the first run warms the page cache and writes bytecode
                times[name].append(taken)
    summaries = {name: _report.summary(values) for name, values in times.items()}
    bare = summaries["bare python"]["median"]
    figures = {
        name: {
            "cpu_ms": cpu,
            "ratio_to_bare_python": round(cpu["median"] / bare, 2),
            "goal_ms": GOALS_MS.get(name),
        }
        for name, cpu in summaries.items()
    }
    _report.write({"benchmark": "cli_startup", "machine": _report.machine(), "commands": figures}, FLAGS.output)


if __name__ == "__main__":
    app.run(main)
