"""benchmark_ner.py on a few kilobytes: a whole report, what it skips, and its errors."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "benchmark_ner.py"
SMALL = ("--megabytes=0.006", "--small_megabytes=0.002", "--pairs=1")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(BENCHMARK), *arguments], capture_output=True, text=True)


def test_report_on_made_up_notes(tmp_path: Path) -> None:
    output = tmp_path / "report.json"
    done = run(*SMALL, "--stages", f"--output={output}")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert json.loads(output.read_text()) == report
    assert {"cpu", "cores", "python", "load_1min"} <= report["machine"].keys()
    assert report["medspacy"].startswith("skipped: ")
    configurations = report["configurations"]
    assert list(configurations) == ["full", "fast", "full without native code", "fast without native code"]
    for name, figures in configurations.items():
        assert figures["entities"] > 50, name
        assert figures["mb_per_s"] == pytest.approx(1 / figures["wall_s_per_mb"]["median"], rel=0.01)
        assert figures["cpu_s_per_mb"].keys() == {"n", "median", "p90", "min"}
        assert figures["cpu_s_per_mb"]["n"] == 1
        assert 10 < figures["peak_rss_mib"] < 1000, name
    assert not configurations["full without native code"]["native"]
    assert configurations["full"]["goal_mb_per_s"] == 1
    assert configurations["fast"]["goal_mb_per_s"] == 4
    stages = {"read", "detect", "entities", "patterns", "assertion", "link, first time", "link", "serialise"}
    assert configurations["full"]["stages_cpu_ms_per_mb"].keys() == stages
    assert configurations["fast"]["stages_cpu_ms_per_mb"].keys() == stages - {"patterns"}
    text = configurations["full"]["text_mb"]
    assert text == pytest.approx(0.006, abs=0.004)


def test_given_text_is_what_is_measured(tmp_path: Path) -> None:
    text = tmp_path / "notes.jsonl"
    text.write_text('{"id": "a", "text": "HTN and COPD."}\n{"id": "b", "text": "On aspirin for déjà vu."}\n')
    done = run(*SMALL, f"--text={text}")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["text"] == "notes.jsonl"
    full = report["configurations"]["full"]
    assert full["notes"] == 2
    assert full["text_mb"] == 38e-6
    assert full["entities"] >= 3


@pytest.mark.parametrize(
    ("arguments", "words", "status"),
    [
        (("--pairs=0",), "pairs", 2),
        (("--nonsense",), "nonsense", 2),
        (("notes.jsonl",), "unexpected argument notes.jsonl", 2),
        (("--peer=medspacy",), "NAME=/path/to/python", 1),
        (("--peer=spark=/bin/python",), "one of medspacy", 1),
        (("--peer=medspacy=/no/such/python",), "No such file", 1),
        ((f"--peer=medspacy={sys.executable}",), "tools/peers/make.py medspacy", 1),
        (("--text=/no/such.jsonl",), "/no/such.jsonl: No such file", 1),
    ],
)
def test_errors_are_one_line(arguments: tuple[str, ...], words: str, status: int) -> None:
    done = run(*arguments)
    assert done.returncode == status
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("line", ['{"id": "b"}', "[1]", "{"])
def test_a_line_that_is_no_note_is_named(tmp_path: Path, line: str) -> None:
    text = tmp_path / "notes.jsonl"
    text.write_text('{"id": "a", "text": "HTN."}\n' + line + "\n")
    done = run(f"--text={text}")
    assert done.returncode == 1
    assert f"{text}:2: expected a line of" in done.stderr
    assert done.stderr.count("\n") == 1


def test_notes_are_the_same_every_time_and_varied() -> None:
    folder = str(BENCHMARK.parent)
    program = (
        f"import sys; sys.path.insert(0, {folder!r}); import _synthetic_notes as s, json;"
        "print(json.dumps(list(s.notes(0.02))))"
    )
    first, second = (
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    )
    assert first == second
    texts = [text for _, text in json.loads(first)]
    assert len(set(texts)) == len(texts) >= 10
    assert sum(len(text.encode()) for text in texts) >= 20_000
