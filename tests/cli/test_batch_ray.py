"""`--engine ray` on a real cluster of two processes gives what one process gives."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

NER = ("inference", "ner", "--input", "n.jsonl")


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a Ray cluster: a head and a second node, one processor each, on this machine."""
    ray = [sys.executable, "-m", "ray.scripts.scripts"]
    options = ["--num-cpus=1", "--disable-usage-stats", "--include-dashboard=false"]
    subprocess.run([*ray, "start", "--head", "--port=6399", *options], check=True, capture_output=True)
    subprocess.run([*ray, "start", "--address=127.0.0.1:6399", *options[:2]], check=True, capture_output=True)
    yield "127.0.0.1:6399"
    subprocess.run([*ray, "stop", "--force"], capture_output=True)


def test_ray_gives_the_same_output(run: Any, cluster: str) -> None:
    work: Path = run.work
    with open(work / "n.jsonl", "w") as file:
        for number in range(900):
            text = f"Patient {number} has hypertension and denies chest pain. Metformin {number} mg PO BID. " * 5
            file.write(json.dumps({"id": number, "text": text}) + "\n")
    alone = run(*NER, "--workers", "1")
    assert alone.returncode == 0
    spread = run(*NER, "--engine", "ray", RAY_ADDRESS=cluster)
    assert spread.returncode == 0, spread.stderr
    assert spread.stdout == alone.stdout


def test_ray_output_is_resumable(run: Any, cluster: str) -> None:
    (run.work / "n.jsonl").write_text('{"id": 1, "text": "HTN"}\n{"id": 2, "text": "no fever"}\n')
    done = run(*NER, "--engine", "ray", "--output", "o.jsonl", RAY_ADDRESS=cluster)
    assert done.returncode == 0, done.stderr
    assert len((run.work / "o.jsonl").read_text().splitlines()) == 2
