"""The stub's GPUs, seen by the real bindings: one library, one run of all scenarios."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def nvml_environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which libnvidia-ml.so.1 is the stub, compiled here."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler for the stub of NVML")
    folder = tmp_path_factory.mktemp("nvml")
    library = folder / "libnvidia-ml.so.1"
    command = [compiler, "-shared", "-fPIC", "-Wall", "-Werror", "-o", str(library), str(HERE / "stub_nvml.c")]
    subprocess.run(command, check=True)
    path = os.pathsep.join(place for place in sys.path if place)
    return {**os.environ, "LD_LIBRARY_PATH": str(folder), "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="session")
def scenarios(nvml_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a meter read in each scenario of nvml_scenarios.py."""
    command = [sys.executable, str(HERE / "nvml_scenarios.py"), str(tmp_path_factory.mktemp("states"))]
    done = subprocess.run(command, env=nvml_environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    answers: dict[str, Any] = json.loads(done.stdout)
    return answers
