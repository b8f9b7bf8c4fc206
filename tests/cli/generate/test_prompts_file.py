"""Many prompts: a line for each in order, errors beside the rest, and going on after any kind of end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def prompts(count: int) -> Path:
    path = Path("prompts.jsonl")
    path.write_text(
        "".join(json.dumps({"id": f"p{i}", "text": f"Take salt {'less ' * (i % 7)}."}) + "\n" for i in range(count))
    )
    return path


def test_a_line_for_each_prompt(generate: Any) -> None:
    prompts(5)
    done = generate("--prompts-file", "prompts.jsonl", "--max-length", "4", "--json-meta", text=None)
    assert done.code == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["id"] for row in rows] == [f"p{i}" for i in range(5)]
    assert all(row["text"] for row in rows)
    assert all(row["metadata"]["output_tokens"] == 4 for row in rows)
    assert all("words" in row["metadata"]["constraints_report"] for row in rows)
    assert "5 prompts, 20 tokens" in done.stderr.splitlines()[-1]


def test_texts_are_those_of_one_prompt_alone(generate: Any) -> None:
    prompts(3)
    done = generate("--prompts-file", "prompts.jsonl", "--max-length", "6", text=None)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    alone = generate("--max-length", "6", text="Take salt less .")
    assert rows[1] == {"id": "p1", "text": alone.stdout.rstrip("\n")}


def test_lines_that_can_not_be_answered_stop_no_other(generate: Any) -> None:
    long = json.dumps({"id": "long", "text": "Take less salt. " * 400})
    Path("prompts.jsonl").write_text('{"text": "Walk."}\n{"text": 3}\n\nnonsense\n{"text": " "}\n' + long + "\n")
    done = generate("--prompts-file", "prompts.jsonl", "--output", "out.jsonl", "--max-length", "2", text=None)
    assert done.code == 1
    assert "4 of 5 prompts could not be answered" in done.stderr.splitlines()[-1]
    rows = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert ["error" in row for row in rows] == [False, True, True, True, True]
    assert rows[0]["id"] == "1"
    assert "prompts.jsonl, line 2: expected an object with a string 'text'" in rows[1]["error"]
    assert rows[4]["id"] == "long"
    assert "--truncate" in rows[4]["error"]


def test_a_missing_file(generate: Any) -> None:
    done = generate("--prompts-file", "none.jsonl", text=None)
    assert (done.code, done.stderr.splitlines()[-1]) == (1, "Error: --prompts-file: there is no file none.jsonl")


def test_goes_on_after_being_killed(generate: Any) -> None:
    """Killed while it writes, the same command gives the same file as one run, and other options are refused."""
    prompts(400)
    arguments = ("--prompts-file", "prompts.jsonl", "--max-length", "24", "--output")
    whole = generate(*arguments, "whole.jsonl", text=None)
    assert whole.code == 0, whole.stderr
    command = [sys.executable, "-m", "medvllm.cli", "inference", "generate", "--model", str(generate.model)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "MEDVLLM_HOME": str(generate.home)}
    process = subprocess.Popen([*command, *arguments, "out.jsonl"], env=environment, stderr=subprocess.PIPE)
    state = Path("out.jsonl.state")
    deadline = time.monotonic() + 120
    while not (state.exists() and json.loads(state.read_text())["notes"]) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done_before = json.loads(state.read_text())["notes"]
    assert 0 < done_before < 400
    other = generate("--prompts-file", "prompts.jsonl", "--max-length", "25", "--output", "out.jsonl", text=None)
    assert other.code == 1
    assert "--restart" in other.stderr.splitlines()[-1]
    again = generate(*arguments, "out.jsonl", text=None)
    assert again.code == 0, again.stderr
    assert f"Going on after {done_before} prompts" in again.stderr
    assert Path("out.jsonl").read_text() == Path("whole.jsonl").read_text()
    assert not state.exists()
