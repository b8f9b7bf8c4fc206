"""The loss, and the data's own metrics, over a whole evaluation set; shared out over the ranks."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from medvllm.errors import MedvllmError
from medvllm.training.batches import eval_plan, load
from medvllm.training.distributed import Ranks
from medvllm.training.losses import compute_loss, count_targets, to_device
from medvllm.training.precision import Precision

__all__ = ["evaluate"]


def evaluate(
    module: nn.Module,
    dataset: Any,
    *,
    ranks: Ranks,
    precision: Precision,
    batch_size: int,
    shifted: bool = False,
    weights: Tensor | None = None,
    num_workers: int = 0,
) -> dict[str, float]:
    """`loss`, the mean over all targets, and what `dataset.compute_metrics` makes of all predictions.

    A dataset with metrics has two methods: `predictions(output, batch)` gives a list, one plain value an example;
    `compute_metrics(predictions)` gets those of the whole set in its order and gives names and numbers. `shifted` and
    `weights`: see count_targets.

    Raises:
        MedvllmError: the dataset's methods give something else.
    """
    measured = hasattr(dataset, "compute_metrics") and hasattr(dataset, "predictions")
    plan = eval_plan(len(dataset), batch_size=batch_size, ranks=ranks.count, rank=ranks.rank)
    losses = torch.zeros(2, dtype=torch.float64)  # sum over targets, targets
    found: dict[int, Any] = {}
    before = module.training
    module.eval()
    try:
        with torch.no_grad():
            for batch, numbers in load(dataset, plan, seed=0, num_workers=num_workers):
                count = count_targets(batch, shifted=shifted, weights=weights)
                batch = to_device(batch, ranks.device)
                with precision.autocast():
                    loss, output = compute_loss(module, batch)
                if numbers and count:
                    losses += torch.tensor([float(loss) * count, count], dtype=torch.float64)
                if numbers and measured:
                    found.update(zip(numbers, _predictions(dataset, output, batch, len(numbers)), strict=True))
    finally:
        module.train(before)
    summed, counted = ranks.total(losses.to(ranks.device) if ranks.device.type == "cuda" else losses).tolist()
    values = {"loss": summed / counted if counted else math.nan}
    if measured:
        whole: dict[int, Any] = {}
        for part in ranks.gathered(found):
            whole.update(part)
        values |= _metrics(dataset, [whole[number] for number in range(len(dataset))])
    return values


def _predictions(dataset: Any, output: Any, batch: Any, examples: int) -> list[Any]:
    made = dataset.predictions(output, batch)
    if not isinstance(made, list) or len(made) != examples:
        came = f"{len(made)}" if isinstance(made, list) else type(made).__name__
        raise MedvllmError(f"{type(dataset).__name__}.predictions must give a list of {examples} values, got {came}")
    return made


def _metrics(dataset: Any, predictions: list[Any]) -> dict[str, float]:
    made = dataset.compute_metrics(predictions)
    if not isinstance(made, dict) or not all(isinstance(value, Real) for value in made.values()):
        raise MedvllmError(f"{type(dataset).__name__}.compute_metrics must give names and numbers, got {made!r:.80}")
    return {str(name): float(value) for name, value in made.items()}
