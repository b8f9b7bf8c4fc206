"""A base encoder with a new classification head: what of it learns, how fast, and what is saved beside it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from tokenizers import Tokenizer
from torch import nn

from medvllm.errors import MedvllmError, first_line
from medvllm.tasks.encoder_files import EncoderFiles, load_tokenizer
from medvllm.tasks.model_ner_settings import NERSettings
from medvllm.training.losses import IGNORED
from medvllm.utils.quiet import quiet_transformers

__all__ = [
    "ModelAssets",
    "check_length",
    "class_weights",
    "classifier",
    "freeze",
    "scale_rates",
    "weigh_classes",
]

_LAYER: Final = re.compile(r"\.(?:layer|layers|h|block)\.(\d+)\.")


class ModelAssets:
    """What lies beside the weights of a trained model: its tokenizer, and how it is to be read."""

    def __init__(self, files: EncoderFiles, settings: NERSettings | None = None) -> None:
        self.tokenizer = load_tokenizer(files)
        self.temperature: Callable[[], float] | None = None  # fits that of the model when it is saved
        self._files, self._settings = files, settings

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes both into a model's folder."""
        from transformers import AutoTokenizer

        files = self._files
        found = AutoTokenizer.from_pretrained(
            str(files.folder), local_files_only=True, trust_remote_code=files.trust_remote_code
        )
        found.save_pretrained(folder)
        if self._settings is not None:
            temperature = self.temperature() if self.temperature is not None else self._settings.temperature
            dataclasses.replace(self._settings, temperature=temperature).save(Path(folder))


def mask_token(tokenizer: Tokenizer) -> int:
    """The token that stands for a hidden one: the base's mask, else its unknown token, else 0."""
    found = (tokenizer.token_to_id(name) for name in ("[MASK]", "<mask>", "[UNK]", "<unk>"))
    return next((number for number in found if number is not None), 0)


def classifier(
    files: EncoderFiles,
    task: str,
    labels: Sequence[str],
    *,
    dropout: float | None,
    attention_dropout: float | None,
) -> nn.Module:
    """The base with a head for `labels`; `task` is ner or classification.

    Raises:
        MedvllmError: the base can't be read or takes no such head.
    """
    import transformers

    auto: Any = {
        "ner": transformers.AutoModelForTokenClassification,
        "classification": transformers.AutoModelForSequenceClassification,
    }[task]
    extra: dict[str, float] = {}
    distil = files.config.get("model_type") == "distilbert"  # the only one that names them otherwise
    if dropout is not None:
        extra["dropout" if distil else "hidden_dropout_prob"] = dropout
    if attention_dropout is not None:
        extra["attention_dropout" if distil else "attention_probs_dropout_prob"] = attention_dropout
    with quiet_transformers(remarks=False):  # it warns of the new head, which is what is asked for
        try:
            model: nn.Module = auto.from_pretrained(
                str(files.folder),
                num_labels=len(labels),
                id2label=dict(enumerate(labels)),
                label2id={label: number for number, label in enumerate(labels)},
                ignore_mismatched_sizes=True,
                local_files_only=True,
                use_safetensors=None if files.allow_pickle else True,
                trust_remote_code=files.trust_remote_code,
                dtype=torch.float32,
                **extra,
            )
        except Exception as error:  # its own validation, safetensors and the model's code raise many kinds
            raise MedvllmError(f"the base model in {files.folder} can't be read: {first_line(error)}") from error
    return model


def check_length(model: Any, max_length: int) -> None:
    """Raises MedvllmError where windows of `max_length` tokens are longer than the model reads."""
    from medvllm.tasks.encoder_model import max_length as longest

    if max_length > longest(model):
        raise MedvllmError(f"max_length is {max_length}, but the base reads at most {longest(model)} tokens")


def freeze(model: nn.Module, *, embeddings: bool, layers: int) -> None:
    """Keeps the embeddings, or the lowest `layers` layers and the embeddings, as they are."""
    count = _layer_count(model)
    if not 0 <= layers <= count:
        raise MedvllmError(f"freeze_layers is {layers}, but the base has {count} layers")
    for name, parameter in model.named_parameters():
        depth = _depth(name, count)
        if (depth == 0 and (embeddings or layers)) or 1 <= depth <= layers:
            parameter.requires_grad_(False)


def scale_rates(model: nn.Module, *, head: float, layer_decay: float) -> None:
    """Sets `lr_scale` of each parameter, which the trainer multiplies its rate by: `head` for the new head, and
    `layer_decay` more for each layer that is below the top one."""
    if head <= 0 or not 0 < layer_decay <= 1:
        raise MedvllmError(f"head_lr must be above 0 and layer_decay in (0, 1], got {head} and {layer_decay}")
    count = _layer_count(model)
    for name, parameter in model.named_parameters():
        depth = _depth(name, count)
        parameter.lr_scale = head if depth > count else layer_decay ** (count - depth)


def class_weights(given: Mapping[str, Any] | None, names: Sequence[str]) -> torch.Tensor | None:
    """(labels,): the weight given to each label's name, 1 where there is none; None where nothing is given.

    Raises:
        MedvllmError: a name is none of the labels', or a weight is no number above 0.
    """
    if not given:
        return None
    for name, weight in given.items():
        if name not in names:
            raise MedvllmError(f"class_weights names '{name}'; the names are {', '.join(sorted(set(names)))}")
        if not isinstance(weight, int | float) or isinstance(weight, bool) or not 0 < weight < float("inf"):
            raise MedvllmError(f"class_weights of '{name}' must be a number above 0, got {weight!r}")
    return torch.tensor([float(given.get(name, 1.0)) for name in names])


def weigh_classes(model: nn.Module, weights: torch.Tensor | None) -> None:
    """Makes the model's loss the mean weighted by `weights`, (labels,), of each target's label; None: as it is.

    The trainer reads them in `label_weights`: a batch then counts by the sum of its targets' weights.
    """
    if weights is None:
        return
    model.label_weights = weights  # no buffer: it is not saved with the model

    def weighted(_module: nn.Module, _given: Any, named: dict[str, Any], output: Any) -> Any:
        labels = named.get("labels")
        if labels is not None:
            logits = output.logits.float()
            output.loss = nn.functional.cross_entropy(
                logits.flatten(0, -2), labels.flatten(), weight=weights.to(logits.device), ignore_index=IGNORED
            )
        return output

    model.register_forward_hook(weighted, with_kwargs=True)


def _layer_count(model: nn.Module) -> int:
    numbers = [int(found[1]) for name, _ in model.named_parameters() if (found := _LAYER.search(name))]
    return max(numbers, default=-1) + 1


def _depth(name: str, layers: int) -> int:
    """0 for embeddings, 1 to `layers` for the layers, one more for the head."""
    found = _LAYER.search(name)
    if found:
        return int(found[1]) + 1
    return 0 if "embeddings" in name else layers + 1
