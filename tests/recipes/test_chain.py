"""The whole recipe with its tiny configurations, as docs/nano3/README.md has it, on a CPU; then its model generates."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nemotron.kit.artifacts import ArtifactRegistry, render_tree

pytestmark = pytest.mark.slow

READ = """
import sys, warnings; warnings.simplefilter("ignore")
from megatron.core.datasets.indexed_dataset import IndexedDataset
from nemotron.recipes.nano3.data.megatron_shards import Shard
theirs, ours = IndexedDataset(sys.argv[1]), Shard(sys.argv[1])
assert len(theirs) == len(ours) > 100
assert all((theirs[at] == ours[at]).all() for at in range(len(ours)))
"""


def run(*command: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, *command], env=env, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stderr
    return done


def nano3(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run("-m", "nemotron.cli", "nano3", *arguments)


def test_the_tiny_chain(tmp_path: Path) -> None:
    nano3("data", "prep", "pretrain", "-c", "tiny")
    nano3("pretrain", "-c", "tiny")
    nano3("sft")
    nano3("data", "prep", "rl", "-c", "tiny")
    registry = ArtifactRegistry()
    for model in ("ModelArtifact-pretrain", "ModelArtifact-sft"):
        nano3("eval", "--art.model", model, "min_margin=0.5")  # exits 1 where the loss is not so far below
    data = registry.resolve("PretrainBlendsArtifact-default")
    run("-c", READ, str(data.path / "stdlib" / "train_00000"))
    assert all(registry.verify(each.reference) == [] for each in registry.list())
    tree = render_tree(registry.lineage("EvalArtifact-default"))
    assert [name in tree for name in ("ModelArtifact-sft:v1", "ModelArtifact-pretrain:v1", "source stdlib")] == [
        True
    ] * 3
    prompt = "Write the Python function `add`. Add two numbers."
    command = ["inference", "generate", "--text", prompt, "--max-length", "20", "--strategy", "greedy"]
    done = run("-m", "medvllm.cli", *command, "--model", "art://ModelArtifact-sft:latest")
    assert done.stdout.strip()
