"""What a model's forward and a batch have to do with each other: loss, count, device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from medvllm.errors import MedvllmError

__all__ = ["IGNORED", "compute_loss", "count_targets", "has_unused_weights", "no_loss", "to_device"]

IGNORED = -100  # the label that PyTorch's cross-entropy leaves out


def compute_loss(module: nn.Module, batch: Any) -> tuple[Tensor, Any]:
    """The mean loss (a scalar) and the forward's output.

    A dict goes to `module(**batch)`, whose output has a `loss`, as transformers' models have; of a pair (x, y) x goes
    to `module(x)`, and the loss is cross-entropy where y holds whole numbers, else the mean squared error.

    Raises:
        MedvllmError: the batch is neither, or the forward gives no loss.
    """
    if isinstance(batch, Mapping):
        output = module(**batch)
        loss = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
        if not isinstance(loss, Tensor) or loss.dim() != 0:
            raise MedvllmError(
                f"the model's forward must give a 'loss' (one number) for a batch that is a dict; got "
                f"{type(output).__name__} without it. Do the batches have labels? They have {', '.join(batch)}"
            )
        return loss, output
    if not (isinstance(batch, list | tuple) and len(batch) == 2):
        raise MedvllmError(
            f"a batch must be a dict, or a pair of inputs and targets, got {type(batch).__name__}"
            + (f" of {len(batch)}" if isinstance(batch, list | tuple) else "")
            + "; give the dataset a collate_fn that makes one"
        )
    inputs, targets = batch
    output = module(inputs)
    if not isinstance(output, Tensor):
        raise MedvllmError(
            f"the model must give a tensor for a pair of inputs and targets, got {type(output).__name__}"
        )
    if targets.is_floating_point():
        if output.numel() != targets.numel():
            raise MedvllmError(
                f"the model gives the shape {tuple(output.shape)}, the targets have {tuple(targets.shape)}; "
                "for regression they must be the same"
            )
        return functional.mse_loss(output.view_as(targets).float(), targets.float()), output
    if output.dim() > 2 and output.shape[:1] + output.shape[2:] == targets.shape:  # (B, C, …) and (B, …): images
        return functional.cross_entropy(output.float(), targets, ignore_index=IGNORED), output
    if output.shape[:-1] != targets.shape:
        raise MedvllmError(
            f"the model gives the shape {tuple(output.shape)}, the targets have {tuple(targets.shape)}; for classes it "
            "must be (batch, classes, …) or (batch, …, classes)"
        )
    flat = output.reshape(-1, output.shape[-1]).float()
    return functional.cross_entropy(flat, targets.reshape(-1), ignore_index=IGNORED), output


def no_loss(output: Any) -> Tensor:
    """0, with a gradient of 0 for all that the forward used: for a batch without a target, whose mean is no number."""
    values = (
        output.values()
        if isinstance(output, Mapping)
        else [output]
        if isinstance(output, Tensor)
        else vars(output).values()
    )
    kept = [value for value in values if isinstance(value, Tensor) and value.requires_grad and value.dim() > 0]
    return torch.stack([value.float().sum() for value in kept]).sum() * 0.0


def has_unused_weights(model: nn.Module, batch: Any) -> bool:
    """Whether the loss of a batch leaves some weight without a gradient. The model is as it was afterwards."""
    buffers = {name: value.clone() for name, value in model.named_buffers()}  # running means change in a forward
    compute_loss(model, batch)[0].backward()
    unused = any(weight.requires_grad and weight.grad is None for weight in model.parameters())
    model.zero_grad(set_to_none=True)
    for name, value in model.named_buffers():
        value.copy_(buffers[name])
    return unused


def count_targets(batch: Any, *, shifted: bool = False, weights: Tensor | None = None) -> float:
    """Over how many targets a batch's loss is the mean; the batch is still on the CPU.

    `shifted`: the model predicts the next token, so the first label of each row is no target. `weights` (labels,): a
    dict's loss is the mean weighted by its targets' labels, and the count is the sum of their weights.
    """
    if isinstance(batch, Mapping):
        targets = batch.get("labels")
    else:
        weights = None
        targets = batch[1] if isinstance(batch, list | tuple) and len(batch) == 2 else None
    if not isinstance(targets, Tensor):
        return 1.0
    if targets.is_floating_point():
        return float(targets.numel())
    if shifted:
        targets = targets[..., 1:]
    kept = targets[targets != IGNORED]
    return float(kept.numel() if weights is None else weights.double()[kept].sum())


def to_device(batch: Any, device: torch.device) -> Any:
    """The batch with its tensors on the device; lists, tuples and dicts stay what they are."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, Mapping):
        return {name: to_device(value, device) for name, value in batch.items()}
    if isinstance(batch, list | tuple):
        return type(batch)(to_device(value, device) for value in batch)
    return batch
