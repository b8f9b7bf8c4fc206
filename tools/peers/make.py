"""Makes the virtual environment of a peer that benchmarks are compared with, from its pinned list.

    python tools/peers/make.py medspacy FOLDER [--python /path/to/python3.11]

FOLDER lies outside the repository. The last line printed is the interpreter, for a benchmark's --peer. It needs the
package index; the lists are pinned for Python 3.11 on Linux.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent


def names() -> list[str]:
    """The peers that there is a list for."""
    return sorted(path.stem for path in HERE.glob("*.txt"))


def make(name: str, folder: Path, python: str) -> Path:
    """Creates the environment and installs the list; returns its interpreter.

    Raises:
        subprocess.CalledProcessError: a step failed; pip has said why.
    """
    subprocess.run([python, "-m", "venv", str(folder)], check=True, stdout=sys.stderr)
    interpreter = folder / "bin" / "python"
    install = [str(interpreter), "-m", "pip", "install", "--quiet", "--no-deps", "-r", str(HERE / f"{name}.txt")]
    subprocess.run(install, check=True, stdout=sys.stderr)
    subprocess.run([str(interpreter), "-c", f"import {name}"], check=True, stdout=sys.stderr)
    return interpreter


def main() -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=names(), help="the peer")
    parser.add_argument("folder", type=Path, help="where to make the environment")
    parser.add_argument("--python", default=sys.executable, help="the Python to make it with (default: this one)")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    if folder.is_relative_to(ROOT):
        print(f"error: {folder} lies inside the repository; give a folder outside it", file=sys.stderr)
        return 1
    try:
        interpreter = make(arguments.name, folder, arguments.python)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(interpreter)
    return 0


if __name__ == "__main__":
    sys.exit(main())
