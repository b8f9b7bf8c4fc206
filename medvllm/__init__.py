"""Med vLLM: clinical NER with ontology links and language models inside your own walls."""

import sys as _sys
from pathlib import Path as _Path
from typing import TYPE_CHECKING as _TYPE_CHECKING

if _TYPE_CHECKING:
    from medvllm.llm import LLM
    from medvllm.outputs import CompletionOutput, RequestOutput
    from medvllm.sampling_params import BeamSearchParams, SamplingParams

__version__ = "0.1.0"

# In a checkout the kernels' package lies beside this one, under kernels/; installed, it is a neighbour like any other.
_CHECKOUT = _Path(__file__).parent.parent / "kernels"
if (_CHECKOUT / "medvllm_kernels").is_dir() and str(_CHECKOUT) not in _sys.path:
    _sys.path.append(str(_CHECKOUT))

_EXPORTS = {
    "LLM": "medvllm.llm",
    "SamplingParams": "medvllm.sampling_params",
    "BeamSearchParams": "medvllm.sampling_params",
    "RequestOutput": "medvllm.outputs",
    "CompletionOutput": "medvllm.outputs",
}
__all__ = ["LLM", "BeamSearchParams", "CompletionOutput", "RequestOutput", "SamplingParams", "__version__"]


def __getattr__(name: str) -> object:
    """The engine's classes, imported when first asked for: they need torch."""
    if name not in _EXPORTS:
        raise AttributeError(f"module 'medvllm' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_EXPORTS[name]), name)
