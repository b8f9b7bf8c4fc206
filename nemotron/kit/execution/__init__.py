"""Where jobs run: profiles of env.toml, job folders, packaged code, torchrun, and executors of NeMo-Run.

NeMo-Run itself is imported by `build_executor` and by a submission only: it takes seconds.
"""

from __future__ import annotations

from nemotron.kit.execution.executors import build_executor
from nemotron.kit.execution.profiles import load_run_profile
from nemotron.kit.execution.run_config import RunConfig

__all__ = ["RunConfig", "build_executor", "load_run_profile"]
