"""An entrypoint: a BERT of two small layers, and notes of uneven lengths whose labels have gaps."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import nn

from medvllm.training.losses import IGNORED


class Notes:
    """Token lists and labels; a token that divides by three is a condition."""

    def __init__(self, examples: int, *, seed: int) -> None:
        draw = random.Random(seed)
        self.rows = [
            [
                (token, int(token % 3 == 0) if draw.random() < 0.9 else IGNORED)
                for token in draw.choices(range(5, 99), k=n)
            ]
            for n in draw.choices(range(3, 20), k=examples)
        ]
        self.lengths = [len(row) for row in self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> list[tuple[int, int]]:
        return self.rows[number]

    def collate_fn(self, rows: list[list[tuple[int, int]]]) -> dict[str, torch.Tensor]:
        width = max(map(len, rows))
        padded = torch.tensor([row + [(0, IGNORED)] * (width - len(row)) for row in rows])  # (batch, width, 2)
        return {"input_ids": padded[..., 0], "attention_mask": (padded[..., 0] > 0).long(), "labels": padded[..., 1]}

    def predictions(self, output: Any, batch: dict[str, torch.Tensor]) -> list[list[int]]:
        lengths = batch["attention_mask"].sum(1).tolist()
        return [row[:length] for row, length in zip(output.logits.argmax(-1).tolist(), lengths, strict=True)]

    def compute_metrics(self, predictions: list[list[int]]) -> dict[str, float]:
        pairs = [
            (guess, label)
            for guesses, row in zip(predictions, self.rows, strict=True)
            for guess, (_, label) in zip(guesses, row, strict=True)
            if label != IGNORED
        ]
        return {"accuracy": sum(guess == label for guess, label in pairs) / len(pairs)}


def build(config: dict[str, Any]) -> tuple[nn.Module, Notes, Notes]:
    from transformers import BertConfig, BertForTokenClassification

    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    dropout = config.get("dropout", 0.1)
    model = BertForTokenClassification(
        BertConfig(
            **shape,
            vocab_size=100,
            max_position_embeddings=32,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            id2label={0: "O", 1: "B-condition"},
            label2id={"O": 0, "B-condition": 1},
        )
    )
    if config.get("unused"):
        model.unused = nn.Linear(4, 4)  # as a pooler that the loss does not depend on
        model.classifier.weight.lr_scale = 0.25
    return model, Notes(config.get("examples", 101), seed=1), Notes(31, seed=2)


def raises(config: dict[str, Any]) -> None:
    raise ValueError("no notes here")


def pair(config: dict[str, Any]) -> Any:
    return build(config)[:2]


def leaves(config: dict[str, Any]) -> None:
    raise SystemExit(0)


def greedy(config: dict[str, Any]) -> Any:
    """Changes what it was given."""
    config["examples"], config["model"] = 8, nn.Linear(2, 2)
    return config["model"], [(torch.ones(2), torch.tensor(1))] * 8, None


def no_module(config: dict[str, Any]) -> Any:
    return "a model", [], None


def no_dataset(config: dict[str, Any]) -> Any:
    return nn.Linear(2, 2), 7, None


def no_loss(config: dict[str, Any]) -> Any:
    class Silent(nn.Linear):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"logits": super().forward(x)}

    return Silent(2, 2), [{"x": torch.ones(2)}] * 8, None


def poisoned(config: dict[str, Any]) -> Any:
    """The 41st example that is read has a target that is no number."""

    class Points:
        reads = 0

        def __len__(self) -> int:
            return 64

        def __getitem__(self, number: int) -> Any:
            self.reads += 1
            return torch.ones(2), torch.tensor([float("nan") if self.reads == 41 else 1.0])

    return nn.Linear(2, 1), Points(), None


not_callable = 3
