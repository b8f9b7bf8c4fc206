"""Loading a model: files → configuration, weights into the engine's layers, tokenizer.

Weights are safetensors or GGUF, pickle files only where they are allowed. They are read one tensor at a time from
mapped files, copied to their place and, where they are packed, packed as soon as a layer is whole, so the peak is about
one copy of the model in its final format. Every tensor of a checkpoint must find its parameter, and every parameter its
tensor.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medvllm.errors import MedvllmError
from medvllm.layers.embedding import ParallelLMHead
from medvllm.layers.linear import ColumnParallelLinear, MergedColumnParallelLinear, QKVParallelLinear
from medvllm.layers.parallel import tp_size
from medvllm.models import ARCHITECTURES
from medvllm.models.files import ModelFiles, resolve_model
from medvllm.models.gguf_model import GGUF_ARCHITECTURES, gguf_config, gguf_stop_token_ids, gguf_weights
from medvllm.models.pickles import is_pickle, read_pickle
from medvllm.models.plain_config import plain_config
from medvllm.models.runners import runner_for
from medvllm.models.tokenizer import apply_chat_template
from medvllm.models.tokenizer import load_text_tokenizer as _load_text_tokenizer
from medvllm.models.tokenizer import load_tokenizer as _load_tokenizer

__all__ = [
    "ModelFiles",
    "apply_chat_template",
    "load_config",
    "load_text_tokenizer",
    "load_tokenizer",
    "load_weights",
    "required_bytes",
    "resolve_model",
    "runner_for",
    "stop_token_ids",
]

_MAX_HEADER_BYTES = 100_000_000  # the format's own limit
_LAYER_NUMBER = re.compile(r"(?!.*vision)(.*?\.)?(?:layers|h|blk)\.(\d+)\.")
# Weights beside the parameters that old checkpoints carry: tables that are computed, masks.
_COMPUTED = ("rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias", "rope.freqs")


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


def load_tokenizer(files: ModelFiles) -> Any:
    """The model's tokenizer, of transformers' kind.

    Raises:
        MedvllmError: there is none, it can't be read, needs code of its own that is not trusted, or the configuration
            that it is read with is at fault.
    """
    return _told_of_config(_load_tokenizer, files)


def load_text_tokenizer(files: ModelFiles) -> Any:
    """What the engine encodes and decodes with, of the same token ids; needs no transformers where it can do without.

    Raises:
        MedvllmError: as `load_tokenizer` does.
    """
    return _told_of_config(_load_text_tokenizer, files)


def _told_of_config(load: Callable[[ModelFiles], Any], files: ModelFiles) -> Any:
    try:
        return load(files)
    except MedvllmError:
        load_config(files)  # transformers reads it too; if that is what is wrong, this says so
        raise


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
        config.tie_word_embeddings = not _head_differs(files)


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


def tensor_shapes(files: ModelFiles) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of the checkpoint, by its name in the files."""
    if files.is_gguf:
        return {name: tensor.shape for name, tensor in files.gguf.tensors.items()}
    return {name: shape for path in files.weights for name, shape in _shapes(path).items()}


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    if is_pickle(path):
        return {name: tuple(tensor.shape) for name, tensor in read_pickle(path).items()}
    return {name: shape for name, (_, shape) in read_header(path).items()}


def _head_differs(files: ModelFiles) -> bool:
    """Whether a checkpoint whose configuration ties the head to the embedding brings a head of its own."""
    where = {name: path for path in files.weights for name in _shapes(path)}
    heads = [name for name in where if name.endswith("lm_head.weight")]
    embeddings = [name for name in where if name.endswith(("embed_tokens.weight", "wte.weight"))]
    if not heads or not embeddings:
        return False
    tensors = [_read(where[name], name) for name in (heads[0], embeddings[0])]
    return not torch.equal(*tensors)


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


