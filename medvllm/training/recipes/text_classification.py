"""The `classification` recipe: a sequence-classification model from labelled texts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from medvllm.errors import MedvllmError
from medvllm.tasks.encoder_files import find_encoder
from medvllm.tasks.model_ner_windows import frame_of, tokenize, windows
from medvllm.training.recipes.class_data import LabelledText, read_labelled
from medvllm.training.recipes.encoders import (
    ModelAssets,
    check_length,
    class_weights,
    classifier,
    freeze,
    scale_rates,
    weigh_classes,
)
from medvllm.training.recipes.options import from_config

__all__ = ["ClassificationDataset", "ClassificationRecipe", "classification"]


@dataclasses.dataclass(frozen=True, slots=True)
class ClassificationRecipe:
    """The options of the `classification` recipe, the keys of its --config."""

    train: str  # CSV or JSONL with a text and a label in each row
    model: str  # the base: a folder, a registered name or a hub id
    eval: str | None = None  # CSV or JSONL like train
    text_field: str = "text"
    label_field: str = "label"
    labels: list[str] | None = None  # in the order of the model's outputs; None: those of the training data, sorted
    max_length: int = 256  # tokens of a window, special ones included; a longer text is several examples
    class_weights: dict[str, float] | None = None  # label -> its weight in the loss; 1 where not named
    head_lr: float = 1.0  # learning rate of the new head, in multiples of --lr
    layer_decay: float = 1.0  # of the learning rate from each layer to the one below it
    freeze_embeddings: bool = False
    freeze_layers: int = 0  # how many layers, from the lowest, stay as they are
    dropout: float | None = None  # of hidden states; None: the base's own
    attention_dropout: float | None = None  # 0 is much faster on a CPU; None: the base's own
    allow_pickle: bool = False  # take a base whose weights are pickle files
    trust_remote_code: bool = False  # run Python code that comes with the base

    def __post_init__(self) -> None:
        """Checks what types do not say."""
        if self.max_length < 8:
            raise MedvllmError(f"the option 'max_length' must be at least 8, got {self.max_length}")
        if self.labels is not None and (
            not all(isinstance(label, str) and label for label in self.labels)
            or len(set(self.labels)) != len(self.labels)
            or len(self.labels) < 2
        ):
            raise MedvllmError(f"the option 'labels' must be two or more different names, got {self.labels!r}")


class ClassificationDataset(Dataset[dict[str, torch.Tensor]]):
    """Windows of texts, each with its text's labels; several labels are a row of zeros and ones."""

    def __init__(
        self, texts: Sequence[LabelledText], assets: ModelAssets, labels: Sequence[str], recipe: ClassificationRecipe
    ) -> None:
        self.labels, self.several = list(labels), texts[0].several
        self.tokenizer = assets  # the trainer saves it beside the weights
        numbers = {label: number for number, label in enumerate(labels)}
        self.targets = [[numbers[label] for label in text.labels] for text in texts]
        self._items: list[tuple[int, list[int], int]] = []  # text, ids, tokens
        frame = frame_of(assets.tokenizer)
        for number, text in enumerate(texts):
            tokens = tokenize(assets.tokenizer, text.text)
            for start, stop, _, _ in windows(tokens.words, capacity=recipe.max_length - frame.size, overlap=0):
                ids = [*frame.before, *tokens.ids[start:stop], *frame.after]
                self._items.append((number, ids, stop - start))
        self.lengths = [len(ids) for _, ids, _ in self._items]

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """One window: `input_ids` (tokens,) and `labels`, a number, or with several labels (labels,) float."""
        number, ids, _ = self._items[index]
        target = self.targets[number]
        if self.several:
            labels = torch.zeros(len(self.labels))
            labels[target] = 1
        else:
            labels = torch.tensor(target[0])
        return {"input_ids": torch.tensor(ids), "labels": labels}

    def collate_fn(self, items: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """(batch, longest) ids and mask, (batch,) or (batch, labels) labels."""
        pad = nn.utils.rnn.pad_sequence
        ids = [item["input_ids"] for item in items]
        return {
            "input_ids": pad(ids, batch_first=True),
            "attention_mask": pad([torch.ones_like(row) for row in ids], batch_first=True),
            "labels": torch.stack([item["labels"] for item in items]),
        }

    def predictions(self, output: Any, batch: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        """Of each window of a batch its logits, (labels,) float on the CPU."""
        return list(output.logits.float().cpu())

    def compute_metrics(self, predictions: Sequence[torch.Tensor]) -> dict[str, float]:
        """`accuracy` (all labels of a text right) and `macro_f1`, the mean over labels, from the windows in order."""
        found = self._found(predictions)
        right = sum(set(one) == set(target) for one, target in zip(found, self.targets, strict=True))
        scores = []
        for label in range(len(self.labels)):
            pairs = [(label in one, label in target) for one, target in zip(found, self.targets, strict=True)]
            both, either = sum(a and b for a, b in pairs), sum(a + b for a, b in pairs)
            if either:
                scores.append(2 * both / either)
        return {"accuracy": right / len(self.targets), "macro_f1": sum(scores) / max(len(scores), 1)}

    def _found(self, predictions: Sequence[torch.Tensor]) -> list[list[int]]:
        """The labels of each text, whose logits are the mean of its windows', weighted by their tokens."""
        sums = torch.zeros(len(self.targets), len(self.labels))
        weights = torch.zeros(len(self.targets), 1)
        for (number, _, tokens), logits in zip(self._items, predictions, strict=True):
            sums[number] += tokens * logits
            weights[number] += tokens
        logits = sums / weights.clamp_min(1)
        if self.several:
            return [row.nonzero().flatten().tolist() for row in logits > 0]
        return [[at] for at in logits.argmax(-1).tolist()]


def classification(
    config: Mapping[str, Any],
) -> tuple[nn.Module, ClassificationDataset, ClassificationDataset | None]:
    """The model, its training texts and its evaluation texts; `config` has the fields of ClassificationRecipe.

    Raises:
        MedvllmError: an option, the base model or a row of the data is not as it must be.
    """
    recipe = from_config(ClassificationRecipe, config, recipe="classification")
    fields = {"text_field": recipe.text_field, "label_field": recipe.label_field}
    train = read_labelled(Path(recipe.train), **fields)
    evaluation = read_labelled(Path(recipe.eval), **fields) if recipe.eval else None
    several = train[0].several
    if evaluation is not None and evaluation[0].several != several:
        kinds = ("lists", "one a text") if several else ("one a text", "lists")
        raise MedvllmError(
            f"the labels of {recipe.train} are {kinds[0]}, those of {recipe.eval} {kinds[1]}; choose one for both"
        )
    labels = recipe.labels or sorted({label for text in train for label in text.labels})
    if len(labels) < 2:
        raise MedvllmError(f"{recipe.train} has one label, {labels or 'none'}; two are needed to tell texts apart")
    for text in (*train, *(evaluation or ())):
        unknown = next((label for label in text.labels if label not in labels), None)
        if unknown is not None:
            raise MedvllmError(
                f"{text.where}: field '{recipe.label_field}': the label {unknown!r} is none of {', '.join(labels)}; "
                "add it to the training data, or to the option 'labels'"
            )
    files = find_encoder(recipe.model, allow_pickle=recipe.allow_pickle, trust_remote_code=recipe.trust_remote_code)
    assets = ModelAssets(files)
    model = classifier(
        files, "classification", labels, dropout=recipe.dropout, attention_dropout=recipe.attention_dropout
    )
    check_length(model, recipe.max_length)
    kind = "multi_label_classification" if several else "single_label_classification"
    model.config.problem_type = kind
    if several and recipe.class_weights:
        raise MedvllmError("class_weights is for one label a text; leave it out where labels are lists")
    freeze(model, embeddings=recipe.freeze_embeddings, layers=recipe.freeze_layers)
    scale_rates(model, head=recipe.head_lr, layer_decay=recipe.layer_decay)
    weigh_classes(model, class_weights(recipe.class_weights, labels))
    train_set = ClassificationDataset(train, assets, labels, recipe)
    eval_set = ClassificationDataset(evaluation, assets, labels, recipe) if evaluation else None
    return model, train_set, eval_set
