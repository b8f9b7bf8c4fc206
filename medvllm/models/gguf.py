"""Reading GGUF, llama.cpp's file of weights, settings and tokenizer: header, metadata, and tensors as float32.

Layout: magic, version, counts; key-value pairs; a table of tensors; padding; tensor data, all little-endian
(https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). The header is parsed here rather than by `gguf.GGUFReader`,
which takes seconds for a vocabulary of 49,152 tokens and trusts every count in the file; blocks of quantised values are
decoded by the `gguf` package, the three plain ones by torch.
"""

from __future__ import annotations

import math
import mmap
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medvllm.errors import MedvllmError

__all__ = ["GGUFFile", "GGUFTensor"]

_MAGIC = b"GGUF"
_STRING, _ARRAY, _BOOL = 8, 9, 7
# Value types of fixed size: u8 i8 u16 i16 u32 i32 f32 bool u64 i64 f64.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_MAX_DIMS = 4
_DECODED_AT_ONCE = 1 << 22  # values: 16 MiB in float32
_SPLIT_NAME = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")


@dataclass(frozen=True, slots=True)
class GGUFTensor:
    """Where a tensor lies: its shape in torch's order (outermost first), ggml type number, and bytes of its file."""

    name: str
    shape: tuple[int, ...]
    ggml_type: int
    part: int
    start: int
    nbytes: int

    @property
    def numel(self) -> int:
        """How many values it holds."""
        return int(np.prod(self.shape, dtype=np.int64))


