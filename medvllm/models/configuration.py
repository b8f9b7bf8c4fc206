"""A model's configuration: read from config.json or a GGUF file, and checked against the checkpoint's tensors."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from medvllm.errors import MedvllmError
from medvllm.models import ARCHITECTURES
from medvllm.models.checkpoint import head_differs, tensor_shapes
from medvllm.models.files import ModelFiles
from medvllm.models.gguf_model import GGUF_ARCHITECTURES, gguf_config, gguf_stop_token_ids
from medvllm.models.plain_config import plain_config

__all__ = ["load_config", "stop_token_ids"]

_LAYER_NUMBER = re.compile(r"(?!.*vision)(.*?\.)?(?:layers|h|blk)\.(\d+)\.")


def load_config(files: ModelFiles) -> Any:
    """The model's configuration, with transformers' names, and its text part alone where it also sees images.

    `architectures[0]` names what runs it. A rotary scaling of kind "dynamic" becomes "default": within
    `max_position_embeddings` they are the same.

    Raises:
        MedvllmError: no config.json, broken JSON, code of its own that is not trusted, quantised weights of another
            library, or a model type that is not known.
    """
    fields = _gguf_fields(files) if files.is_gguf else files.json("config.json")
    if fields is None:
        raise MedvllmError(f"there is no config.json in {files.folder}; a model's folder has it beside its safetensors")
    where = files.weights[0] if files.is_gguf else files.folder / "config.json"
    _refuse_code(fields, files, where)
    _refuse_quantised(fields, where)
    config = plain_config(fields)
    if config is None:
        config = _config_of(fields, files, where)
        config.architectures = [_architecture(fields, config, where)]
    if config.architectures[0] in ARCHITECTURES:
        _settle(config, files)
        _check_sizes(config, files, where)
    return config


def _gguf_fields(files: ModelFiles) -> dict[str, Any]:
    name = files.gguf.string("general.architecture")
    if name in GGUF_ARCHITECTURES:
        return gguf_config(files.gguf)
    from medvllm.models.transformers_fallback import gguf_fields

    return gguf_fields(files)


def _refuse_code(fields: dict[str, Any], files: ModelFiles, where: Path) -> None:
    auto_map = fields.get("auto_map")
    if auto_map and not files.trust_remote_code:
        code = next(iter(auto_map.values())) if isinstance(auto_map, dict) else auto_map
        raise MedvllmError(
            f"{where} names Python code of its own ({code}), which is refused unless trust_remote_code is set; "
            "read that code first, it runs with your rights"
        )


def _refuse_quantised(fields: dict[str, Any], where: Path) -> None:
    quantised = fields.get("quantization_config")
    if isinstance(quantised, dict):
        method = quantised.get("quant_method", "an unnamed method")
        raise MedvllmError(
            f"{where}: the weights are quantised by {method}, which is not supported; use the original weights with "
            "--quantization int8 or int4, or a GGUF file"
        )


def _config_of(fields: dict[str, Any], files: ModelFiles, where: Path) -> Any:
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if fields.get("auto_map"):
        return AutoConfig.from_pretrained(str(files.folder), trust_remote_code=True, local_files_only=True)
    model_type = fields.get("model_type")
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        raise MedvllmError(
            f"{where}: 'model_type' must be one that transformers knows, got {model_type!r}; "
            f"the engine's own are those of {', '.join(ARCHITECTURES)}"
        )
    try:
        config = CONFIG_MAPPING[model_type].from_dict(dict(fields))
    except Exception as error:  # its own validation raises several kinds, some of them the hub's
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise MedvllmError(f"{where} is not a usable configuration of a {model_type} model: {reason[-1]}") from error
    return getattr(config, "text_config", config) if model_type == "gemma3" else config


def _architecture(fields: dict[str, Any], config: Any, where: Path) -> str:
    """The class that runs the model: what the configuration names, or what transformers takes for its type."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

    named = fields.get("architectures")
    named = named[0] if isinstance(named, list) and named and isinstance(named[0], str) else None
    if named and fields.get("auto_map"):
        return named
    causal = CAUSAL.get(config.model_type)
    causal = causal[0] if isinstance(causal, tuple | list) else causal
    if named in ARCHITECTURES:
        if ARCHITECTURES.get(causal) != ARCHITECTURES[named]:
            raise MedvllmError(f"{where}: 'architectures' says {named} and 'model_type' {config.model_type!r}; mend it")
        return str(named)
    if named is not None and named == causal:
        return str(named)
    if causal is None or (named is not None and not _is_base(named, causal)):
        raise MedvllmError(
            f"{where}: {named or config.model_type} is no language model that generates text; the engine's own are "
            f"{', '.join(ARCHITECTURES)}, and any other causal language model of transformers runs through it"
        )
    return str(causal)


