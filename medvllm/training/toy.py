"""The built-in example: points on two arms of a spiral, and a small network that tells the arms apart."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

__all__ = ["TinyMLP", "TwoSpirals", "build"]


class TwoSpirals(Dataset):
    """`examples` pairs of a point (2,) and its arm, 0 or 1; the same for the same seed."""

    def __init__(self, examples: int, *, seed: int) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.arms = torch.arange(examples) % 2
        angle = 0.3 + 4.0 * torch.rand(examples, generator=draw)  # radians from the centre outwards
        turned = angle + torch.pi * self.arms
        noise = 0.15 * torch.randn(examples, 2, generator=draw)
        self.points = torch.stack([angle * turned.cos(), angle * turned.sin()], dim=1) / 2 + noise  # (examples, 2)

    def __len__(self) -> int:
        return len(self.arms)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        return self.points[number], self.arms[number]

    def predictions(self, output: Tensor, batch: Any) -> list[int]:
        """The likelier arm of each point; `output` are the logits (batch, 2)."""
        arms: list[int] = output.argmax(dim=1).tolist()
        return arms

    def compute_metrics(self, predictions: list[int]) -> dict[str, float]:
        """The fraction that is right."""
        right = sum(arm == truth for arm, truth in zip(predictions, self.arms.tolist(), strict=True))
        return {"accuracy": right / len(predictions)}


class TinyMLP(nn.Sequential):
    """Two hidden layers of 64: 4,482 weights."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))


def build(config: dict[str, Any]) -> tuple[nn.Module, Dataset, Dataset]:
    """Model, 2,048 points to train on and 512 others to evaluate on."""
    return TinyMLP(), TwoSpirals(2048, seed=1), TwoSpirals(512, seed=2)
