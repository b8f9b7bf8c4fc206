"""The wheel alone, in an empty environment, runs NER: the ontology store and the native library are in it."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import click
import pypdf
import pytest


@pytest.fixture(scope="module")
def wheel() -> Path:
    """What //:wheel built."""
    found = list(Path("wheel").glob("medvllm-*.whl"))
    assert len(found) == 1
    return found[0].absolute()


def test_it_holds_the_store_and_the_library(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "medvllm/ontology/_data/terms.bin" in names
    assert "medvllm/ontology/_data/concepts.sqlite" in names
    assert "medvllm_kernels/_native/libmedvllm_text.so" in names
    assert any(name.endswith("licenses/NOTICE") for name in names)
    assert not any(name.startswith("tests/") for name in names)


def test_it_runs_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(wheel)], check=True, env={**os.environ, "PYTHONPATH": ""})
    # The two packages it depends on, as they are here: there is no index to take them from.
    packages = os.pathsep.join(str(Path(module.__file__ or "").parent.parent) for module in (click, pypdf))
    done = subprocess.run(
        [tmp_path / "venv" / "bin" / "medvllm", "inference", "ner", "--text", "Patient with HTN and DM."],
        env={"PYTHONPATH": packages, "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "UMLS:C0020538" in done.stdout
    done = subprocess.run(
        [python, "-c", "from medvllm_kernels import native; print(native.status())"], capture_output=True, text=True
    )
    assert done.stdout.startswith("native ("), done.stdout
