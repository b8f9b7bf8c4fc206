"""`nano3 data prep pretrain`: text files → tokenizer → Megatron shards → blend.json. After a kill it goes on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nemotron.kit import PretrainBlendsArtifact, print_step_complete
from nemotron.recipes.nano3.command_line import configured
from nemotron.recipes.nano3.data.plan import RunFolder
from nemotron.recipes.nano3.data.sources import Corpus, Document, Split, corpora, documents, read_text, split_of
from nemotron.recipes.nano3.model.progress import Progress

if TYPE_CHECKING:
    import numpy as np

__all__ = ["DataPrepConfig", "main", "prepare"]

DEFAULT_CONFIG = Path(__file__).parent / "config" / "default.yaml"
_SPLITS: tuple[Split, ...] = ("train", "valid", "test")
_AT_ONCE = 64  # documents given to the tokenizer together


@dataclass
class DataPrepConfig:
    """Data preparation for pretraining."""

    output_dir: Path
    blend_path: Path | None = None  # JSON that lists folders of text; none: the sources of Python's standard library
    tokenizer_model: Path | None = None  # folder with a tokenizer.json; none: a BPE is trained on the train split
    vocab_size: int = 4096  # of the trained BPE
    tokenizer_sample_mb: int = 64  # text that the BPE is trained on, at most
    num_shards: int = 8  # of the train split of each dataset
    valid_fraction: float = 0.02
    test_fraction: float = 0.02
    sample: int | None = None  # documents of each dataset; none: all
    workers: int = 1  # processes that tokenize
    publish: Literal["reference", "copy"] = "reference"  # copy: the registry holds its own, prefixes are relative
    artifact_name: str = "PretrainBlendsArtifact-default"
    force: bool = False  # make everything anew


@dataclass(frozen=True, slots=True)
class _Piece:
    """One shard: which documents of which corpus."""

    corpus: Corpus
    split: Split
    name: str  # of the shard, below the run's folder
    documents: list[Document]


def main(cfg: DataPrepConfig | None = None) -> PretrainBlendsArtifact:
    """Tokenizes text files into Megatron shards with a blend.json."""
    cfg = cfg or configured(DataPrepConfig, DEFAULT_CONFIG)
    artifact = prepare(cfg)
    artifact.save(name=cfg.artifact_name, copy=cfg.publish == "copy")
    print_step_complete(data=artifact)
    return artifact


def prepare(cfg: DataPrepConfig) -> PretrainBlendsArtifact:
    """Makes the run's folder whole, and describes it.

    Raises:
        KitError: no text, a blend file or a tokenizer that can't be, or sources that change meanwhile.
    """
    found = {corpus: documents(corpus, sample=cfg.sample) for corpus in corpora(cfg.blend_path)}
    run = RunFolder(cfg.output_dir, _plan(cfg, found), force=cfg.force)
    run.once("tokenizer", lambda: _tokenizer(cfg, found, run.path / "tokenizer"))
    pieces = list(_pieces(cfg, found))
    receipts = {}
    with Progress("data prep pretrain: shards", total=len(pieces), every=1) as bar:
        for done, (piece, receipt) in enumerate(_make_all(run, pieces, cfg.workers), 1):
            receipts[piece] = receipt
            bar.update(done, tokens=sum(each["tokens"] for each in receipts.values()))
    receipts = {piece.name: receipts[piece.name] for piece in pieces}
    run.once("blend", lambda: _write_blend(run.path, pieces, receipts, relative=cfg.publish == "copy"))
    total = sum(receipt["tokens"] for receipt in receipts.values())
    artifact = PretrainBlendsArtifact(
        path=run.path, total_tokens=total, source_datasets=[f"{each.name}: {each.folder}" for each in found]
    )
    artifact.metadata.update(
        plan=run.hash,
        documents=sum(receipt["documents"] for receipt in receipts.values()),
        tokens={
            split: sum(receipts[piece.name]["tokens"] for piece in pieces if piece.split == split) for split in _SPLITS
        },
        valid_fraction=cfg.valid_fraction,
        test_fraction=cfg.test_fraction,
    )
    return artifact


def _plan(cfg: DataPrepConfig, found: dict[Corpus, list[Document]]) -> dict[str, Any]:
    """Everything that the files depend on, and nothing else: not where the corpora lie, not how many processes work."""
    tokenizer: dict[str, Any] = {"vocab_size": cfg.vocab_size, "sample_mb": cfg.tokenizer_sample_mb}
    if cfg.tokenizer_model is not None:
        from nemotron.recipes.nano3.data.tokenizer import load_tokenizer

        text = load_tokenizer(cfg.tokenizer_model).to_str()
        tokenizer = {"sha256": hashlib.sha256(text.encode()).hexdigest()}
    return {
        "format": 1,
        "kind": "pretrain",
        "tokenizer": tokenizer,
        "num_shards": cfg.num_shards,
        "valid_fraction": cfg.valid_fraction,
        "test_fraction": cfg.test_fraction,
        "publish": cfg.publish,
        "datasets": [
            {"name": corpus.name, "weight": corpus.weight, "documents": [asdict(each) for each in listed]}
            for corpus, listed in found.items()
        ],
    }


def _tokenizer(cfg: DataPrepConfig, found: dict[Corpus, list[Document]], folder: Path) -> dict[str, Any]:
    from nemotron.recipes.nano3.data.tokenizer import copy_tokenizer, load_tokenizer, train_tokenizer

    if cfg.tokenizer_model is not None:
        copy_tokenizer(cfg.tokenizer_model, folder)
    else:
        train_tokenizer(_training_text(cfg, found), folder, vocab_size=cfg.vocab_size)
    return {"vocab_size": load_tokenizer(folder).get_vocab_size()}


def _training_text(cfg: DataPrepConfig, found: dict[Corpus, list[Document]]) -> Iterator[str]:
    """Documents of the train split only, from each corpus in turn its part of the sample."""
    for corpus, listed in found.items():
        left = cfg.tokenizer_sample_mb * 1_000_000 // len(found)
        for document in listed:
            if _split(cfg, document) == "train" and left > 0:
                left -= document.size
                yield read_text(corpus, document)


def _split(cfg: DataPrepConfig, document: Document) -> Split:
    return split_of(document, valid_fraction=cfg.valid_fraction, test_fraction=cfg.test_fraction)


def _pieces(cfg: DataPrepConfig, found: dict[Corpus, list[Document]]) -> Iterator[_Piece]:
    for corpus, listed in found.items():
        for split in _SPLITS:
            mine = [document for document in listed if _split(cfg, document) == split]
            count = cfg.num_shards if split == "train" else 1
            for index in range(count):
                yield _Piece(corpus, split, f"{corpus.name}/{split}_{index:05d}", mine[index::count])


def _make_all(run: RunFolder, pieces: list[_Piece], workers: int) -> Iterator[tuple[str, dict[str, Any]]]:
    if workers <= 1:
        for piece in pieces:
            yield piece.name, _make(run, piece)
        return
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(workers) as pool:
        for piece, receipt in zip(pieces, pool.map(_make, [run] * len(pieces), pieces), strict=True):
            yield piece.name, receipt


def _make(run: RunFolder, piece: _Piece) -> dict[str, Any]:
    return run.once(piece.name.replace("/", "."), _shard_maker(run.path, piece))


def _shard_maker(folder: Path, piece: _Piece) -> Callable[[], dict[str, Any]]:
    def make() -> dict[str, Any]:
        from nemotron.recipes.nano3.data.megatron_shards import token_type, write_shard
        from nemotron.recipes.nano3.data.tokenizer import load_tokenizer

        tokenizer = load_tokenizer(folder / "tokenizer")
        prefix = folder / piece.name
        prefix.parent.mkdir(parents=True, exist_ok=True)
        dtype = token_type(tokenizer.get_vocab_size())
        count, tokens = write_shard(prefix, _tokenized(tokenizer, piece), dtype)
        return {"documents": count, "tokens": tokens}

    return make


def _tokenized(tokenizer: Any, piece: _Piece) -> Iterator[np.ndarray[Any, Any]]:
    """Each document's tokens, with the end-of-text token after them."""
    import numpy as np

    from nemotron.recipes.nano3.data.tokenizer import END_OF_TEXT

    end = [tokenizer.token_to_id(END_OF_TEXT)]
    for first in range(0, len(piece.documents), _AT_ONCE):
        texts = [read_text(piece.corpus, each) for each in piece.documents[first : first + _AT_ONCE]]
        for encoding in tokenizer.encode_batch(texts, add_special_tokens=False):
            yield np.array(encoding.ids + end)


