"""The tensors of a checkpoint, as its files hold them: names, shapes, values, and the memory they will take.

Weights are safetensors or GGUF, pickle files only where they are allowed. They are read one tensor at a time from
mapped files.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from medvllm.errors import MedvllmError
from medvllm.models.files import ModelFiles
from medvllm.models.gguf_model import gguf_weights
from medvllm.models.pickles import is_pickle, read_pickle

__all__ = ["checkpoint_tensors", "head_differs", "read_header", "required_bytes", "tensor_shapes"]

_MAX_HEADER_BYTES = 100_000_000  # the format's own limit
# Bytes a weight takes; int8 and int4 with their scales, but for the embedding of a model whose head is its own.
_WIDTHS = {"float32": 4.0, "fp32": 4.0, "float16": 2.0, "bfloat16": 2.0, "bf16": 2.0, "int8": 1.01, "int4": 0.625}


def tensor_shapes(files: ModelFiles) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of the checkpoint, by its name in the files."""
    if files.is_gguf:
        return {name: tensor.shape for name, tensor in files.gguf.tensors.items()}
    return {name: shape for path in files.weights for name, shape in _shapes(path).items()}


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    if is_pickle(path):
        return {name: tuple(tensor.shape) for name, tensor in read_pickle(path).items()}
    return {name: shape for name, (_, shape) in read_header(path).items()}


def required_bytes(files: ModelFiles, format: str) -> int:
    """Bytes the weights take once loaded in `format`: a dtype of torch, or how they are packed."""
    return int(_WIDTHS[format] * sum(math.prod(shape) for shape in tensor_shapes(files).values()))


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


def head_differs(files: ModelFiles) -> bool:
    """Whether a checkpoint whose configuration ties the head to the embedding brings a head of its own."""
    where = {name: path for path in files.weights for name in _shapes(path)}
    heads = [name for name in where if name.endswith("lm_head.weight")]
    embeddings = [name for name in where if name.endswith(("embed_tokens.weight", "wte.weight"))]
    if not heads or not embeddings:
        return False
    tensors = [_read(where[name], name) for name in (heads[0], embeddings[0])]
    return not torch.equal(*tensors)


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
