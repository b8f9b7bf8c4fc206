"""`nano3 data prep rl`: prompts with verifiers as `train.jsonl` and `valid.jsonl`, each prompt once and checked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from nemotron.kit import Artifact, print_step_complete
from nemotron.kit.errors import KitError
from nemotron.recipes.nano3.command_line import configured
from nemotron.recipes.nano3.data.plan import RunFolder
from nemotron.recipes.nano3.data.sources import corpora, documents, read_text, split_of

__all__ = ["RLConfig", "RLPromptsArtifact", "main", "prepare"]

DEFAULT_CONFIG = Path(__file__).parent / "config" / "default.yaml"


@dataclass
class RLPromptsArtifact(Artifact):
    """`train.jsonl` and `valid.jsonl`: `{"id", "prompt": [messages], "verifier": {"type", "answer"}}` a line."""

    prompts: int
    source_datasets: list[str]


@dataclass
class RLConfig:
    """Data preparation for reinforcement learning with verifiable rewards."""

    output_dir: Path
    prompts_path: Path | None = None  # JSONL of {"prompt", "verifier"}; none: questions on functions of the text
    blend_path: Path | None = None  # as for pretraining; none: the sources of Python's standard library
    sample: int | None = None  # documents of each dataset; none: all
    valid_fraction: float = 0.04
    test_fraction: float = 0.04  # documents of the test split of pretraining stay out
    publish: Literal["reference", "copy"] = "copy"
    artifact_name: str = "RLPromptsArtifact-default"
    force: bool = False


def main(cfg: RLConfig | None = None) -> RLPromptsArtifact:
    """Writes prompts whose answers can be checked."""
    cfg = cfg or configured(RLConfig, DEFAULT_CONFIG)
    artifact = prepare(cfg)
    artifact.save(name=cfg.artifact_name, copy=cfg.publish == "copy")
    print_step_complete(data=artifact)
    return artifact


def prepare(cfg: RLConfig) -> RLPromptsArtifact:
    """Makes the run's folder whole, and describes it."""
    plan: dict[str, Any] = {"format": 1, "kind": "rl", "valid": cfg.valid_fraction, "test": cfg.test_fraction}
    if cfg.prompts_path is not None:
        from nemotron.recipes.nano3.data.instructions import read_prompts

        plan["prompts"] = read_prompts(cfg.prompts_path)
        sources = [str(cfg.prompts_path)]
    else:
        found = corpora(cfg.blend_path)
        plan["documents"] = [[asdict(each) for each in documents(corpus, sample=cfg.sample)] for corpus in found]
        sources = [f"functions of {corpus.name}: {corpus.folder}" for corpus in found]
    run = RunFolder(cfg.output_dir, plan, force=cfg.force)
    counts = run.once("prompts", lambda: _write(cfg, run.path))
    if not counts["train"]:
        raise KitError(f"no prompt came out of {', '.join(sources)}; give more data")
    artifact = RLPromptsArtifact(path=run.path, prompts=sum(counts.values()), source_datasets=sources)
    artifact.metadata.update(plan=run.hash, splits=counts)
    return artifact


def _write(cfg: RLConfig, folder: Path) -> dict[str, int]:
    from nemotron.kit.artifacts.files import write_bytes_atomically

    rows: dict[str, dict[str, str]] = {"train": {}, "valid": {}}
    for split, prompt in _prompts(cfg):
        if not any(prompt["id"] in of_split for of_split in rows.values()):  # the same function in two files
            rows[split][prompt["id"]] = json.dumps(prompt, ensure_ascii=False)
    for split, lines in rows.items():
        write_bytes_atomically(folder / f"{split}.jsonl", "".join(f"{line}\n" for line in lines.values()).encode())
    return {split: len(lines) for split, lines in rows.items()}


def _prompts(cfg: RLConfig) -> Iterator[tuple[str, dict[str, Any]]]:
    from nemotron.recipes.nano3.data.instructions import prompts_of_code, read_prompts

    if cfg.prompts_path is not None:
        for prompt in read_prompts(cfg.prompts_path):
            place = int(hashlib.sha256(json.dumps(prompt["prompt"]).encode()).hexdigest()[:12], 16) / 16**12
            yield ("valid" if place < cfg.valid_fraction else "train"), prompt
        return
    for corpus in corpora(cfg.blend_path):
        for document in documents(corpus, sample=cfg.sample):
            split = split_of(document, valid_fraction=cfg.valid_fraction, test_fraction=cfg.test_fraction)
            if split != "test":
                for prompt in prompts_of_code(read_text(corpus, document)):
                    yield split, prompt


if __name__ == "__main__":
    main()
