"""Runs a step on every rank: in this process, and in those of the other ranks of a tensor-parallel group."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import subprocess
import sys
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from medvllm.engine.config import EngineConfig
from medvllm.engine.model_runner import ModelRunner
from medvllm.engine.step_input import StepInput
from medvllm.errors import MedvllmError
from medvllm.layers.parallel import set_tensor_parallel_group, tp_size

__all__ = ["Executor", "follow", "join_group"]

_TIMEOUT = timedelta(minutes=10)
_GOODBYE_S = 10.0


class Executor:
    """Rank 0's side: it drives, the other ranks follow.

    A step is broadcast as one int32 array; every rank then runs it, and the layers' collectives keep them in line.
    """

    def __init__(self, options: EngineConfig, files: Any, device: str) -> None:
        self._workers: list[subprocess.Popen[bytes]] = []
        self._control: Any = None
        self._broken = False
        size = options.tensor_parallel_size
        if tp_size() > 1:
            raise MedvllmError("another LLM of this process is tensor-parallel; shut it down first (llm.shutdown())")
        if size > 1:
            self._check(size, device)
            port = free_port()
            self._workers = [start_worker(options, files, device, rank, port) for rank in range(1, size)]
        try:
            if size > 1:
                self._control = join_group(device, rank=0, size=size, port=port)
            self.runner = ModelRunner(options, files, device)
        except BaseException:
            self._kill()
            raise

    @staticmethod
    def _check(size: int, device: str) -> None:
        if dist.is_initialized():
            raise MedvllmError("tensor_parallel_size needs torch.distributed for itself; this process uses it already")
        if device == "cuda" and size > torch.cuda.device_count():
            raise MedvllmError(
                f"tensor_parallel_size must be at most the number of GPUs, {torch.cuda.device_count()}, got {size}"
            )

    def run(self, step: StepInput) -> Tensor:
        """The logits of a step, (rows, vocab) float32."""
        if self._control is None:
            return self.runner.run(step)
        if self._broken:
            raise MedvllmError("the tensor-parallel group was broken off in a step; make a new LLM")
        try:
            packed = torch.from_numpy(step.pack())
            dist.broadcast(torch.tensor([len(packed)]), 0, group=self._control)
            dist.broadcast(packed, 0, group=self._control)
            return self.runner.run(step)
        except BaseException:  # the other ranks may be anywhere in the step
            self._kill()
            self._broken = True
            raise

    def shutdown(self) -> None:
        """Ends the other ranks."""
        if self._control is None:
            return
        if not self._broken:
            dist.broadcast(torch.tensor([0]), 0, group=self._control)
            for worker in self._workers:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    worker.wait(_GOODBYE_S)
        self._kill()

    def _kill(self) -> None:
        for worker in self._workers:
            worker.kill()
            worker.wait()
        self._workers = []
        set_tensor_parallel_group(None)
        if self._control is not None:
            self._control = None
            dist.destroy_process_group()
            self._broken = True


def free_port() -> int:
    """A port of this machine that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_worker(options: EngineConfig, files: Any, device: str, rank: int, port: int) -> subprocess.Popen[bytes]:
    """The process of a rank; Ctrl-C does not reach it, rank 0 ends it."""
    fields = {name: str(value) if name in ("model", "tokenizer") and value is not None else value
              for name, value in dataclasses.asdict(options).items()}  # fmt: skip
    order = {"options": fields, "device": device, "rank": rank, "port": port}
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", "medvllm.engine.worker", json.dumps(order)]
    return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True)


def join_group(device: str, *, rank: int, size: int, port: int) -> Any:
    """Enters the tensor-parallel group; returns the group that steps are sent over (gloo: they are on the host)."""
    if device == "cuda":
        torch.cuda.set_device(rank)
    dist.init_process_group(
        "nccl" if device == "cuda" else "gloo",
        init_method=f"tcp://127.0.0.1:{port}",
        rank=rank,
        world_size=size,
        timeout=_TIMEOUT,
    )
    set_tensor_parallel_group(dist.group.WORLD)
    return dist.new_group(backend="gloo", timeout=_TIMEOUT)


def follow(runner: ModelRunner, control: Any) -> None:
    """Runs the steps that rank 0 sends until it says goodbye."""
    while True:
        length = torch.zeros(1, dtype=torch.int64)
        dist.broadcast(length, 0, group=control)
        if not int(length):
            return
        packed = torch.empty(int(length), dtype=torch.int32)
        dist.broadcast(packed, 0, group=control)
        runner.run(StepInput.unpack(packed.numpy()))
