"""Data sets of the hub, by the real libraries against a hub on loopback; then without it, from the cache."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

Serving = Callable[[dict[str, dict[str, bytes]]], AbstractContextManager[str]]
REVISION = "0123456789abcdef0123456789abcdef01234567"  # what the hub says of each of its data sets
LOAD = """
import json, sys, time
from llenergymeasure.config import ExperimentConfig
from llenergymeasure.errors import LemError
from llenergymeasure.prompts import load_prompts

config = ExperimentConfig(config_name="a", model_name="m")
import datasets  # its import is not the hub's time
for name in sys.argv[1:]:
    began = time.monotonic()
    try:
        found = load_prompts(config, dataset=name, sample_size=2)
        answer = {"texts": [each.text for each in found.prompts], **found.source.model_dump()}
    except LemError as error:
        answer = {"error": str(error)}
    print(json.dumps(answer | {"seconds": time.monotonic() - began}))
"""
CARD = b"""---
configs:
- config_name: auxiliary
  data_files: [{split: train, path: auxiliary.jsonl}]
- config_name: all
  data_files: [{split: test, path: test.jsonl}, {split: dev, path: dev.jsonl}]
---
"""


def lines(*rows: dict[str, Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def loaded(endpoint: str, home: Path, *names: str) -> list[dict[str, Any]]:
    """What a process with an empty home gets of each data set."""
    environment = os.environ | {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "PYTHONPATH": os.pathsep.join(sys.path),
        "NO_PROXY": "127.0.0.1",
    }
    for name in ("HF_HUB_OFFLINE", "HF_TOKEN", "HF_DATASETS_CACHE", "HF_HUB_CACHE"):
        environment.pop(name, None)
    command = [sys.executable, "-c", LOAD, *names]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_aliases_with_their_subset_split_and_revision_then_from_the_cache(tmp_path: Path, serving: Serving) -> None:
    conversations = [{"from": "system", "value": "x"}, {"from": "human", "value": "said by a human"}]
    data = {
        "tatsu-lab/alpaca": {
            "data.jsonl": lines({"text": "not this", "instruction": "one"}, {"text": "no", "instruction": "two"}),
        },
        "evil/scripted": {"data.jsonl": lines({"text": "x"}), "scripted.py": b"raise SystemExit('was run')"},
        "cais/mmlu": {
            "README.md": CARD,
            "auxiliary.jsonl": lines({"question": "auxiliary"}),
            "test.jsonl": lines({"question": "of test"}),
            "dev.jsonl": lines({"question": "of dev"}),
        },
        "anon8231489123/ShareGPT_Vicuna_unfiltered": {
            "ShareGPT_V3_unfiltered_cleaned_split.json": json.dumps([{"conversations": conversations}]).encode(),
            "old.json": b'[{"conversations": [{"from": "human", "value": "of another file"}]}]',
        },
    }
    names = ["alpaca", "mmlu", "sharegpt", "gsm8k"]
    with serving(data) as endpoint:
        alpaca, mmlu, sharegpt, gsm8k, scripted = loaded(endpoint, tmp_path, *names, "evil/scripted")
    assert alpaca["texts"] == ["one", "two"]
    assert alpaca["name"] == "alpaca (tatsu-lab/alpaca)"
    assert (mmlu["texts"], mmlu["split"]) == (["of test"], "test")
    assert sharegpt["texts"] == ["said by a human"]
    assert {each["revision"] for each in (alpaca, mmlu, sharegpt)} == {REVISION}
    assert gsm8k["error"].startswith("there is no data set openai/gsm8k on the hub (or it is private: set HF_TOKEN)")
    assert "scripts are no longer supported" in scripted["error"]

    began = time.monotonic()
    cached = loaded(endpoint, tmp_path, *names, "ai-energy-score")
    assert time.monotonic() - began < 60
    for before, after in zip((alpaca, mmlu, sharegpt), cached, strict=False):
        assert before | {"seconds": 0} == after | {"seconds": 0}
    for each in cached[3:]:
        assert each["error"].endswith(
            "is not in the cache and the hub can't be reached; "
            "give --prompts FILE, a local path as --dataset, or -d builtin"
        )
        assert each["seconds"] < 5