def _is_base(named: str, causal: str) -> bool:
    """Whether `named` is the bare model of the causal one: LlamaModel of LlamaForCausalLM."""
    return named.endswith("Model") and causal.startswith(named.removesuffix("Model"))


def _settle(config: Any, files: ModelFiles) -> None:
    """Makes the configuration say what the checkpoint does."""
    rope = getattr(config, "rope_parameters", None)
    if isinstance(rope, dict) and rope.get("rope_type") == "dynamic":
        config.rope_parameters = {key: rope[key] for key in ("rope_theta",) if key in rope} | {"rope_type": "default"}
    if getattr(config, "tie_word_embeddings", False) and not files.is_gguf:
        config.tie_word_embeddings = not head_differs(files)


def _check_sizes(config: Any, files: ModelFiles, where: Path) -> None:
    """Compares the configuration's main sizes with the checkpoint's tensors, before memory is taken for either.

    Raises:
        MedvllmError: they differ, or a rotary base is no positive number.
    """
    shapes = tensor_shapes(files)
    names = ("embed_tokens.weight", "wte.weight", "token_embd.weight")
    embedding = next((shape for name, shape in shapes.items() if name.endswith(names)), None)
    expected = (config.vocab_size, config.hidden_size)
    if embedding is not None and embedding != expected:
        raise MedvllmError(f"{where}: 'vocab_size' and 'hidden_size' are {expected}, the embedding has {embedding}")
    layers = {int(match[2]) for name in shapes if (match := _LAYER_NUMBER.match(name))}
    if layers and config.num_hidden_layers != max(layers) + 1:
        has = f"{config.num_hidden_layers}, the checkpoint has {max(layers) + 1} layers"
        raise MedvllmError(f"{where}: 'num_hidden_layers' is {has}; they do not belong together")
    middle = next((shape for name, shape in shapes.items() if name.endswith(("up_proj.weight", "fc1.weight"))), None)
    if middle is not None and config.intermediate_size not in middle:
        raise MedvllmError(
            f"{where}: 'intermediate_size' is {config.intermediate_size}, the checkpoint has {middle[0]}"
        )
    rope = getattr(config, "rope_parameters", None) or {}
    for part in [value for value in rope.values() if isinstance(value, dict)] or [rope]:
        theta = part.get("rope_theta", 1.0)
        if not isinstance(theta, int | float) or not theta > 0:
            raise MedvllmError(f"{where}: 'rope_theta' must be a positive number, got {theta!r}")


def stop_token_ids(files: ModelFiles, config: Any) -> list[int]:
    """Ids that end a text: those of generation_config.json, else of the configuration."""
    if files.is_gguf:
        ids: Any = gguf_stop_token_ids(files.gguf)
    else:
        ids = (files.json("generation_config.json") or {}).get("eos_token_id")
        ids = getattr(config, "eos_token_id", None) if ids is None else ids
    ids = ids if isinstance(ids, list) else [] if ids is None else [ids]
    if not all(isinstance(token, int) for token in ids):
        raise MedvllmError(f"{files.folder}: 'eos_token_id' must be a token id or a list of them, got {ids!r:.80}")
    return list(ids)
