"""--model art://NAME:VERSION is the model that a recipe has published; what is not there gets one line."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from nemotron.kit.artifacts import ModelArtifact


@pytest.fixture
def published(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of a registry with the tiny model as ModelArtifact-sft, version 1, also called `best`."""
    root = tmp_path / "artifacts"
    monkeypatch.setenv("NEMOTRON_ARTIFACTS", str(root))
    folder = tmp_path / "made"
    shutil.copytree(model, folder)
    ModelArtifact(folder, loss=1.5, step=3).save("ModelArtifact-sft", aliases=["best"])
    shutil.rmtree(folder)
    return root


@pytest.mark.parametrize("selector", ["", ":latest", ":v1", ":best"])
def test_a_published_model_writes(generate: Any, published: Path, selector: str) -> None:
    done = generate("--model", f"art://ModelArtifact-sft{selector}", "--max-length", "8", "--json-meta")
    assert done.code == 0, done.stderr
    assert done.meta["model"] == str(published / "ModelArtifact-sft" / "v1")
    assert done.text == generate("--max-length", "8", "--json-meta").text


def test_many_prompts(generate: Any, published: Path) -> None:
    Path("p.jsonl").write_text('{"id": "a", "text": "Walk each day."}\n')
    done = generate("--model", "art://ModelArtifact-sft", "--prompts-file", "p.jsonl", "--max-length", "4", text=None)
    assert done.code == 0, done.stderr
    assert done.stdout.startswith('{"id": "a"')


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("art://ModelArtifact-stf:latest", ["no artifact 'ModelArtifact-stf'", "near it: ModelArtifact-sft"]),
        ("art://ModelArtifact-sft:v7", ["has no v7", "it has v1", "best"]),
        ("art://", ["can't read the artifact reference"]),
    ],
)
def test_what_is_not_there(generate: Any, published: Path, reference: str, words: list[str]) -> None:
    done = generate("--model", reference)
    error = [line for line in done.stderr.splitlines() if not line.startswith("Warning: ")]
    assert (done.code, len(error), done.stdout) == (1, 1, "")
    assert error[0].startswith(f"Error: {reference}: ")
    for word in words:
        assert word in error[0]


def test_without_the_recipe_framework(generate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("nemotron")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "nemotron.kit", None)  # as where it is not installed
    done = generate("--model", "art://ModelArtifact-sft")
    assert done.code == 1
    assert done.stderr.splitlines()[-1].endswith(
        "install it: pip install 'medvllm[kit]' (in a checkout: pip install '.[kit]')"
    )
