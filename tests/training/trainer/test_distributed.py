"""Ranks of a job compute what one process computes with their batches together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

# SGD: its steps are proportional to the gradients, so that a wrong factor is seen, which Adam would hide.
SETTINGS = ("--epochs", "2", "--grad-accum", "2", "--optimizer", "sgd", "--lr", "0.1", "--metric", "accuracy")


def weights(run: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    tensors: dict[str, Any] = load_file(run / "model.safetensors")
    return tensors


def greatest_difference(first: Path, second: Path) -> float:
    one, two = weights(first), weights(second)
    assert set(one) == set(two)
    return max(float((one[name] - two[name]).abs().max()) for name in one)


@pytest.fixture
def config(tmp_path: Path) -> str:
    """Without dropout, whose draws differ between ranks; a weight that the loss does not need, one of a lower rate."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"dropout": 0.0, "unused": True}))
    return str(path)


@pytest.mark.parametrize("parallel", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_two_ranks_are_one_with_the_doubled_batch(fork: Any, tmp_path: Path, config: str, parallel: str) -> None:
    """101 examples: the last batch is uneven. The notes' lengths differ, so the ranks' losses count differently."""
    given = (*SETTINGS, "--config", config)
    assert fork.train(tmp_path / "one", *given, "--batch-size", "8").wait()[0] == 0
    fork.ranks(2, tmp_path / "two", *given, "--batch-size", "4", "--parallel", parallel)
    assert greatest_difference(tmp_path / "one", tmp_path / "two") < 1e-6
    results = [json.loads((tmp_path / run / "trainer.json").read_text())["result"] for run in ("one", "two")]
    assert [result["ranks"] for result in results] == [1, 2]
    assert results[0]["metrics"] == pytest.approx(results[1]["metrics"], abs=1e-5)


@pytest.mark.parametrize("parallel", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_a_job_goes_on_exactly(fork: Any, tmp_path: Path, parallel: str) -> None:
    """With dropout: each rank's random state comes back. One process can go on with the checkpoint of two."""
    given = (*SETTINGS, "--batch-size", "4", "--parallel", parallel, "--schedule", "constant", "--optimizer", "adamw")
    fork.ranks(2, tmp_path / "whole", *given, "--max-steps", "10")
    fork.ranks(2, tmp_path / "parts", *given, "--max-steps", "5")
    fork.ranks(2, tmp_path / "parts", *given, "--max-steps", "10")
    assert greatest_difference(tmp_path / "whole", tmp_path / "parts") == 0
    alone = (*given[:-8], "--batch-size", "8", "--schedule", "constant", "--optimizer", "adamw", "--max-steps", "14")
    code, _, err = fork.train(tmp_path / "parts", *alone).wait()
    assert code == 0, err
    assert "step 10 of 14" in err


def test_accumulated_batches_are_one_larger_batch(fork: Any, tmp_path: Path, config: str) -> None:
    for run, size, times in (("at-once", 9, 1), ("accumulated", 3, 3), ("other", 8, 1)):
        given = (*SETTINGS, "--config", config, "--batch-size", str(size), "--grad-accum", str(times))
        assert fork.train(tmp_path / run, *given).wait()[0] == 0
    assert greatest_difference(tmp_path / "at-once", tmp_path / "accumulated") < 1e-6
    assert greatest_difference(tmp_path / "at-once", tmp_path / "other") > 1e-4
