"""Makes the environment that `--device xla` runs in: torch_xla goes with one version of torch, which is not ours.

    python tools/xla_env.py FOLDER
    PJRT_DEVICE=CPU FOLDER/bin/python -m pytest -m xla tests/hardware

The lock takes torch without the CUDA packages, but the package index's torch is built for CUDA. Where those libraries
are missing it gets empty ones that it can be loaded with; each of their functions says that there is no device. That
needs a C compiler, nm and readelf.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import venv
from collections import defaultdict
from pathlib import Path

LOCK = Path(__file__).resolve().parent.parent / "third_party" / "requirements_xla.txt"
_NO_DEVICE = 100  # cudaErrorNoDevice
_OF_CUDA = re.compile(r"lib(cu|nv|nccl)")
_CUDA_SYMBOL = re.compile(r"_*(cu|nv|nccl)")


def main(argv: list[str] | None = None) -> int:
    """Makes the environment and tries it; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("folder", type=Path, help="where the environment goes")
    folder: Path = parser.parse_args(argv).folder
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes", "-r", str(LOCK)]
    subprocess.run(pip, check=True)
    if subprocess.run([str(python), "-c", "import torch"], capture_output=True).returncode:
        (libraries,) = folder.glob("lib/python3*/site-packages/torch/lib")
        make_stubs(libraries)
    program = "import torch_xla; print('xla:', torch_xla.device())"
    return subprocess.run(["env", "PJRT_DEVICE=CPU", str(python), "-c", program]).returncode


def make_stubs(libraries: Path) -> list[str]:
    """Writes a library of failing functions for each CUDA library that torch wants; returns their names."""
    files = sorted(libraries.glob("*.so*"))
    wanted: set[str] = set()
    versions: dict[str, dict[str, set[str]]] = defaultdict(dict)  # library → version node → symbols
    undefined: set[str] = set()
    defined: set[str] = set()
    for path in files:
        wanted |= set(re.findall(r"\(NEEDED\).*\[(.*)\]", _output("readelf", "-dW", path)))
        _read_versions(path, versions)
        for line in _output("nm", "-D", path).splitlines():
            *_, kind, name = line.split()
            if kind == "U":
                undefined.add(name)
            elif kind != "w":
                defined.add(name.partition("@")[0])
    missing = sorted(name for name in wanted - {path.name for path in files} if _OF_CUDA.match(name))
    home = {node: library for library in missing for node in versions[library]}
    for name in undefined:
        symbol, _, version = name.partition("@")
        if version.lstrip("@") in home:
            versions[home[version.lstrip("@")]][version.lstrip("@")].add(symbol)
    loose = {name for name in undefined - defined if "@" not in name and _CUDA_SYMBOL.match(name)}
    for place, library in enumerate(missing):  # symbols without a version are found in any library: the first one's
        _compile(libraries / library, versions[library], loose if place == 0 else set())
    return missing


def _read_versions(path: Path, versions: dict[str, dict[str, set[str]]]) -> None:
    library = ""
    for line in _output("readelf", "-VW", path).splitlines():
        if found := re.search(r"File: (\S+)", line):
            library = found[1]
        elif library and (found := re.search(r"Name: (\S+)\s+Flags", line)):
            versions[library].setdefault(found[1], set())


def _compile(target: Path, nodes: dict[str, set[str]], loose: set[str]) -> None:
    symbols = sorted(loose.union(*nodes.values()))
    body = "".join(f"long {symbol}(void) {{ return {_NO_DEVICE}; }}\n" for symbol in symbols)
    blocks = [f"{node} {{ {''.join(f'{symbol};' for symbol in sorted(given))} }};" for node, given in nodes.items()]
    with tempfile.TemporaryDirectory() as folder:
        source, script = Path(folder, "stub.c"), Path(folder, "stub.map")
        source.write_text(body or "long none;\n")
        script.write_text("\n".join(blocks))
        options = [f"-Wl,--version-script={script}"] if blocks else []
        command = ["cc", "-shared", "-fPIC", "-w", "-fno-builtin", f"-Wl,-soname,{target.name}", *options]
        subprocess.run([*command, "-o", str(target), str(source)], check=True)


def _output(*command: str | Path) -> str:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    sys.exit(main())
