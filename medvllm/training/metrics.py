"""What a run measures, written down: metrics.jsonl always, TensorBoard and Weights & Biases where asked for."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medvllm.errors import MedvllmError, missing
from medvllm.training.config import TrainerConfig
from medvllm.utils.files import write_atomically

__all__ = ["MetricsLog", "read_metrics"]


class MetricsLog:
    """Writes values by step to each place; the first rank has one. `close` it at the end."""

    def __init__(self, config: TrainerConfig, *, resumed_step: int) -> None:
        """Lines of steps after `resumed_step`, of a run that was killed since its checkpoint, are removed.

        Raises:
            MedvllmError: TensorBoard or W&B is asked for and not installed.
        """
        self.path = config.output / "metrics.jsonl"
        kept = [row for row in read_metrics(self.path) if row["step"] <= resumed_step]
        write_atomically(self.path, "".join(json.dumps(row) + "\n" for row in kept).encode())
        self._file = open(self.path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 (closed by close)
        self._tensorboard = _tensorboard(config, resumed_step) if config.tensorboard else None
        self._wandb = _wandb(config) if config.wandb else None

    def write(self, step: int, values: Mapping[str, float | None]) -> None:
        """One line; values that are None or no number (which JSON has not) are left out."""
        known = {name: value for name, value in values.items() if value is not None and math.isfinite(value)}
        self._file.write(json.dumps({"step": step, **known}) + "\n")
        if self._tensorboard is not None:
            for name, value in known.items():
                self._tensorboard.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(known, step=step)

    def close(self, *, exit_code: int = 0) -> None:
        """Ends the files and the W&B run."""
        self._file.close()
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish(exit_code=exit_code)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl; a last line that a kill cut off is left out, and no file is no rows."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    rows = []
    for line in lines:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows


def _tensorboard(config: TrainerConfig, resumed_step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MedvllmError(f"--tensorboard needs the package tensorboard; {missing('training')}") from error
    return SummaryWriter(str(config.output / "tensorboard"), purge_step=resumed_step + 1)


def _wandb(config: TrainerConfig) -> Any:
    """A W&B run in the run folder. Offline unless the settings say otherwise: nothing then leaves the machine."""
    try:
        import wandb
    except ImportError as error:
        raise MedvllmError("--wandb needs the package wandb; install it: pip install wandb") from error
    if config.wandb_mode == "online" and os.environ.get("WANDB_MODE") in ("offline", "disabled"):
        raise MedvllmError("--wandb-mode is online, but WANDB_MODE says otherwise; unset one of them")
    return wandb.init(
        project=config.wandb_project,
        name=config.output.name,
        dir=str(config.output),
        mode=config.wandb_mode,
        config=config.to_dict(),
    )
