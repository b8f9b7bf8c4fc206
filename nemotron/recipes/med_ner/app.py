"""The command of med_ner. Class and handler are named, so that listing the command imports neither."""

from __future__ import annotations

from pathlib import Path

from nemotron.kit import App

__all__ = ["app"]

_NAME = "nemotron.recipes.med_ner.train"

app = App("med_ner", description="A token classifier of medical entities, trained with medvllm")
app.command(
    "train",
    f"{_NAME}:MedNERConfig",
    f"{_NAME}:main",
    script_path=Path(__file__).parent / "train.py",
    description="Train on annotated texts; publish the model with its scores",
)
