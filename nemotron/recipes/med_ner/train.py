"""`med_ner train`: medvllm's `ner` recipe and trainer, with the model published as an artifact.

`medvllm inference ner --model art://ModelArtifact-med_ner:latest` reads notes with it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from nemotron.kit import ModelArtifact, print_step_complete
from nemotron.kit.errors import KitError
from nemotron.kit.train_script import load_omegaconf_yaml, omegaconf_to_dataclass, parse_config_and_overrides

__all__ = ["MedNERConfig", "TrainSettings", "main"]

DEFAULT_CONFIG = Path(__file__).parent / "config" / "default.yaml"


@dataclass
class TrainSettings:
    """Fields of medvllm's TrainerConfig."""

    epochs: int = 5
    batch_size: int = 16  # windows on one rank at once
    grad_accum: int = 1
    lr: float = 3e-4
    schedule: Literal["constant", "linear", "step", "cosine", "onecycle"] = "linear"
    warmup_steps: int = 100
    amp: bool | None = None  # none: on CUDA only
    device: Literal["auto", "cpu", "cuda", "xla"] = "auto"
    threads: int | None = None
    early_stopping: int | None = None  # evaluations without a better F1; none: never
    seed: int = 42
    resume: str = "auto"  # auto, none, or a checkpoint folder


@dataclass
class MedNERConfig:
    """Training of a token classifier."""

    train_path: Path  # JSONL of {"text", "entities": [{"start", "end", "type"}]}
    base_model: str  # a folder, a registered name or a hub id
    output_dir: Path  # the run folder; its contents are a model
    eval_path: Path | None = None  # JSONL like train_path; the model with the best F1 on it is kept
    scheme: Literal["BIO", "BIOES"] = "BIO"
    max_length: int = 256  # tokens of a window
    stride: int = 32  # tokens that neighbouring windows share
    train: TrainSettings = field(default_factory=TrainSettings)
    publish: Literal["reference", "copy"] = "copy"  # copy: the registry holds its own copy of the model
    artifact_name: str = "ModelArtifact-med_ner"


def main(cfg: MedNERConfig | None = None) -> ModelArtifact | None:
    """Trains, goes on from the newest checkpoint of `output_dir`, and publishes the model.

    Returns:
        The artifact; None on the ranks other than the first.
    """
    if cfg is None:
        path, _ = parse_config_and_overrides(DEFAULT_CONFIG)  # the overrides travel with the path
        cfg = omegaconf_to_dataclass(load_omegaconf_yaml(path), MedNERConfig)

    import os

    from medvllm.errors import MedvllmError
    from medvllm.training.config import TrainerConfig
    from medvllm.training.recipes import ner
    from medvllm.training.trainer import MedicalModelTrainer, seed_all

    options = {
        "train": str(cfg.train_path),
        "eval": str(cfg.eval_path) if cfg.eval_path else None,
        "model": cfg.base_model,
        "scheme": cfg.scheme,
        "max_length": cfg.max_length,
        "stride": cfg.stride,
    }
    metric = "f1" if cfg.eval_path else "loss"
    try:
        settings = TrainerConfig(output=cfg.output_dir, metric=metric, **asdict(cfg.train))
        seed_all(settings.seed)  # the new head's first weights
        origin = {"entrypoint": "medvllm.training.recipes:ner", "config": options}
        result = MedicalModelTrainer(settings, origin=origin).fit(*ner(options))
    except MedvllmError as error:
        raise KitError(str(error)) from error
    if int(os.environ.get("RANK", "0")):
        return None
    artifact = ModelArtifact(path=result.output, loss=result.metrics.get("loss"), step=result.steps)
    artifact.metadata.update(stage="med_ner", **result.metrics)
    artifact.save(name=cfg.artifact_name, copy=cfg.publish == "copy")
    print_step_complete(model=artifact)
    return artifact


if __name__ == "__main__":
    main()
