"""The built-in presets: what they are for, and the values they set. A model is always the user's to name."""

from __future__ import annotations

from typing import Any

from llenergymeasure.errors import LemUsageError

__all__ = ["PRESETS", "PURPOSES", "preset_values"]

PURPOSES = {
    "quick-test": "Fast validation (batch=1, max_out=32)",
    "benchmark": "Formal measurements (fp16, deterministic)",
    "throughput": "Throughput testing (batch=8, dynamic batching)",
}
PRESETS: dict[str, dict[str, Any]] = {
    "quick-test": {
        "max_input_tokens": 64,
        "max_output_tokens": 32,
        "batching": {"batch_size": 1},
        "decoder": {"preset": "deterministic"},
    },
    "benchmark": {
        "max_input_tokens": 2048,
        "max_output_tokens": 512,
        "fp_precision": "float16",
        "batching": {"batch_size": 1},
        "decoder": {"preset": "deterministic"},
    },
    "throughput": {
        "max_input_tokens": 512,
        "max_output_tokens": 256,
        "fp_precision": "float16",
        "batching": {"batch_size": 8, "strategy": "dynamic"},
        "decoder": {"preset": "deterministic"},
    },
}


def preset_values(name: str) -> dict[str, Any]:
    """What a preset sets.

    Raises:
        LemUsageError: there is no such preset.
    """
    if name not in PRESETS:
        raise LemUsageError(f"there is no preset {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]
