"""Secrets: which variables go to a job, and how they and secret keys are hidden wherever something is shown."""

from __future__ import annotations

import os
import re
from typing import Any

__all__ = ["PASSED_ON", "masked"]

PASSED_ON = ("HF_TOKEN", "WANDB_API_KEY")
_SECRET_KEY = re.compile(
    r"(?:^|_)(?:secret|password|passwd|(?:api|access|private)_?key|(?:hf|auth|access|api)_token|credentials?)s?$", re.I
)
_MASK = "****"


def masked(value: Any, *, key: str = "") -> Any:
    """Plain data or text with `****` for secrets: values of secret keys, and the values of $HF_TOKEN and such."""
    if isinstance(value, dict):
        return {name: masked(item, key=str(name)) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [masked(item, key=key) for item in value]
    if isinstance(value, str):
        if value and _SECRET_KEY.search(key) and not value.startswith("${"):
            return _MASK
        for name in PASSED_ON:
            secret = os.environ.get(name)
            if secret:
                value = value.replace(secret, _MASK)
    return value
