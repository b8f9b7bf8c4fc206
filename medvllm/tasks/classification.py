"""Text classification with a Hugging Face sequence-classification model; long texts are read in windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch

from medvllm.errors import MedvllmError
from medvllm.tasks.encoder_files import find_encoder
from medvllm.tasks.encoder_model import EncoderModel
from medvllm.tasks.model_ner_windows import tokenize, windows

__all__ = ["DEFAULT_MODEL", "Classification", "TextClassifier"]

DEFAULT_MODEL: Final = "distilbert-base-uncased-finetuned-sst-2-english"
_SHARED: Final = 0.125  # of a window, that neighbouring ones have in common
_TEXTS: Final = 256  # whose windows are held at once


@dataclass(frozen=True, slots=True)
class Classification:
    """The labels of a text with their scores (0–1), the highest first."""

    scores: tuple[tuple[str, float], ...]

    @property
    def label(self) -> str:
        """The label with the highest score."""
        return self.scores[0][0]

    @property
    def score(self) -> float:
        """Its score."""
        return self.scores[0][1]

    def to_dict(self, *, top: int | None = None) -> dict[str, Any]:
        """`label` and `score`; with `top` also that many of `scores`."""
        result: dict[str, Any] = {"label": self.label, "score": self.score}
        if top is not None:
            result["scores"] = [{"label": label, "score": score} for label, score in self.scores[:top]]
        return result


class TextClassifier:
    """Labels of texts. The scores of a model with one right label add up to 1; several labels are scored one by one.

    A text longer than the model reads is cut into overlapping windows, and its logits are the mean of theirs, weighted
    by their tokens.

    Raises:
        MedvllmError: the model can't be found, read or used for classification.
    """

    def __init__(
        self,
        name: str = DEFAULT_MODEL,
        *,
        device: str = "auto",
        dtype: str = "auto",
        batch_size: int = 16,
        allow_pickle: bool = False,
        trust_remote_code: bool = False,
    ) -> None:
        files = find_encoder(name, allow_pickle=allow_pickle, trust_remote_code=trust_remote_code)
        self.model = EncoderModel(files, "classification", device=device, dtype=dtype, batch_size=batch_size)
        self._capacity = self.model.max_length - self.model.frame.size
        if self._capacity < 1:
            raise MedvllmError(f"model '{name}' reads only {self.model.max_length} tokens at once, too few for a text")
        several = getattr(self.model.config, "problem_type", None) == "multi_label_classification"
        self._apart = several or len(self.model.labels) == 1  # as transformers' pipeline decides

    @property
    def labels(self) -> list[str]:
        """The labels in the order of the model's outputs."""
        return self.model.labels

    def classify(self, texts: Sequence[str]) -> list[Classification]:
        """The labels of each text."""
        result: list[Classification] = []
        for begin in range(0, len(texts), _TEXTS):
            result += [self._classification(logits) for logits in self._logits(texts[begin : begin + _TEXTS])]
        return result

    def _logits(self, texts: Sequence[str]) -> list[torch.Tensor]:
        """(labels,) of each text, the mean over its windows."""
        frame = self.model.frame
        sequences: list[list[int]] = []
        places: list[tuple[int, int]] = []  # of each window: text, tokens that only it stands for
        for number, text in enumerate(texts):
            tokens = tokenize(self.model.tokenizer, text)
            found = windows(tokens.words, capacity=self._capacity, overlap=int(self._capacity * _SHARED))
            for start, stop, own_start, own_stop in found:
                sequences.append([*frame.before, *tokens.ids[start:stop], *frame.after])
                places.append((number, own_stop - own_start))
            if not found:
                sequences.append([*frame.before, *frame.after])
                places.append((number, 1))
        sums = [torch.zeros(len(self.labels)) for _ in texts]
        weights = [0] * len(texts)
        for (number, weight), logits in zip(places, self.model.logits(sequences), strict=True):
            sums[number] += weight * logits
            weights[number] += weight
        return [total / weight for total, weight in zip(sums, weights, strict=True)]

    def _classification(self, logits: torch.Tensor) -> Classification:
        values = (logits.sigmoid() if self._apart else logits.softmax(-1)).tolist()
        pairs = sorted(zip(self.labels, values, strict=True), key=lambda pair: -pair[1])
        return Classification(tuple((label, round(value, 4)) for label, value in pairs))
