"""Automatic mixed precision: weights stay float32, matrix products are computed in 16 bits."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from medvllm.errors import MedvllmError
from medvllm.training.config import TrainerConfig
from medvllm.training.distributed import Ranks

__all__ = ["Precision", "choose_precision"]


@dataclass(frozen=True, slots=True)
class Precision:
    """What is computed in which type, and the scaler of losses that float16 needs."""

    device_type: str
    dtype: torch.dtype | None  # None: no mixed precision
    scaler: Any  # torch.amp.GradScaler; it does nothing where it is not enabled

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of a forward."""
        if self.dtype is None:
            return nullcontext()
        context: AbstractContextManager[Any] = torch.autocast(self.device_type, self.dtype)
        return context

    @property
    def name(self) -> str:
        """float32, bfloat16 or float16."""
        return str(self.dtype or torch.float32).removeprefix("torch.")


def choose_precision(config: TrainerConfig, ranks: Ranks) -> Precision:
    """bfloat16 on CPU and XLA; on CUDA bfloat16, or float16 with loss scaling on a GPU that lacks it.

    Raises:
        MedvllmError: float16 where it can't be trained in.
    """
    kind = ranks.device.type
    wanted = config.amp if config.amp is not None else kind == "cuda"
    if not wanted:
        return Precision(kind, None, torch.amp.GradScaler(enabled=False))
    dtype = torch.bfloat16 if config.amp_dtype == "bfloat16" else torch.float16
    if config.amp_dtype == "auto":
        # is_bf16_supported counts emulation by default, which is slower than float16
        native = kind != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
        dtype = torch.bfloat16 if native else torch.float16
    if dtype == torch.float16 and kind != "cuda":
        raise MedvllmError(f"--amp-dtype float16 is for CUDA, the device is {kind}; use bfloat16")
    if dtype == torch.float16 and ranks.count > 1 and config.parallel == "fsdp":
        raise MedvllmError("--amp-dtype float16 is not for FSDP; use bfloat16, or --parallel ddp")
    return Precision(kind, dtype, torch.amp.GradScaler("cuda", enabled=dtype == torch.float16))
