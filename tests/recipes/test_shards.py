"""Megatron shards: written here, read by Megatron-LM itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nemotron.kit.errors import KitError
from nemotron.recipes.nano3.data.megatron_shards import Shard, token_type, write_shard

READ = """
import sys, warnings; warnings.simplefilter("ignore")
from megatron.core.datasets.indexed_dataset import IndexedDataset
for prefix in sys.argv[1:]:
    dataset = IndexedDataset(prefix)
    print(len(dataset), dataset.document_indices.tolist() == list(range(len(dataset) + 1)))
    for document in dataset:
        print(str(document.dtype), *document.tolist())
"""


@pytest.mark.parametrize("vocab_size", [4096, 65_499, 65_500, 200_000])
def test_tokens_come_back(tmp_path: Path, vocab_size: int) -> None:
    dtype = token_type(vocab_size)
    assert dtype == (np.uint16 if vocab_size < 65_500 else np.int32)
    documents = [np.array([0, vocab_size - 1, 5]), np.array([], dtype=np.int64), np.array([7])]
    assert write_shard(tmp_path / "s", documents, dtype) == (3, 4)
    shard = Shard(tmp_path / "s")
    assert [shard[index].tolist() for index in range(3)] == [each.tolist() for each in documents]
    assert shard.tokens.tolist() == [0, vocab_size - 1, 5, 7]


def test_an_empty_shard(tmp_path: Path) -> None:
    assert write_shard(tmp_path / "s", [], token_type(100)) == (0, 0)
    assert len(Shard(tmp_path / "s")) == 0


def test_megatron_reads_the_same_documents(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    documents = [random.integers(0, 4096, size=random.integers(1, 300)) for _ in range(160)]
    write_shard(tmp_path / "small", documents, token_type(4096))
    write_shard(tmp_path / "large", documents, token_type(100_000))
    write_shard(tmp_path / "mask", [each % 2 for each in documents], np.dtype(np.uint8))
    prefixes = [str(tmp_path / name) for name in ("small", "large", "mask")]
    done = subprocess.run([sys.executable, "-c", READ, *prefixes], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    for part, (kind, divisor) in enumerate([("uint16", 4096), ("int32", 4096), ("uint8", 2)]):
        own = lines[part * 161 : (part + 1) * 161]
        assert own[0] == "160 True"
        assert own[1:] == [" ".join([kind, *map(str, (each % divisor).tolist())]) for each in documents]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda index, data: index.unlink(), "idx is missing"),
        (lambda index, data: index.write_bytes(index.read_bytes()[:20]), "shorter than the header"),
        (lambda index, data: index.write_bytes(b"X" + index.read_bytes()[1:]), "no Megatron index"),
        (lambda index, data: index.write_bytes(index.read_bytes()[:-1]), "cut off"),
        (lambda index, data: data.write_bytes(data.read_bytes()[:-1]), "must have 6 bytes"),
        (lambda index, data: data.unlink(), "must have 6 bytes"),
    ],
)
def test_damaged_shards_are_told(tmp_path: Path, damage: object, message: str) -> None:
    write_shard(tmp_path / "s", [np.array([1, 2, 3])], token_type(100))
    damage(tmp_path / "s.idx", tmp_path / "s.bin")  # type: ignore[operator]
    with pytest.raises(KitError, match=message):
        Shard(tmp_path / "s")
