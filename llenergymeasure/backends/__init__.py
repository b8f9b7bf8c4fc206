"""Inference engines behind one interface (base.py), found by name."""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING

from llenergymeasure.errors import LemError, LemUsageError

if TYPE_CHECKING:
    from llenergymeasure.backends.base import Backend
    from llenergymeasure.config import ExperimentConfig

__all__ = ["NAMES", "check_backend", "get_backend", "missing", "require"]

# name → module, class, the library it needs, what to install for it
_BACKENDS = {
    "pytorch": ("pytorch", "PyTorchBackend", "transformers", "pip install 'medvllm[torch]'"),
    "medvllm": ("medvllm", "MedvllmBackend", "medvllm.llm", "pip install 'medvllm[torch]'"),
    "vllm": ("vllm", "VLLMBackend", "vllm", "pip install 'medvllm[vllm]' in an environment of its own"),
    "tensorrt": ("tensorrt", "TensorRTBackend", "tensorrt_llm", "pip install 'medvllm[tensorrt]' on a CUDA machine"),
}
NAMES = tuple(_BACKENDS)


def get_backend(name: str) -> Backend:
    """The backend of this name, without a model.

    Raises:
        LemUsageError: there is none of that name.
        LemError: its library is not installed; says what to install.
    """
    require(name)
    module, kind, _, _ = _BACKENDS[name]
    backend: Backend = getattr(importlib.import_module(f"llenergymeasure.backends.{module}"), kind)()
    return backend


def require(name: str) -> None:
    """Sees that a backend's library is installed; nothing is imported.

    Raises:
        LemUsageError: there is no backend of that name.
        LemError: its library is not installed; says what to install.
    """
    if name not in _BACKENDS:
        raise LemUsageError(f"backend must be one of {', '.join(NAMES)}, got {name!r}")
    if said := missing(name):
        raise LemError(f"the backend {name} can't run here: {said}")


def missing(name: str) -> str | None:
    """What keeps a backend from running on this machine: a library, and how to install it; nothing is imported."""
    _, _, library, install = _BACKENDS[name]
    for needed in (library, "torch"):
        if not _installed(needed):
            return f"{needed} is not installed; {install}"
    return None


def _installed(library: str) -> bool:
    try:
        return importlib.util.find_spec(library) is not None
    except ModuleNotFoundError:  # of the package above it
        return False


def check_backend(config: ExperimentConfig) -> None:
    """Sees, before anything is measured, that the backend's libraries and the model are there; imports no torch.

    Raises:
        LemError: one is not.
    """
    require(config.backend)
    if config.backend == "pytorch":
        needed = {"bitsandbytes": config.quantization.bits, "peft": config.adapter}
        for library in (name for name, wanted in needed.items() if wanted and not _installed(name)):
            purpose = "for an adapter" if library == "peft" else f"to load weights in {config.quantization.bits} bits"
            raise LemError(f"the pytorch backend needs {library} {purpose}; install it: pip install {library}")
    if config.backend == "medvllm":  # has names of its own for models
        from llenergymeasure.backends.medvllm import resolve_medvllm

        resolve_medvllm(config.model_name)
    else:
        from llenergymeasure.backends.model_files import resolve_folder

        resolve_folder(config.model_name)
