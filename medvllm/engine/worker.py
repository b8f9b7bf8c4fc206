"""A tensor-parallel rank other than 0: python -m medvllm.engine.worker ORDER, as the executor starts it."""

from __future__ import annotations

import json
import sys

import torch.distributed as dist

from medvllm.engine.config import EngineConfig
from medvllm.engine.executor import follow, join_group
from medvllm.engine.model_runner import ModelRunner
from medvllm.models.files import resolve_model

__all__ = ["main"]


def main(order: str) -> None:
    """Joins the group, loads this rank's part of the model, and follows rank 0."""
    told = json.loads(order)
    options = EngineConfig(**told["options"])
    size = options.tensor_parallel_size
    control = join_group(told["device"], rank=told["rank"], size=size, port=told["port"])
    files = resolve_model(options.model, trust_remote_code=options.trust_remote_code, allow_pickle=options.allow_pickle)
    try:
        follow(ModelRunner(options, files, told["device"]), control)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
