"""Rates and settings: the schedules are PyTorch's own by number, and a bad setting is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

from medvllm.errors import MedvllmError
from medvllm.training.batches import train_plan
from medvllm.training.config import TrainerConfig
from medvllm.training.schedules import learning_rate, make_optimizer, momentum_of

STEPS, EPOCH = 60, 15


def settings(**given: Any) -> TrainerConfig:
    fields: dict[str, Any] = {"output": Path("run"), "lr": 0.02}
    return TrainerConfig(**fields | given)


def rates(config: TrainerConfig) -> list[float]:
    return [learning_rate(step, config, total_steps=STEPS, steps_per_epoch=EPOCH) for step in range(STEPS)]


def torchs(make: Any) -> tuple[list[float], list[float]]:
    """Rates and beta1 of a scheduler of PyTorch."""
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))], lr=0.02)
    scheduler = make(optimizer)
    found, momentums = [], []
    for _ in range(STEPS):
        found.append(optimizer.param_groups[0]["lr"])
        momentums.append(optimizer.param_groups[0]["betas"][0])
        optimizer.step()
        scheduler.step()
    return found, momentums


def test_cosine_is_torchs() -> None:
    expected, _ = torchs(lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, T_max=STEPS, eta_min=0.001))
    assert rates(settings(schedule="cosine", min_lr=0.001)) == pytest.approx(expected)


def test_step_is_torchs() -> None:
    expected, _ = torchs(lambda optimizer: lr_scheduler.StepLR(optimizer, step_size=2 * EPOCH, gamma=0.3))
    assert rates(settings(schedule="step", step_epochs=2.0, step_gamma=0.3)) == pytest.approx(expected)


def test_onecycle_is_torchs_momentum_included() -> None:
    expected, momentums = torchs(lambda optimizer: lr_scheduler.OneCycleLR(optimizer, max_lr=0.02, total_steps=STEPS))
    config = settings(schedule="onecycle", min_lr=0.02 / 25 / 1e4)
    assert rates(config) == pytest.approx(expected)
    assert [momentum_of(step, config, total_steps=STEPS) for step in range(STEPS)] == pytest.approx(momentums)


def test_warm_up_rises_in_a_line_then_linear_falls_to_the_least() -> None:
    found = rates(settings(schedule="linear", warmup_steps=10, min_lr=0.005))
    assert found[:10] == pytest.approx([0.002 * (step + 1) for step in range(10)])
    assert found[10] == pytest.approx(0.02)
    assert found[35] == pytest.approx((0.02 + 0.005) / 2)
    assert found[-1] == pytest.approx(0.005 + 0.015 / 50)
    assert set(rates(settings(schedule="constant", warmup_steps=3))[3:]) == {0.02}


@pytest.mark.parametrize("kind", ["adamw", "adam", "sgd"])
def test_matrices_decay_and_biases_do_not(kind: str) -> None:
    optimizer = make_optimizer(torch.nn.Linear(3, 2), settings(optimizer=kind, weight_decay=0.1))
    assert type(optimizer).__name__.lower() == kind
    assert [(group["weight_decay"], group["params"][0].dim()) for group in optimizer.param_groups] == [
        (0.1, 2),
        (0.0, 1),
    ]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epochs": 0}, "epochs must be a whole number of at least 1, got 0"),
        ({"lr": float("nan")}, "lr must be a number above 0, got nan"),
        ({"lr": -1.0}, "lr must be a number above 0, got -1.0"),
        ({"beta1": 1.0}, "beta1 must be a number at least 0 and below 1, got 1.0"),
        ({"schedule": "exponential"}, "schedule must be one of constant, linear, step, cosine, onecycle, got"),
        ({"export": ("tflite",)}, "export takes safetensors, onnx, torchscript, got 'tflite'"),
        ({"min_lr": 1.0}, "min_lr must be at most lr"),
        ({"batch_size": 2.5}, "batch_size must be a whole number"),
        ({"seed": 2**44}, "seed must be below 2"),
    ],
)
def test_settings_out_of_range_are_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(MedvllmError, match=message.replace("(", r"\(")):
        settings(**given)


def test_every_example_is_seen_once_an_epoch_whatever_the_ranks() -> None:
    lengths = [number % 37 for number in range(101)]
    for ranks, grad_accum in ((1, 1), (3, 2), (7, 5)):
        plans = [
            train_plan(
                101, batch_size=4, grad_accum=grad_accum, ranks=ranks, rank=rank, seed=1, epoch=2, lengths=lengths
            )
            for rank in range(ranks)
        ]
        assert len({tuple(map(len, plan)) for plan in plans}) == 1  # the ranks have as many batches in each step
        assert sorted(number for plan in plans for step in plan for batch in step for number in batch) == list(
            range(101)
        )
        assert all(len(batch) <= 4 for plan in plans for step in plan for batch in step)
    first, second = (train_plan(101, batch_size=4, seed=1, epoch=epoch, lengths=lengths) for epoch in (0, 1))
    assert first != second
    spread = [max(lengths[n] for n in batch) - min(lengths[n] for n in batch) for (batch,) in first[:-1]]
    assert sum(spread) / len(spread) < 4  # of 36: the batch's notes are of similar length
