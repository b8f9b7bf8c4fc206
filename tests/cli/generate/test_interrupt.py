"""Ctrl-C keeps the text so far; on a terminal the text comes while it is written."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

DISCLAIMER = "Not for clinical use"


def command(generate: Any, *arguments: str) -> tuple[list[str], dict[str, str]]:
    line = [sys.executable, "-m", "medvllm.cli", "inference", "generate", "--model", str(generate.model)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "MEDVLLM_HOME": str(generate.home)}
    sampled = ("--text", "Walk.", "--strategy", "sampling", "--temperature", "1", "--seed", "3")
    return [*line, *sampled, *arguments], environment


def read_until(descriptor: int, pattern: bytes, seconds: float = 120) -> bytes:
    """What comes until the pattern is in it, or the other side has closed."""
    seen, deadline = b"", time.monotonic() + seconds
    while not re.search(pattern, seen) and time.monotonic() < deadline:
        try:
            piece = os.read(descriptor, 65536)
        except OSError:
            break
        if not piece:
            break
        seen += piece
    return seen


def test_interrupted_on_a_terminal(generate: Any) -> None:
    line, environment = command(generate, "--max-length", "480")
    master, slave = pty.openpty()
    process = subprocess.Popen(line, env=environment, stdin=slave, stdout=slave, stderr=subprocess.PIPE)
    os.close(slave)
    before = read_until(master, rb"\w+ \w+ \w+ ")
    process.send_signal(signal.SIGINT)
    after = read_until(master, rb"\Z(?!)")
    assert process.stderr is not None
    errors = process.stderr.read().decode()
    os.close(master)
    assert process.wait() == 130, errors
    text = (before + after).decode()
    assert text.startswith(before.decode())
    assert DISCLAIMER in text
    assert "Traceback" not in errors
    assert errors.splitlines()[-1] == "Error: interrupted; the text so far is kept"


@pytest.mark.slow
def test_interrupted_into_a_file(generate: Any) -> None:
    """The text that is there at the signal is written, with metadata that says so."""
    import json

    line, environment = command(generate, "--max-length", "500", "--json-meta", "--output", "out.txt")
    program = (
        "import os, signal, sys, threading\n"
        "from medvllm.engine.llm_engine import LLMEngine\n"
        "step, count = LLMEngine.step, [0]\n"
        "def interrupted(self):\n"
        "    count[0] += 1\n"
        "    if count[0] == 12: os.kill(os.getpid(), signal.SIGINT)\n"
        "    return step(self)\n"
        "LLMEngine.step = interrupted\n"
        "from medvllm.cli import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program, *line[3:]], env=environment, capture_output=True, text=True)
    assert done.returncode == 130, done.stderr
    meta = json.loads(Path("out.txt.meta.json").read_text())
    assert meta["finish_reason"] == "interrupted"
    assert meta["constraints_report"]["truncation"]["truncated"] is True
    assert 8 <= meta["output_tokens"] <= 12
    assert DISCLAIMER in Path("out.txt").read_text()
    assert done.stderr.splitlines()[-1] == "Error: interrupted; the text so far is kept"


def test_what_is_shown_on_a_terminal_is_the_text(generate: Any) -> None:
    line, environment = command(generate, "--max-length", "60", "--target-words", "30")
    master, slave = pty.openpty()
    process = subprocess.Popen(line, env=environment, stdin=slave, stdout=slave, stderr=subprocess.DEVNULL)
    os.close(slave)
    shown = read_until(master, rb"\Z(?!)").decode().replace("\r\n", "\n")
    os.close(master)
    assert process.wait() == 0
    assert shown == generate(*line[7:], text=None).stdout
