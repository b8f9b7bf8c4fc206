"""Training on each device that a machine has: the loss falls, in float32 and mixed precision, and a run goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


def train(output: Path, device: str, **settings: Any) -> Any:
    from medvllm.training import MedicalModelTrainer, TrainerConfig
    from medvllm.training.toy import build
    from medvllm.training.trainer import seed_all

    config = TrainerConfig(output=output, device=device, batch_size=64, plot=False, progress=False, **settings)
    seed_all(config.seed)
    return MedicalModelTrainer(config).fit(*build({}))


@pytest.mark.parametrize("amp", [False, True])
def test_the_loss_falls(device: str, tmp_path: Path, amp: bool) -> None:
    result = train(tmp_path / "run", device, max_steps=40, lr=0.01, amp=amp, log_every=5, schedule="cosine")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert (result.device, result.precision == "float32") == (device, not amp)
    assert losses[-1] < 0.6 * losses[0]
    assert result.metrics["accuracy"] > 0.8


def test_a_run_goes_on_where_it_ended(device: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    for run, steps in (("whole", (16,)), ("parts", (7, 16))):
        for most in steps:
            train(tmp_path / run, device, max_steps=most, schedule="constant", optimizer="adam")
    one, two = (load_file(tmp_path / run / "model.safetensors") for run in ("whole", "parts"))
    # On a CPU the bits are the same; elsewhere sums may be in another order.
    worst = max(float((one[name] - two[name]).abs().max()) for name in one)
    assert worst <= (0.0 if device == "cpu" else 1e-5)
