"""Configurations that are planned with, not run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def plain_config(tmp_path: Path) -> Callable[..., Path]:
    """Writes a configuration of a model that is nowhere; JSON is YAML."""

    def write(name: str = "plain.yaml", **changes: Any) -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        config = {"config_name": path.stem, "model_name": str(tmp_path / "nowhere"), "random_seed": 0}
        path.write_text(json.dumps(config | {"dataset": {"name": "builtin", "sample_size": 4}} | changes))
        return path

    return write
