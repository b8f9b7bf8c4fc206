"""Med vLLM: clinical NER with ontology links and language models inside your own walls."""

import sys as _sys
from pathlib import Path as _Path

__version__ = "0.1.0"

# In a checkout the kernels' package lies beside this one, under kernels/; installed, it is a neighbour like any other.
_CHECKOUT = _Path(__file__).parent.parent / "kernels"
if (_CHECKOUT / "medvllm_kernels").is_dir() and str(_CHECKOUT) not in _sys.path:
    _sys.path.append(str(_CHECKOUT))