def load_weights(model: nn.Module, files: ModelFiles, *, take: Callable[[nn.Module], bool] | None = None) -> None:
    """Copies every tensor of the checkpoint into `model`, one of ARCHITECTURES, in the parameters' dtype and device.

    `take` is called with each module once its `weight` is whole, and says whether it has taken the weight away: so it
    can be packed layer by layer, and at most one layer is held twice.

    Raises:
        MedvllmError: a damaged file; tensors that have no place in the model, do not fit, or are missing; names them.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    modules = dict(model.named_modules())
    loaded: set[str] = set()
    unexpected = []
    dtype = next(iter(parameters.values())).dtype
    for name, tensor in checkpoint_tensors(files, dtype):
        mapped = map_weight(model, name, tensor)
        if mapped is None:
            continue
        target, tensor, shard = mapped
        if target not in parameters:
            if not name.endswith(_COMPUTED):
                unexpected.append(name)
            continue
        _copy(parameters[target], tensor, shard, name)
        loaded.add(target if not shard else f"{target}:{shard[0]}")
        if take is not None and _whole(model, target, loaded) and take(modules[target.rpartition(".")[0]]):
            taken = parameters[target]
            shared = [name for name, parameter in parameters.items() if parameter is taken]  # a head tied to it
            parameters |= dict.fromkeys(shared, torch.empty(0))
            loaded.update(shared)
    if unexpected:
        raise MedvllmError(
            f"{_some(unexpected)} in {files.name} {'have' if len(unexpected) > 1 else 'has'} no place in "
            f"{type(model).__name__}; the checkpoint and its configuration do not belong together"
        )
    read_pickle.cache_clear()
    missing = sorted(_missing(model, parameters, loaded))
    if missing:
        raise MedvllmError(f"{files.name} lacks {_some(missing)} of {type(model).__name__}; get the whole checkpoint")


def _whole(model: Any, target: str, loaded: set[str]) -> bool:
    """Whether the weight `target` has all its parts."""
    module, _, kind = target.rpartition(".")
    fused = module.rpartition(".")[2]
    shards = [shard for name, shard in model.packed_modules.values() if name == fused]
    return kind == "weight" and (target in loaded or all(f"{target}:{shard}" in loaded for shard in shards))


def map_weight(model: Any, name: str, tensor: Tensor) -> tuple[str, Tensor, tuple[Any, ...]] | None:
    """The parameter a checkpoint's tensor goes to, and the shard of a fused one; None for what is left out."""
    if hasattr(model, "map_weight"):
        mapped = model.map_weight(name, tensor)
        if mapped is None:
            return None
        name, tensor = mapped
    if name == "lm_head.weight" and _tied(model):
        return None
    module, _, kind = name.rpartition(".")
    parent, _, leaf = module.rpartition(".")
    if leaf in model.packed_modules:
        fused, shard = model.packed_modules[leaf]
        return f"{parent}.{fused}.{kind}", tensor, (shard,)
    return name, tensor, ()


def _tied(model: Any) -> bool:
    """Whether the head is the embedding."""
    head = getattr(model, "lm_head", None)
    return head is not None and any(
        other is head.weight
        for name, other in model.named_parameters(remove_duplicate=False)
        if name != "lm_head.weight"
    )


def _copy(parameter: Any, tensor: Tensor, shard: tuple[Any, ...], name: str) -> None:
    try:
        loader = getattr(parameter, "weight_loader", None)
        if loader is not None:
            _check_rows(getattr(loader, "__self__", None), tensor, shard)
            loader(parameter, tensor, *shard)
        elif parameter.shape != tensor.shape:
            raise MedvllmError(f"a weight of shape {tuple(parameter.shape)} was expected, got {tuple(tensor.shape)}")
        else:
            parameter.data.copy_(tensor)
    except (MedvllmError, RuntimeError, IndexError) as error:
        raise MedvllmError(f"tensor '{name}' {tuple(tensor.shape)} does not fit the model: {error}") from error


