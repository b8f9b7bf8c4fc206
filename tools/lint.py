"""ruff and mypy over the checkout: `./bazelw run //tools:lint`. Exits 1 when either finds something."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

STRICT = ["medvllm", "medvllm_programs", "nemotron", "llenergymeasure", "kernels/medvllm_kernels"]
STRICT += ["cli", "tools", "benchmarks"]


def main() -> int:
    """Runs both programs in the workspace; returns the exit code."""
    root = Path(os.environ.get("BUILD_WORKSPACE_DIRECTORY", Path(__file__).resolve().parent.parent))
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(path for path in sys.path if path))
    mypy = ["mypy", *(folder for folder in STRICT if any((root / folder).glob("**/*.py")))]
    commands = [["ruff", "check", "."], ["ruff", "format", "--check", "--quiet", "."], mypy]
    failed = False
    for command in commands:
        print("$", " ".join(command), file=sys.stderr)
        failed |= bool(subprocess.run([sys.executable, "-m", *command], cwd=root, env=environment).returncode)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
