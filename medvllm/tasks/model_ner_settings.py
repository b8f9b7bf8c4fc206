"""How a token-classification model is to be read: kept in its folder beside the weights."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from medvllm.errors import MedvllmError
from medvllm.tasks.model_ner_spans import AGGREGATIONS, DECODINGS, Aggregation, Decoding, RawSpan, confidences
from medvllm.utils.files import write_atomically

if TYPE_CHECKING:
    import torch

__all__ = ["SETTINGS_FILE", "NERSettings", "fit_temperature"]

SETTINGS_FILE: Final = "medvllm_ner.json"
_TEMPERATURES: Final = tuple(0.5 * 1.05**power for power in range(48))  # 0.5 to 5


@dataclass(frozen=True, slots=True)
class NERSettings:
    """What a recipe knows of its model; None where a model came without it."""

    aggregation: Aggregation | None = None
    max_length: int | None = None  # tokens of a window, special ones included
    stride: int | None = None  # tokens that neighbouring windows share
    decoding: Decoding = "greedy"
    document: bool = (
        False  # whether the same words of a text are made the same, and abbreviations follow their long form
    )
    temperature: float = 1.0  # logits are divided by it before they become confidences

    @classmethod
    def read(cls, folder: Path) -> NERSettings:
        """The settings in a model's folder, the defaults where it has none.

        Raises:
            MedvllmError: the file is there and not as it must be.
        """
        path = folder / SETTINGS_FILE
        try:
            value = json.loads(path.read_bytes().decode("utf-8"))
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError) as error:
            raise MedvllmError(f"can't read {path}: {error}; train the model again, or remove the file") from error
        known = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(value, dict) or not known >= value.keys() or not _good(value):
            raise MedvllmError(
                f"{path} must hold {', '.join(sorted(known))}; train the model again, or remove the file"
            )
        return cls(**value)

    def save(self, folder: Path) -> None:
        """Writes the settings into a model's folder."""
        write_atomically(folder / SETTINGS_FILE, json.dumps(dataclasses.asdict(self), indent=2).encode() + b"\n")


def _good(value: dict[str, Any]) -> bool:
    temperature = value.get("temperature", 1.0)
    numbers = [value.get("max_length"), value.get("stride")]
    return (
        value.get("aggregation") in (None, *AGGREGATIONS)
        and value.get("decoding", "greedy") in DECODINGS
        and isinstance(value.get("document", False), bool)
        and all(number is None or (isinstance(number, int) and number >= 0) for number in numbers)
        and isinstance(temperature, int | float)
        and 0 < temperature < 1000
    )


def fit_temperature(
    scored: Iterable[tuple[torch.Tensor, Sequence[int], Sequence[RawSpan], Sequence[bool]]],
) -> tuple[float, float]:
    """The temperature at which confidences fit best, and the expected calibration error (10 bins) it leaves.

    `scored` are, text by text, the logits of its units, their labels, its spans, and whether each is right. Best is the
    least logarithmic loss of "the span is right" (Guo et al. 2017 fit the same one number on labels).
    """
    import math

    rows = [row for row in scored if row[2]]
    if not rows:
        return 1.0, 0.0
    truth = [value for *_, right in rows for value in right]
    best = (math.inf, 1.0, [0.0])
    for temperature in _TEMPERATURES:
        found = [
            value
            for logits, labels, spans, _ in rows
            for value in confidences(logits, labels, spans, temperature=temperature)
        ]
        loss = -sum(math.log(max(value if good else 1 - value, 1e-6)) for value, good in zip(found, truth, strict=True))
        best = min(best, (loss, temperature, found), key=lambda one: one[0])
    return round(best[1], 4), round(_calibration_error(best[2], truth), 4)


def _calibration_error(confidence: Sequence[float], truth: Sequence[bool]) -> float:
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(10)]
    for value, good in zip(confidence, truth, strict=True):
        bins[min(int(value * 10), 9)].append((value, good))
    gaps = (abs(sum(value for value, _ in one) - sum(good for _, good in one)) for one in bins)
    return sum(gaps) / len(truth)
