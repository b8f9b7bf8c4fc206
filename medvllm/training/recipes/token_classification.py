"""The `ner` recipe: a token-classification model from annotated texts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from torch import nn
from torch.utils.data import Dataset

from medvllm.errors import MedvllmError
from medvllm.tasks.encoder_files import find_encoder
from medvllm.tasks.model_ner_settings import NERSettings, fit_temperature
from medvllm.tasks.model_ner_spans import RawSpan, Units, aggregate, best_labels, decode, group
from medvllm.tasks.model_ner_windows import TextTokens, frame_of, tokenize, windows
from medvllm.training.losses import IGNORED
from medvllm.training.recipes.encoders import (
    ModelAssets,
    check_length,
    class_weights,
    classifier,
    freeze,
    mask_token,
    scale_rates,
    weigh_classes,
)
from medvllm.training.recipes.ner_data import AnnotatedText, read_spans, scheme_labels, word_labels
from medvllm.training.recipes.options import from_config

__all__ = ["NERDataset", "NERRecipe", "ner"]

SCHEMES: Final = ("BIO", "BIOES")


@dataclasses.dataclass(frozen=True, slots=True)
class NERRecipe:
    """The options of the `ner` recipe, the keys of its --config."""

    train: str  # JSONL of {"text", "entities": [{"start", "end", "type"}]}
    model: str  # the base: a folder, a registered name or a hub id
    eval: str | None = None  # JSONL like train
    types: dict[str, str] | None = None  # type in the data -> type to learn, others are left out; None: all as named
    scheme: str = "BIO"
    max_length: int = 256  # tokens of a window, special ones included
    stride: int = 32  # tokens that neighbouring windows share where the model is used
    class_weights: dict[str, float] | None = None  # type (or O) -> weight of its words in the loss; 1 where not named
    head_lr: float = 1.0  # learning rate of the new head, in multiples of --lr
    layer_decay: float = 1.0  # of the learning rate from each layer to the one below it
    freeze_embeddings: bool = False
    freeze_layers: int = 0  # how many layers, from the lowest, stay as they are
    dropout: float | None = None  # of hidden states; None: the base's own
    attention_dropout: float | None = None  # 0 is much faster on a CPU; None: the base's own
    mask: float = 0.0  # share of the training texts' tokens that the model does not see
    allow_pickle: bool = False  # take a base whose weights are pickle files
    trust_remote_code: bool = False  # run Python code that comes with the base

    def __post_init__(self) -> None:
        """Checks what types do not say."""
        if self.scheme not in SCHEMES:
            raise MedvllmError(f"the option 'scheme' must be one of {', '.join(SCHEMES)}, got {self.scheme!r}")
        if self.max_length < 8 or not 0 <= self.stride <= self.max_length // 2:
            raise MedvllmError(
                "the options 'max_length' and 'stride' need max_length >= 8 and a stride of at most half of it, "
                f"got {self.max_length} and {self.stride}"
            )
        if not 0 <= self.mask < 1:
            raise MedvllmError(f"the option 'mask' must be in [0, 1), got {self.mask}")

    def settings(self) -> NERSettings:
        """How the trained model is to be read."""
        return NERSettings(
            aggregation="first", decoding="viterbi", document=True, max_length=self.max_length, stride=self.stride
        )


class _Judged(NamedTuple):
    """A text's words as the model sees them: logits, labels, spans, which spans are right, how many are wanted."""

    logits: torch.Tensor
    labels: list[int]
    spans: list[RawSpan]
    right: list[bool]
    wanted: int


