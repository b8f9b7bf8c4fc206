"""The build's own native library is what runs, and leaving it out is said."""

from __future__ import annotations

import os
import subprocess
import sys

STATUS = "from medvllm_kernels import native; print(native.status())"


def _status(**environment: str) -> subprocess.CompletedProcess[str]:
    own = {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [sys.executable, "-c", STATUS], capture_output=True, text=True, env=os.environ | own | environment
    )


def test_the_built_library_is_used() -> None:
    """Without it everything still works, many times slower: a wrong compile flag would go unnoticed."""
    assert _status().stdout.startswith("native (")


def test_it_can_be_switched_off() -> None:
    assert _status(MEDVLLM_DISABLE_NATIVE="1").stdout == "Python (MEDVLLM_DISABLE_NATIVE is set)\n"


def test_a_named_library_must_be_usable() -> None:
    done = _status(MEDVLLM_NATIVE_LIB="/etc/passwd")
    assert done.returncode != 0
    assert "MEDVLLM_NATIVE_LIB=/etc/passwd cannot be used" in done.stderr
