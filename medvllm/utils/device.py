"""Which device to run on: `auto`, `cpu`, `cuda` or `xla`."""

from __future__ import annotations

import importlib.util

from medvllm.errors import MedvllmError, missing

__all__ = ["DEVICES", "resolve_device", "unavailable"]

DEVICES = ("cpu", "cuda", "xla")


def unavailable(device: str) -> str | None:
    """Why `device` can't be used on this machine, in one line with the remedy; None when it can be."""
    if importlib.util.find_spec("torch") is None:
        return f"torch is not installed; install the extra: {missing('torch')}"
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            return "no CUDA GPU is visible to torch; use --device cpu"
    if device == "xla" and importlib.util.find_spec("torch_xla") is None:
        return f"torch_xla is not installed; install the extra in an environment of its own: {missing('xla')}"
    return None


def resolve_device(device: str = "auto") -> str:
    """The device to use; `auto` is cuda where there is one, else cpu.

    Raises:
        MedvllmError: the device is unknown or not available here.
    """
    if device == "auto":
        return "cpu" if unavailable("cuda") else "cuda"
    if device not in DEVICES:
        raise MedvllmError(f"--device must be one of auto, {', '.join(DEVICES)}, got {device!r}")
    reason = unavailable(device)
    if reason:
        raise MedvllmError(reason)
    return device
