"""Every command and program of docs/OPTIMIZATION.md runs; the nightly workflow has the steps that the page names."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHECKOUT = Path(__file__).resolve().parents[2]  # also from Bazel's links to it
PAGE = ROOT / "docs" / "OPTIMIZATION.md"


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.M | re.S)


def _environment(folder: Path) -> dict[str, str]:
    """`python` is this interpreter, and `benchmarks/` and `tools/` are in the folder, as in a checkout."""
    (folder / "bin").mkdir()
    (folder / "bin" / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (folder / "bin" / "python").chmod(0o755)
    for name in ("benchmarks", "tools"):
        (folder / name).symlink_to(ROOT / name)
    path = os.pathsep.join([str(folder / "bin"), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_every_command_of_the_page_runs(tmp_path: Path) -> None:
    commands = [line for block in _blocks("bash") for line in block.splitlines() if line and not line.startswith("#")]
    assert len(commands) >= 12
    environment = _environment(tmp_path)
    failed = []
    for command in commands:
        done = subprocess.run(command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True)
        if done.returncode or not done.stdout:
            failed.append((command, done.returncode, done.stderr))
    assert failed == []
    assert (tmp_path / "times.png").exists()
    assert list((tmp_path / "profiles").glob("*.json"))


def test_every_flag_of_the_page_is_one(tmp_path: Path) -> None:
    """What the slow test runs, parsed only: --list and -h take no time."""
    known = {
        name: subprocess.run(
            [sys.executable, str(ROOT / "benchmarks" / name), "-h"], capture_output=True, text=True, check=True
        ).stdout
        for name in sorted(path.name for path in (ROOT / "benchmarks").glob("benchmark_*.py"))
        if name in PAGE.read_text()
    }
    assert len(known) == 5
    for block in _blocks("bash"):
        for program, rest in re.findall(r"benchmarks/(\S+\.py)(.*)", block):
            for flag in re.findall(r"--[a-z0-9-]+", rest):
                assert flag in known[program], f"{program} has no {flag}"


def test_the_program_of_the_page_runs(tmp_path: Path) -> None:
    (program,) = _blocks("python")
    done = subprocess.run(
        [sys.executable, "-c", f"{program}\nimport json\nprint(json.dumps(results))"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert Path(results["trace_path"]).parent == tmp_path / "profiles" or Path(results["trace_path"]).exists()
    for name in ("wall_time_ms", "cpu_time_ms", "gpu_time_ms", "memory", "top_operators", "reason", "error"):
        assert name in results


def test_the_workflow_has_the_steps_and_calls_the_script() -> None:
    workflow = (CHECKOUT / ".github" / "workflows" / "cuda-ci.yml").read_text()
    for step, argument in (("Softmax×V", "softmaxv"), ("Separable 3D", "separable3d")):
        name = f"- name: {step} CUDA microbench (non-blocking)\n"
        assert name in workflow
        body = workflow.split(name)[1].split("- name:")[0]
        assert "continue-on-error: true" in body
        assert f"run: .ci/nightly_cuda {argument}" in body
    assert "upload-artifact" in workflow


@pytest.mark.slow
def test_the_nightly_script_writes_versioned_reports(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHON": sys.executable, "DEVICE": "cpu", "ITERS": "1", "RESULTS": str(tmp_path)}
    for _ in range(2):
        done = subprocess.run(
            [str(CHECKOUT / ".ci" / "nightly_cuda"), "softmaxv", "separable3d"],
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    assert "new/old" in done.stdout
    reports = sorted(tmp_path.glob("cpu-*/*Z/*.json"))
    assert [path.name for path in reports] == ["separable3d.json", "softmaxv.json"] * 2
    for path in reports:
        assert json.loads(path.read_text())["environment"]["commit"]
    wrong = subprocess.run(
        [str(CHECKOUT / ".ci" / "nightly_cuda"), "nonsense"], env=environment, capture_output=True, text=True
    )
    assert wrong.returncode == 2
