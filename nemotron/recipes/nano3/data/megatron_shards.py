"""Token shards in Megatron's format: `<prefix>.bin`, the tokens of all documents; `<prefix>.idx`, where each one is.

The index: the bytes `MMIDIDX\\0\\0`, u64 version 1, u8 code of the token type, u64 number of sequences, u64 number of
document marks, i32 length of each sequence, i64 byte offset of each, i64 document marks (0, 1, … n: one
sequence a document). All little-endian. Source: Megatron-LM, megatron/core/datasets/indexed_dataset.py.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from nemotron.kit.errors import KitError

__all__ = ["Shard", "token_type", "write_shard"]

_MAGIC = b"MMIDIDX\x00\x00"
_HEADER = struct.Struct("<9sQBQQ")
_CODES: dict[str, int] = {"uint8": 1, "int32": 4, "uint16": 8}


def token_type(vocab_size: int) -> np.dtype[Any]:
    """The type Megatron chooses: u16 for fewer than 65,500 tokens, else i32."""
    return np.dtype(np.uint16 if vocab_size < 65_500 else np.int32)


def write_shard(prefix: Path, documents: Iterable[np.ndarray[Any, Any]], dtype: np.dtype[Any]) -> tuple[int, int]:
    """Writes both files, each under a temporary name that is renamed at the end, the index last.

    Args:
        prefix: the shard's path without .bin and .idx.
        documents: the tokens of each document.
        dtype: of the stored tokens: u8, u16 or i32.

    Returns:
        The numbers of documents and of tokens.
    """
    lengths = []
    data, index = prefix.with_name(prefix.name + ".bin"), prefix.with_name(prefix.name + ".idx")
    partial = data.with_name(f".{data.name}.tmp")
    with open(partial, "wb") as file:
        for document in documents:
            file.write(np.ascontiguousarray(document, dtype=dtype.newbyteorder("<")).tobytes())
            lengths.append(len(document))
    sizes = np.array(lengths, dtype="<i4")
    offsets = np.zeros(len(sizes), dtype="<i8")
    np.cumsum(sizes[:-1].astype(np.int64) * dtype.itemsize, out=offsets[1:])
    partial_index = index.with_name(f".{index.name}.tmp")
    with open(partial_index, "wb") as file:
        file.write(_HEADER.pack(_MAGIC, 1, _CODES[dtype.name], len(sizes), len(sizes) + 1))
        file.write(sizes.tobytes() + offsets.tobytes() + np.arange(len(sizes) + 1, dtype="<i8").tobytes())
    partial.replace(data)
    partial_index.replace(index)
    return len(sizes), int(sizes.sum(dtype=np.int64))


class Shard:
    """A shard read through the page cache.

    Attributes:
        tokens: all tokens, one document after the other.
        lengths: tokens of each document.
        starts: position in `tokens` of each document's first token.
    """

    tokens: np.ndarray[Any, Any]
    lengths: np.ndarray[Any, Any]
    starts: np.ndarray[Any, Any]

    def __init__(self, prefix: str | Path) -> None:
        index = Path(f"{prefix}.idx")
        try:
            raw = index.read_bytes()
            magic, version, code, count, marks = _HEADER.unpack_from(raw)
        except FileNotFoundError as error:
            raise KitError(f"no shard {prefix}: {index} is missing; run data prep again") from error
        except struct.error as error:
            raise KitError(f"{index} is shorter than the header of a Megatron index; run data prep again") from error
        names = {number: name for name, number in _CODES.items()}
        if magic != _MAGIC or version != 1 or code not in names:
            raise KitError(f"{index} is no Megatron index of version 1 with u8, u16 or i32 tokens; run data prep again")
        if len(raw) != _HEADER.size + 12 * count + 8 * marks:
            raise KitError(f"{index} is cut off or too long for its {count} sequences; run data prep again")
        dtype = np.dtype(names[code]).newbyteorder("<")
        self.lengths = np.frombuffer(raw, "<i4", count, _HEADER.size)
        self.starts = np.frombuffer(raw, "<i8", count, _HEADER.size + 4 * count) // dtype.itemsize
        data = Path(f"{prefix}.bin")
        expected = int(self.lengths.sum(dtype=np.int64)) * dtype.itemsize
        if not data.is_file() or data.stat().st_size != expected:
            raise KitError(f"{data} must have {expected} bytes by its index; run data prep again")
        self.tokens = np.memmap(data, dtype, "r") if expected else np.zeros(0, dtype)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> np.ndarray[Any, Any]:
        """The tokens of a document."""
        start = int(self.starts[index])
        return self.tokens[start : start + int(self.lengths[index])]
