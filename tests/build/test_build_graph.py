"""The build's promises, asked of Bazel itself: hardware tags select exactly their tests, and imports point downward."""

from __future__ import annotations

import ast
import os
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent  # the checkout, also from Bazel's links to it
CUDA_TESTS = {
    "//tests/accuracy:test_kernels_accuracy_cuda",
    "//tests/benchmarks:test_benchmark_kernels_cuda",
    "//tests/engine:test_attention_cuda",
    "//tests/engine:test_cuda_cuda",
    "//tests/hardware:test_device_cuda",
    "//tests/hardware:test_training_device_cuda",
    "//tests/llenergymeasure/backends:test_pytorch_cuda_cuda",
    "//tests/utils:test_profiler_cuda",
}
XLA_TESTS = {"//tests/hardware:test_device_xla", "//tests/hardware:test_training_device_xla"}

OURS = ("medvllm", "medvllm_kernels", "medvllm_programs", "llenergymeasure", "nemotron")
ADAPTER = ROOT / "llenergymeasure/backends/medvllm.py"  # lem's way to the engine

# What each part of the tree may import of the project, besides itself.
_BASE = {"medvllm_kernels", "medvllm.errors", "medvllm.utils"}
_ENGINE = {*_BASE, "medvllm.kernels", "medvllm.layers", "medvllm.models", "medvllm.outputs", "medvllm.sampling_params"}
MAY_IMPORT = {
    "kernels": set(),
    "medvllm/kernels.py": {"medvllm_kernels"},
    "medvllm/layers": {*_BASE, "medvllm.kernels"},
    "medvllm/models": {*_ENGINE, "medvllm.registry"},
    "medvllm/engine": {*_ENGINE, "medvllm.registry"},
    "medvllm/llm.py": {*_ENGINE, "medvllm.engine"},
    "medvllm_programs": set(),
    "nemotron/kit": {"medvllm_programs"},
    "llenergymeasure": {"medvllm_programs"},  # but for ADAPTER
    "medvllm/errors.py": {"medvllm_programs.errors"},
    "medvllm/utils": {"medvllm.errors", "medvllm_programs.files"},
    "medvllm/registry.py": {"medvllm.errors", "medvllm.utils", "medvllm_programs.files"},
    "medvllm/ontology": {
        "medvllm_kernels",
        "medvllm_programs.files",
        "medvllm.errors",
        "medvllm.utils",
        "medvllm.tasks.entities",
    },
    "medvllm/tasks": {
        *_ENGINE,
        "medvllm.engine",
        "medvllm.LLM",
        "medvllm.SamplingParams",
        "medvllm.llm",
        "medvllm.ontology",
        "medvllm.registry",
    },
    "medvllm/training": {
        "medvllm_kernels",
        "medvllm.errors",
        "medvllm.utils",
        "medvllm.models",
        "medvllm.ontology",
        "medvllm.registry",
        "medvllm.tasks",
    },
}


@pytest.fixture(scope="module")
def query(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Runs `bazel query` in a server of its own, because this test may itself run under Bazel."""
    base = tmp_path_factory.mktemp("output_base")
    workspace = tmp_path_factory.mktemp("workspace")
    for entry in ROOT.iterdir():
        if not entry.name.startswith("bazel-"):  # the links of the other server would be taken for packages
            (workspace / entry.name).symlink_to(entry)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("TEST_", "RUNFILES"))}
    environment.setdefault("HOME", str(base))
    command = [str(workspace / "bazelw"), f"--output_base={base}", "--max_idle_secs=5"]

    def run(expression: str, *options: str) -> str:
        done = subprocess.run(
            [*command, "query", expression, "--noshow_progress", *options],
            cwd=workspace,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    yield run
    subprocess.run([*command, "shutdown"], cwd=workspace, env=environment, capture_output=True)


def _tagged(query: Any, tag: str) -> set[str]:
    return set(query(f"attr(tags, '\\b{tag}\\b', tests(//...))").split())


def test_tags_select_exactly_their_tests(query: Any) -> None:
    every = set(query("kind('py_test', //...)").split())
    cpu = {name for name in every if name.endswith("_cpu")}
    assert _tagged(query, "cpu") == cpu
    assert _tagged(query, "cuda") == CUDA_TESTS
    assert _tagged(query, "xla") == XLA_TESTS
    assert every == cpu | CUDA_TESTS | XLA_TESTS, "every test names its hardware"


def test_libraries_are_private_unless_they_say_otherwise(query: Any) -> None:
    public = set(query("attr(visibility, '//visibility:public', kind('py_library', //...))").split())
    assert public == set()


@pytest.mark.parametrize(
    "target", ["//medvllm/cli:cli", "//medvllm/tasks:tasks", "//medvllm/ontology:ontology", "//nemotron/kit:kit"]
)
def test_what_reads_notes_and_the_kit_fetch_no_torch(query: Any, target: str) -> None:
    tree = ElementTree.fromstring(query("kind('py_.* rule', //...)", "--output=xml"))
    needs = {rule.attrib["name"]: {label.attrib["value"] for label in rule.iter("label")} for rule in tree.iter("rule")}
    reached, todo = set(), {target}
    while todo:
        reached |= todo
        todo = {label for name in todo for label in needs.get(name, ())} - reached
    assert any(label.startswith("//kernels") or label.startswith("@pypi") for label in reached), "the walk sees them"
    assert not {
        label for label in reached if label.startswith(("@pypi//torch", "@pypi//transformers", "@pypi//triton"))
    }


def _imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return {name for name in names if name.split(".")[0] in OURS}


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_imports_point_downward(part: str) -> None:
    place = ROOT / part
    files = [place] if place.is_file() else sorted({*place.rglob("*.py")} - {ADAPTER})
    assert files
    own = "medvllm_kernels" if part == "kernels" else part.removesuffix(".py").replace("/", ".")
    allowed = {own, *MAY_IMPORT[part]}
    wrong = [
        f"{file.relative_to(ROOT)}: {name}"
        for file in files
        for name in _imported(file)
        if name not in ("medvllm", "medvllm.tasks", "medvllm_programs")
        and not any(f"{name}.".startswith(f"{good}.") for good in allowed)
    ]
    assert wrong == []
