"""Weights into the engine's layers.

The tensors of a checkpoint are copied to their place one at a time and, where they are packed, packed as soon as a
layer is whole, so the peak is about one copy of the model in its final format. Every tensor of a checkpoint must find
its parameter, and every parameter its tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from medvllm.errors import MedvllmError
from medvllm.layers.embedding import ParallelLMHead
from medvllm.layers.linear import ColumnParallelLinear, MergedColumnParallelLinear, QKVParallelLinear
from medvllm.layers.parallel import tp_size
from medvllm.models.checkpoint import checkpoint_tensors
from medvllm.models.files import ModelFiles
from medvllm.models.pickles import read_pickle

__all__ = ["load_weights"]

# Weights beside the parameters that old checkpoints carry: tables that are computed, masks.
_COMPUTED = ("rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias", "rope.freqs")


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
