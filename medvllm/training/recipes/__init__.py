"""Training recipes: entry points of `training train --entrypoint medvllm.training.recipes:NAME`."""

from medvllm.training.recipes.text_classification import classification
from medvllm.training.recipes.token_classification import ner

__all__ = ["classification", "ner"]