class NERDataset(Dataset[dict[str, torch.Tensor]]):
    """Windows of texts with a label for the first token of each word."""

    def __init__(
        self,
        texts: Sequence[AnnotatedText],
        assets: ModelAssets,
        labels: Sequence[str],
        recipe: NERRecipe,
        *,
        training: bool,
    ) -> None:
        self.texts, self.labels, self.recipe = texts, list(labels), recipe
        self.tokenizer = assets  # the trainer saves it beside the weights
        self._frame = frame_of(assets.tokenizer)
        self._overlap = 0 if training else recipe.stride
        self._mask = recipe.mask if training else 0.0
        self._hidden = mask_token(assets.tokenizer)
        self._numbers = {label: number for number, label in enumerate(labels)}
        self._items: list[tuple[list[int], list[int]]] = []
        self._encoded: list[TextTokens] = []
        self._places: list[tuple[int, int, int, int]] = []  # of each item: text, first own token, its place, how many
        self.lost_spans = 0  # overlapped by longer ones, or without a token
        for number, text in enumerate(texts):
            self._add(number, text)
        self.lengths = [len(ids) for ids, _ in self._items]
        self.data_warnings = self._warnings("training" if training else "evaluation")  # the trainer warns of them

    def _warnings(self, data: str) -> list[str]:
        found = []
        if self.lost_spans:
            count = sum(len(text.spans) for text in self.texts)
            found.append(
                f"{self.lost_spans} of the {count} spans of the {data} data have no label: longer ones overlap them, "
                "or they stand for nothing that the tokenizer keeps"
            )
        known = {label[2:] for label in self.labels}
        if strange := sorted({kind for text in self.texts for _, _, kind in text.spans} - known):
            found.append(f"the {data} data have spans of {', '.join(strange)}, which the training data lack")
        return found

    def _add(self, number: int, text: AnnotatedText) -> None:
        tokens = tokenize(self.tokenizer.tokenizer, text.text)
        self._encoded.append(tokens)
        units = group(tokens, "first")
        names, lost = word_labels(units.starts, units.ends, text.spans, scheme=self.recipe.scheme)
        self.lost_spans += lost
        labels = [IGNORED] * len(tokens.ids)
        for first, name in zip(units.firsts, names, strict=True):
            labels[first] = self._numbers.get(name, 0)  # a type that only the evaluation data have is no entity
        frame = self._frame
        capacity = self.recipe.max_length - frame.size
        for start, stop, own_start, own_stop in windows(tokens.words, capacity=capacity, overlap=self._overlap):
            kept = [labels[at] if own_start <= at < own_stop else IGNORED for at in range(start, stop)]
            kept = [IGNORED] * len(frame.before) + kept + [IGNORED] * len(frame.after)
            self._places.append((number, own_start, len(frame.before) + own_start - start, own_stop - own_start))
            self._items.append(([*frame.before, *tokens.ids[start:stop], *frame.after], kept))

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """One window: `input_ids` and `labels`, (tokens,) int64."""
        ids, labels = (torch.tensor(values) for values in self._items[index])
        if self._mask:
            hidden = torch.rand(len(ids)) < self._mask
            hidden[: len(self._frame.before)] = False
            hidden[len(ids) - len(self._frame.after) :] = False
            ids[hidden] = self._hidden
        return {"input_ids": ids, "labels": labels}

    def collate_fn(self, items: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """(batch, longest) tensors; padding is masked and has no label."""
        pad = nn.utils.rnn.pad_sequence
        ids = [item["input_ids"] for item in items]
        return {
            "input_ids": pad(ids, batch_first=True),
            "attention_mask": pad([torch.ones_like(row) for row in ids], batch_first=True),
            "labels": pad([item["labels"] for item in items], batch_first=True, padding_value=IGNORED),
        }

    def predictions(self, output: Any, batch: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        """Of each window of a batch its logits, (tokens, labels) float on the CPU."""
        lengths = batch["attention_mask"].sum(1).tolist()
        return [rows[:length] for rows, length in zip(output.logits.float().cpu(), lengths, strict=True)]

    def compute_metrics(self, predictions: Sequence[torch.Tensor]) -> dict[str, float]:
        """Strict precision, recall and F1 (0–1) of the spans, from the logits of all windows in order."""
        right = found = wanted = 0
        for text in self._judged(predictions):
            right += sum(text.right)
            found += len(text.spans)
            wanted += text.wanted
        return {
            "precision": right / found if found else 0.0,
            "recall": right / wanted if wanted else 0.0,
            "f1": 2 * right / (found + wanted) if found + wanted else 0.0,
        }

    def _judged(self, predictions: Sequence[torch.Tensor]) -> list[_Judged]:
        judged: list[_Judged] = []
        tags, names = [label[:1] for label in self.labels], [label[2:] for label in self.labels]
        for text, units, logits in zip(self.texts, self._units(), self._of_words(predictions), strict=True):
            found = best_labels(logits, tags, names, "viterbi")
            spans = decode(found, units, tags, names)
            gold = set(text.spans)
            good = [(span.start, span.end, span.name) in gold for span in spans]
            judged.append(_Judged(logits, found, spans, good, len(gold)))
        return judged

    def _units(self) -> list[Units]:
        return [group(tokens, "first") for tokens in self._encoded]

    def _of_words(self, predictions: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """(words, labels) of each text."""
        rows = [torch.zeros(len(tokens.ids), len(self.labels)) for tokens in self._encoded]
        for (number, start, place, count), logits in zip(self._places, predictions, strict=True):
            rows[number][start : start + count] = logits[place : place + count]
        return [aggregate(row, units, "first") for row, units in zip(rows, self._units(), strict=True)]

    @torch.no_grad()
    def temperature(self, model: nn.Module, *, batch_size: int = 16) -> float:
        """The temperature at which the model's confidences fit these texts best."""
        device = next(model.parameters()).device
        was_training = model.training
        model.eval()
        predictions: list[torch.Tensor] = []
        for begin in range(0, len(self), batch_size):
            batch = self.collate_fn([self[at] for at in range(begin, min(begin + batch_size, len(self)))])
            inputs = {name: value.to(device) for name, value in batch.items() if name != "labels"}
            predictions += self.predictions(model(**inputs), inputs)
        model.train(was_training)
        return fit_temperature(text[:4] for text in self._judged(predictions))[0]


def ner(config: Mapping[str, Any]) -> tuple[nn.Module, NERDataset, NERDataset | None]:
    """The model, its training texts and its evaluation texts; `config` has the fields of NERRecipe.

    Raises:
        MedvllmError: an option, the base model or a line of the data is not as it must be.
    """
    recipe = from_config(NERRecipe, config, recipe="ner")
    train = read_spans(Path(recipe.train), types=recipe.types)
    evaluation = read_spans(Path(recipe.eval), types=recipe.types) if recipe.eval else None
    kinds = sorted({kind for text in train for _, _, kind in text.spans})
    if not kinds:
        raise MedvllmError(f"{recipe.train} has no span" + (" of the 'types' given" if recipe.types else ""))
    labels = scheme_labels(kinds, recipe.scheme)
    files = find_encoder(recipe.model, allow_pickle=recipe.allow_pickle, trust_remote_code=recipe.trust_remote_code)
    assets = ModelAssets(files, recipe.settings())
    model = classifier(files, "ner", labels, dropout=recipe.dropout, attention_dropout=recipe.attention_dropout)
    check_length(model, recipe.max_length)
    freeze(model, embeddings=recipe.freeze_embeddings, layers=recipe.freeze_layers)
    scale_rates(model, head=recipe.head_lr, layer_decay=recipe.layer_decay)
    weigh_classes(model, class_weights(recipe.class_weights, [label[2:] or "O" for label in labels]))
    train_set = NERDataset(train, assets, labels, recipe, training=True)
    eval_set = NERDataset(evaluation, assets, labels, recipe, training=False) if evaluation is not None else None
    if eval_set is not None:
        assets.temperature = partial(eval_set.temperature, model)
    return model, train_set, eval_set