def _check_rows(module: Any, tensor: Tensor, shard: tuple[Any, ...]) -> None:
    """Refuses a tensor with more or fewer rows than all ranks take of it together."""
    if isinstance(module, QKVParallelLinear):
        sizes: dict[Any, int] = {"q": module.q_size, "k": module.kv_size, "v": module.kv_size}
    elif isinstance(module, MergedColumnParallelLinear):
        sizes = dict(enumerate(module.parts))
    elif isinstance(module, ColumnParallelLinear):
        sizes = {None: module.weight.shape[0]}
    else:
        if isinstance(module, ParallelLMHead) and tensor.shape[0] != module.vocab_size:
            raise MedvllmError(f"{module.vocab_size} rows were expected")
        return
    rows = tp_size() * (sizes[shard[0]] if shard else sum(sizes.values()))
    if tensor.shape[0] != rows:
        raise MedvllmError(f"{rows} rows were expected, got {tensor.shape[0]}")


def _missing(model: Any, parameters: dict[str, Any], loaded: set[str]) -> Iterator[str]:
    """Names, in the checkpoint's terms, of the parameters or shards that nothing was copied to."""
    parts: dict[str, list[tuple[str, Any]]] = {}
    for leaf, (fused, shard) in model.packed_modules.items():
        parts.setdefault(fused, []).append((leaf, shard))
    filled = {id(parameters[name]) for name in loaded if name in parameters}
    for name, parameter in parameters.items():
        module, _, kind = name.rpartition(".")
        parent, _, leaf = module.rpartition(".")
        if id(parameter) in filled:
            continue
        shards = parts.get(leaf, [])
        if not shards:
            yield name
        yield from (f"{parent}.{part}.{kind}" for part, shard in shards if f"{name}:{shard}" not in loaded)


def _some(names: list[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:3])
    return f"{len(names)} tensors ({shown}{', …' if len(names) > 3 else ''})" if len(names) > 1 else f"tensor {shown}"


def checkpoint_tensors(files: ModelFiles, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the checkpoint under its name, read when it is asked for; quantised ones are decoded to `dtype`.

    Raises:
        MedvllmError: a damaged or truncated file.
    """
    if files.is_gguf:
        yield from gguf_weights(files.gguf, dtype)
        return
    for path in files.weights:
        for name in _shapes(path):
            yield name, _read(path, name)


def _read(path: Path, name: str) -> Tensor:
    from safetensors import SafetensorError, safe_open

    if is_pickle(path):
        return read_pickle(path)[name]
    try:
        with safe_open(path, framework="pt") as file:
            return file.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise MedvllmError(f"can't read '{name}' in {path}: {error}; get the file again") from error


def read_header(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """(dtype, shape) of every tensor in a safetensors file, by name, after checking that the whole file is there.

    Raises:
        MedvllmError: it is truncated, or not a safetensors file.
    """
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, _MAX_HEADER_BYTES):
                raise MedvllmError(
                    f"{path} is truncated or no safetensors file: its header should have {length:,} bytes, the file "
                    f"has {size:,} in all; get the file again"
                )
            header = json.loads(file.read(length))
    except OSError as error:
        raise MedvllmError(f"can't read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise MedvllmError(f"{path} is not a safetensors file: its header is not JSON; get the file again") from error
    try:
        tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
        end = 8 + length + max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
        described = {name: (str(entry["dtype"]), tuple(entry["shape"])) for name, entry in tensors.items()}
    except (AttributeError, TypeError, KeyError, IndexError) as error:
        raise MedvllmError(f"{path} is not a safetensors file: its header lacks {error}; get the file again") from error
    if size < end:
        raise MedvllmError(
            f"{path} is truncated: {size:,} bytes of the {end:,} its header announces; get the file again"
        )
    return described


# Bytes a weight takes; int8 and int4 with their scales, but for the embedding of a model whose head is its own.
_WIDTHS = {"float32": 4.0, "fp32": 4.0, "float16": 2.0, "bfloat16": 2.0, "bf16": 2.0, "int8": 1.01, "int4": 0.625}


def required_bytes(files: ModelFiles, format: str) -> int:
    """Bytes the weights take once loaded in `format`: a dtype of torch, or how they are packed."""
    return int(_WIDTHS[format] * sum(math.prod(shape) for shape in tensor_shapes(files).values()))