def _write_blend(
    folder: Path, pieces: list[_Piece], receipts: dict[str, dict[str, Any]], *, relative: bool
) -> dict[str, Any]:
    """A shard's weight: its share of the dataset's tokens, times the dataset's weight (without one, its share)."""
    from nemotron.kit.artifacts.files import write_json_atomically

    blend: dict[str, list[list[str]]] = {}
    for split in _SPLITS:
        mine = [piece for piece in pieces if piece.split == split and receipts[piece.name]["tokens"]]
        of_dataset: dict[str, int] = {}
        for piece in mine:
            of_dataset[piece.corpus.name] = of_dataset.get(piece.corpus.name, 0) + receipts[piece.name]["tokens"]
        every = sum(of_dataset.values())
        whole = sum(
            _weight(piece.corpus, of_dataset, every) for piece in {each.corpus.name: each for each in mine}.values()
        )
        blend[split] = []
        for piece in mine:
            share = receipts[piece.name]["tokens"] / of_dataset[piece.corpus.name]
            weight = _weight(piece.corpus, of_dataset, every) / whole * share
            blend[split].append([f"{weight:.9g}", piece.name if relative else os.fspath(folder / piece.name)])
    write_json_atomically(folder / "blend.json", blend)
    return {"splits": {split: len(entries) for split, entries in blend.items()}}


def _weight(corpus: Corpus, of_dataset: dict[str, int], every: int) -> float:
    return of_dataset[corpus.name] / every if corpus.weight is None else corpus.weight


if __name__ == "__main__":
    main()
