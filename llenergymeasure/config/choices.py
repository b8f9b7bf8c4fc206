"""The names that a configuration's fields take; no library is imported for them, so that options list them too."""

from __future__ import annotations

from typing import Literal, get_args

__all__ = ["BACKENDS", "PRECISIONS", "BackendName", "Precision"]

BackendName = Literal["pytorch", "medvllm", "vllm", "tensorrt"]
Precision = Literal["float16", "float32", "bfloat16"]
BACKENDS: tuple[BackendName, ...] = get_args(BackendName)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