class GGUFFile:
    """A GGUF file, or all parts of a split one (`name-00001-of-00003.gguf`), mapped into memory.

    `metadata` holds the key-value pairs (arrays as lists or numpy arrays), `tensors` the table by name.

    Raises:
        MedvllmError: the file can't be read, is truncated or damaged, is of an unknown version, or a part is missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metadata: dict[str, Any] = {}
        self.tensors: dict[str, GGUFTensor] = {}
        self.paths: list[Path] = []
        self._maps: list[mmap.mmap] = []
        for part in _parts(path):
            self._open(part)
        expected = self.metadata.get("split.count", 1)
        if isinstance(expected, int) and expected > 1 and len(self.paths) != expected:
            raise MedvllmError(
                f"{path} is one of {expected} parts; name the first, NAME-00001-of-{expected:05d}.gguf, beside the rest"
            )

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def names(self) -> Iterator[str]:
        """The tensors' names in the order of the file."""
        return iter(self.tensors)

    def read(self, name: str, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """The tensor's values, decoded some rows at a time, so that memory holds little beside the result.

        Raises:
            MedvllmError: its type can't be decoded.
        """
        tensor = self.tensors[name]
        raw = np.frombuffer(self._maps[tensor.part], dtype=np.uint8, count=tensor.nbytes, offset=tensor.start)
        width = tensor.shape[-1]
        rows = raw.reshape(tensor.numel // width, -1)
        values = torch.empty(len(rows), width, dtype=dtype)
        step = max(1, _DECODED_AT_ONCE // width)
        for start in range(0, len(rows), step):
            values[start : start + step] = _decode(rows[start : start + step], tensor, self.paths[tensor.part])
        self._let_go(tensor)
        return values.view(tensor.shape)

    def _let_go(self, tensor: GGUFTensor) -> None:
        """Gives the pages of the file that a tensor lies in back to the system, which counts them as this process's."""
        first = tensor.start // mmap.PAGESIZE * mmap.PAGESIZE
        self._maps[tensor.part].madvise(mmap.MADV_DONTNEED, first, tensor.start + tensor.nbytes - first)

    def string(self, key: str, default: str = "") -> str:
        """A metadata value that must be a string.

        Raises:
            MedvllmError: it is something else.
        """
        value = self.metadata.get(key, default)
        if not isinstance(value, str):
            raise MedvllmError(f"{self.path}: expected a string as '{key}', got {type(value).__name__}")
        return value

    def strings(self, key: str) -> list[str]:
        """A metadata value that must be a list of strings.

        Raises:
            MedvllmError: it is missing or something else.
        """
        value = self.metadata.get(key)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise MedvllmError(f"{self.path}: expected a list of strings as '{key}', got {_described(value)}")
        return value

    def number(self, key: str) -> int | float | None:
        """A metadata value that must be a number if it is there, else None.

        Raises:
            MedvllmError: it is something else.
        """
        value = self.metadata.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise MedvllmError(f"{self.path}: expected a number as '{key}', got {_described(value)}")
        return value

    def _open(self, path: Path) -> None:
        try:
            with open(path, "rb") as file:
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError as error:  # an empty file can't be mapped
            raise MedvllmError(f"{path} is empty; expected a GGUF file") from error
        except OSError as error:
            raise MedvllmError(f"can't read {path}: {error.strerror or error}") from error
        header = _Header(data, path)
        metadata, infos = header.parse()
        for key, value in metadata.items():
            self.metadata.setdefault(key, value)
        for name, shape, ggml_type, offset in infos:
            nbytes = _byte_count(name, shape, ggml_type, path)
            start = header.data_start + offset
            if start + nbytes > len(data):
                raise MedvllmError(
                    f"{path} is truncated: tensor '{name}' ends at byte {start + nbytes:,}, the file has "
                    f"{len(data):,}; get the file again"
                )
            if name in self.tensors:
                raise MedvllmError(f"{path} is damaged: tensor '{name}' is there twice; get the file again")
            self.tensors[name] = GGUFTensor(name, shape, ggml_type, len(self._maps), start, nbytes)
        self._maps.append(data)
        self.paths.append(path)


class _Header:
    """Parses one part's header; every count and length is checked against the bytes that are there."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self.data, self.path = data, path
        self.position = 0
        self.data_start = 0

    def parse(self) -> tuple[dict[str, Any], list[tuple[str, tuple[int, ...], int, int]]]:
        """The metadata, and (name, shape, ggml type, offset in the data) of each tensor."""
        if self.data[:4] != _MAGIC:
            raise MedvllmError(f"{self.path} is not a GGUF file: it begins with {self.data[:4]!r}, not {_MAGIC!r}")
        self.position = 4
        (version,) = self._unpack("I")
        if version not in (2, 3):
            known = "big-endian, which is not read here" if version in (2 << 24, 3 << 24) else f"of version {version}"
            raise MedvllmError(f"{self.path} is a GGUF file {known}; expected version 2 or 3, little-endian")
        tensor_count, pair_count = self._unpack("QQ")
        metadata: dict[str, Any] = {}
        self._check_count(pair_count, 13, "metadata entries")
        for _ in range(pair_count):
            key = self._string()
            (kind,) = self._unpack("I")
            metadata[key] = self._value(kind)
        self._check_count(tensor_count, 24, "tensors")
        tensors = [self._tensor() for _ in range(tensor_count)]
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1:
            raise self._damaged(f"its alignment is {alignment!r}")
        self.data_start = -(-self.position // alignment) * alignment
        return metadata, tensors

    def _tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._string()
        (dims,) = self._unpack("I")
        if not 1 <= dims <= _MAX_DIMS:
            raise self._damaged(f"tensor '{name}' has {dims} dimensions")
        shape = self._unpack("Q" * dims)
        if 0 in shape:
            raise self._damaged(f"tensor '{name}' has a dimension of 0")
        ggml_type, offset = self._unpack("IQ")
        return name, tuple(reversed(shape)), ggml_type, offset

    def _value(self, kind: int, depth: int = 0) -> Any:
        if kind in _SCALARS:
            return self._unpack(_SCALARS[kind])[0]
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY or depth > 3:
            raise self._damaged(f"a metadata value has the unknown type {kind}")
        item, count = self._unpack("IQ")
        if item in _SCALARS:
            code = "<" + _SCALARS[item]
            size = struct.calcsize(code)
            self._check_count(count, size, "values of an array")
            values = np.frombuffer(self.data, dtype=code, count=count, offset=self.position)
            self.position += count * size
            return values
        self._check_count(count, 8, "items of a list")
        return self._strings(count) if item == _STRING else [self._value(item, depth + 1) for _ in range(count)]

    def _strings(self, count: int) -> list[str]:
        """As `_string` `count` times; a vocabulary has hundreds of thousands, so the loop is kept tight."""
        data, position, end = self.data, self.position, len(self.data)
        strings = []
        try:
            for _ in range(count):
                length = int.from_bytes(data[position : position + 8], "little")
                position += 8
                if length > end - position:
                    raise self._truncated()
                strings.append(data[position : position + length].decode())
                position += length
        except UnicodeDecodeError as error:
            raise self._damaged(f"a string at byte {position:,} is not UTF-8") from error
        self.position = position
        return strings

    def _string(self) -> str:
        return self._strings(1)[0]

    def _unpack(self, code: str) -> tuple[Any, ...]:
        code = "<" + code
        size = struct.calcsize(code)
        if self.position + size > len(self.data):
            raise self._truncated()
        values = struct.unpack_from(code, self.data, self.position)
        self.position += size
        return values

    def _check_count(self, count: int, least_bytes: int, what: str) -> None:
        """Refuses a count that the rest of the file can't hold, before anything is allocated for it."""
        left = len(self.data) - self.position
        if count * least_bytes > left:
            raise self._damaged(f"it announces {count:,} {what}, and {left:,} bytes follow")

    def _truncated(self) -> MedvllmError:
        return MedvllmError(
            f"{self.path} is truncated: its header goes on past the file's end at byte {len(self.data):,}; get it again"
        )

    def _damaged(self, reason: str) -> MedvllmError:
        return MedvllmError(f"{self.path} is not a usable GGUF file: {reason}; get it again")


def _parts(path: Path) -> list[Path]:
    """The file itself, or every part of the split file it is the first part of."""
    match = _SPLIT_NAME.fullmatch(path.name)
    if match is None or int(match[2]) != 1:
        return [path]
    count = int(match[3])
    parts = [path.with_name(f"{match[1]}-{number:05d}-of-{count:05d}.gguf") for number in range(1, count + 1)]
    missing = [part.name for part in parts if not part.is_file()]
    if missing:
        raise MedvllmError(f"{path} is split in {count} parts and {', '.join(missing)} not beside it; get the rest")
    return parts


# Values and bytes of a block of the types decoded here, so that the gguf package is imported for the others only.
_SIZES = {0: (1, 4), 1: (1, 2), 30: (1, 2), 2: (32, 18), 3: (32, 20), 8: (32, 34)}


def _byte_count(name: str, shape: tuple[int, ...], ggml_type: int, path: Path) -> int:
    try:
        block, size = _SIZES[ggml_type] if ggml_type in _SIZES else _sizes_of_package(ggml_type)
    except (ValueError, KeyError) as error:
        raise MedvllmError(
            f"{path}: tensor '{name}' has the type {ggml_type}, which the installed gguf package does not know; "
            "upgrade it, or get the model in another quantisation (Q4_K_M, Q8_0, F16)"
        ) from error
    if shape[-1] % block:
        raise MedvllmError(f"{path} is damaged: rows of tensor '{name}' are no whole blocks of {block}; get it again")
    return int(math.prod(shape) // block * size)


def _sizes_of_package(ggml_type: int) -> tuple[int, int]:
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    block, size = GGML_QUANT_SIZES[GGMLQuantizationType(ggml_type)]
    return int(block), int(size)


_PLAIN = {0: np.float32, 1: np.float16}  # GGMLQuantizationType.F32, F16
_BF16 = 30


def _decode(rows: np.ndarray, tensor: GGUFTensor, path: Path) -> torch.Tensor:
    """(n, bytes) rows of a tensor → (n, width) float32, or the half type stored."""
    if tensor.ggml_type in _PLAIN:
        return torch.from_numpy(rows.view(_PLAIN[tensor.ggml_type]).copy())
    if tensor.ggml_type == _BF16:
        return torch.from_numpy(rows.view(np.int16).copy()).view(torch.bfloat16)
    if tensor.ggml_type in _BLOCKS:
        return _BLOCKS[tensor.ggml_type](torch.from_numpy(rows.copy())).view(len(rows), -1)
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize

    try:
        values = dequantize(rows, GGMLQuantizationType(tensor.ggml_type))
    except NotImplementedError as error:
        kind = GGMLQuantizationType(tensor.ggml_type).name
        raise MedvllmError(
            f"{path}: tensor '{tensor.name}' has the type {kind}, which the gguf package can't decode; "
            "get the model in another quantisation (Q4_K_M, Q8_0, F16)"
        ) from error
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))


def _q8_0(raw: torch.Tensor) -> torch.Tensor:
    """Blocks of 32: fp16 scale d, 32 int8 q; value = d·q."""
    blocks = raw.view(-1, 34)
    return blocks[:, 2:].view(torch.int8).float().mul_(_half(blocks, 0))


def _q4_0(raw: torch.Tensor) -> torch.Tensor:
    """Blocks of 32: fp16 scale d, 32 nibbles q; value = d·(q - 8)."""
    blocks = raw.view(-1, 18)
    return _nibbles(blocks[:, 2:]).sub_(8).mul_(_half(blocks, 0))


def _q4_1(raw: torch.Tensor) -> torch.Tensor:
    """Blocks of 32: fp16 scale d, fp16 minimum m, 32 nibbles q; value = d·q + m."""
    blocks = raw.view(-1, 20)
    return _nibbles(blocks[:, 4:]).mul_(_half(blocks, 0)).add_(_half(blocks, 2))


def _half(blocks: torch.Tensor, start: int) -> torch.Tensor:
    """The fp16 number at byte `start` of each block, (blocks, 1) in float32."""
    return blocks[:, start : start + 2].contiguous().view(torch.float16).float()


def _nibbles(packed: torch.Tensor) -> torch.Tensor:
    """(blocks, 16) bytes → (blocks, 32) float32: the low nibbles, then the high ones."""
    values = torch.empty(packed.shape[0], 32)
    values[:, :16] = packed & 15
    values[:, 16:] = packed >> 4
    return values


_BLOCKS = {2: _q4_0, 3: _q4_1, 8: _q8_0}  # by GGMLQuantizationType


def _described(value: object) -> str:
    return "nothing" if value is None else type(value).__name__
