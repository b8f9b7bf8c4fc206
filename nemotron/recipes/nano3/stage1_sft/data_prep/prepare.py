"""`nano3 data prep sft`: conversations → packed samples with a loss mask, as Megatron shards of tokens and of masks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from nemotron.kit import Artifact, print_step_complete
from nemotron.kit.errors import KitError
from nemotron.recipes.nano3.command_line import configured
from nemotron.recipes.nano3.data.plan import RunFolder
from nemotron.recipes.nano3.data.sources import corpora, documents, read_text, split_of

__all__ = ["SFTConfig", "SFTDataArtifact", "main", "prepare"]

DEFAULT_CONFIG = Path(__file__).parent / "config" / "default.yaml"


@dataclass
class SFTDataArtifact(Artifact):
    """`train.bin/.idx`, `train_mask.bin/.idx` and the same for valid: each document is one sample."""

    conversations: int
    answer_tokens: int
    source_datasets: list[str]


@dataclass
class SFTConfig:
    """Data preparation for supervised fine-tuning."""

    tokenizer_path: Path  # folder with tokenizer.json: of the pretrained model, or `tokenizer/` of its data
    output_dir: Path
    conversations_path: Path | None = None  # JSONL of {"messages": […]}; none: functions of the text of blend_path
    blend_path: Path | None = None  # as for pretraining; none: the sources of Python's standard library
    sample: int | None = None  # documents of each dataset; none: all
    seq_length: int = 256
    valid_fraction: float = 0.02  # documents of the valid and the test split of pretraining stay out of training
    test_fraction: float = 0.02
    publish: Literal["reference", "copy"] = "copy"
    artifact_name: str = "SFTDataArtifact-default"
    force: bool = False


def main(cfg: SFTConfig | None = None) -> SFTDataArtifact:
    """Turns conversations into packed samples with a loss mask."""
    cfg = cfg or configured(SFTConfig, DEFAULT_CONFIG)
    artifact = prepare(cfg)
    artifact.save(name=cfg.artifact_name, copy=cfg.publish == "copy")
    print_step_complete(data=artifact)
    return artifact


def prepare(cfg: SFTConfig) -> SFTDataArtifact:
    """Makes the run's folder whole, and describes it."""
    source, plan = _source(cfg)
    tokenizer_file = cfg.tokenizer_path / "tokenizer.json"
    if not tokenizer_file.is_file():
        raise KitError(f"no tokenizer in {cfg.tokenizer_path}; give the folder of a model or `tokenizer/` of its data")
    plan |= {"format": 1, "kind": "sft", "seq_length": cfg.seq_length, "tokenizer": _sha256(tokenizer_file)}
    plan |= {"valid_fraction": cfg.valid_fraction, "test_fraction": cfg.test_fraction}
    run = RunFolder(cfg.output_dir, plan, force=cfg.force)
    receipts = [run.once(split, partial(_write_split, cfg, run.path, split)) for split in ("train", "valid")]
    if not receipts[0]["samples"]:
        raise KitError(
            f"no conversation of {source} fits into seq_length {cfg.seq_length}; give a larger one, or more data"
        )
    total = {key: sum(receipt[key] for receipt in receipts) for key in receipts[0]}
    artifact = SFTDataArtifact(
        path=run.path,
        conversations=total["conversations"],
        answer_tokens=total["answer_tokens"],
        source_datasets=[source],
    )
    artifact.metadata.update(
        plan=run.hash, seq_length=cfg.seq_length, left_out=total["left_out"], samples=total["samples"]
    )
    return artifact


def _source(cfg: SFTConfig) -> tuple[str, dict[str, Any]]:
    if cfg.conversations_path is not None:
        if not cfg.conversations_path.is_file():
            raise KitError(f"no file {cfg.conversations_path}; give a JSONL file, or leave conversations_path out")
        return str(cfg.conversations_path), {"conversations": _sha256(cfg.conversations_path)}
    found = corpora(cfg.blend_path)
    listed = [[asdict(each) for each in documents(corpus, sample=cfg.sample)] for corpus in found]
    return ", ".join(f"functions of {each.name}: {each.folder}" for each in found), {"documents": listed}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _conversations(cfg: SFTConfig, split: str) -> Iterator[list[dict[str, str]]]:
    """The split's conversations; of the test split none are used, so that its text stays unseen."""
    from nemotron.recipes.nano3.data.instructions import conversations_of_code, read_conversations

    if cfg.conversations_path is not None:
        for messages in read_conversations(cfg.conversations_path):
            place = int(hashlib.sha256(repr(messages).encode()).hexdigest()[:12], 16) / 16**12
            if (place < cfg.valid_fraction) == (split == "valid"):
                yield messages
        return
    for corpus in corpora(cfg.blend_path):
        for document in documents(corpus, sample=cfg.sample):
            if split_of(document, valid_fraction=cfg.valid_fraction, test_fraction=cfg.test_fraction) == split:
                yield from conversations_of_code(read_text(corpus, document))


def _write_split(cfg: SFTConfig, folder: Path, split: str) -> dict[str, Any]:
    import numpy as np

    from nemotron.recipes.nano3.data.chat import encode_conversation, pack
    from nemotron.recipes.nano3.data.megatron_shards import token_type, write_shard
    from nemotron.recipes.nano3.data.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(cfg.tokenizer_path)
    encoded = [encode_conversation(tokenizer, messages) for messages in _conversations(cfg, split)]
    fitting = [each for each in encoded if len(each[0]) <= cfg.seq_length + 1 and any(each[1])]
    samples = list(pack(fitting, length=cfg.seq_length, tokenizer=tokenizer))
    dtype = token_type(tokenizer.get_vocab_size())
    write_shard(folder / f"{split}_mask", (mask for _, mask in samples), np.dtype(np.uint8))
    write_shard(folder / split, (tokens for tokens, _ in samples), dtype)
    return {
        "conversations": len(fitting),
        "left_out": len(encoded) - len(fitting),
        "samples": len(samples),
        "answer_tokens": sum(int(mask.sum()) for _, mask in samples),
    }


if __name__ == "__main__":
    main()
