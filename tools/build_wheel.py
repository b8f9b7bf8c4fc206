"""Builds the project's wheel from given files in a temporary tree: the program behind //:wheel."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

from setuptools import build_meta


def main() -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder for the wheel")
    parser.add_argument("--store", type=Path, action="append", default=[], help="a file of the ontology store")
    parser.add_argument("--native", type=Path, action="append", default=[], help="a native library")
    parser.add_argument("files", type=Path, nargs="+", help="source files, by their path in the repository")
    arguments = parser.parse_args()
    output = arguments.output.absolute()
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder, "tree")
        prebuilt = Path(folder, "prebuilt")
        for file in arguments.files:
            _copy(file, tree / file)
        for file in arguments.store:
            _copy(file, prebuilt / "_data" / file.name)
        for file in arguments.native:
            _copy(file, prebuilt / "_native" / file.name)
        os.environ["MEDVLLM_PREBUILT"] = str(prebuilt)
        os.chdir(tree)
        sys.argv = ["setup.py"]
        build_meta.build_wheel(str(output))
    return 0


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


if __name__ == "__main__":
    sys.exit(main())
