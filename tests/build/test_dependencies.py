"""Direct dependencies are declared once: requirements.in is what pyproject.toml says, and the locks hold them all."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


def test_requirements_follow_pyproject() -> None:
    done = subprocess.run([sys.executable, str(ROOT / "tools/lock.py"), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_every_direct_dependency_is_locked_with_hashes(kind: str) -> None:
    lock = (ROOT / f"third_party/requirements_{kind}.txt").read_text()
    locked = {
        name.lower(): hashes
        for name, hashes in re.findall(r"^([\w.-]+)==\S+ \\\n((?:    --hash=\S+.*\n)+)", lock, re.M)
    }
    for line in (ROOT / "third_party/requirements.in").read_text().splitlines():
        if not line.startswith("#"):
            name = re.match(r"[\w.-]+", line)
            assert name is not None
            assert "sha256:" in locked[name[0].lower().replace("_", "-").replace(".", "-")], line
