"""`nano3 sft`: teaches a pretrained model to answer. Only answers count in the loss. Runs under torchrun, too."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from nemotron.kit import ModelArtifact, print_step_complete
from nemotron.recipes.nano3.command_line import configured
from nemotron.recipes.nano3.model.settings import (
    CheckpointSettings,
    MachineSettings,
    OptimizerSettings,
    SchedulerSettings,
    TrainSettings,
)
from nemotron.recipes.nano3.stage1_sft.data_prep.prepare import SFTConfig as SFTDataConfig

__all__ = ["SFTTrainConfig", "main"]

DEFAULT_CONFIG = Path(__file__).parent / "config" / "default.yaml"


@dataclass
class SFTTrainConfig:
    """Supervised fine-tuning."""

    model_path: Path  # the pretrained model's folder
    output_dir: Path  # checkpoints/ and model/
    data_path: Path | None = None  # folder of `data prep sft`; none: made here, from functions of the standard library
    sample: int | None = 600  # documents of the data that is made here
    train: TrainSettings = field(default_factory=TrainSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    scheduler: SchedulerSettings = field(default_factory=SchedulerSettings)
    checkpoint: CheckpointSettings = field(default_factory=CheckpointSettings)
    machine: MachineSettings = field(default_factory=MachineSettings)
    hidden_dropout: float = 0.0
    seed: int = 1234
    publish: Literal["reference", "copy"] = "copy"
    artifact_name: str = "ModelArtifact-sft"
    force: bool = False  # start anew, not from the newest checkpoint


def main(cfg: SFTTrainConfig | None = None) -> ModelArtifact | None:
    """Fine-tunes a pretrained model on conversations; only the answers count in the loss.

    Returns:
        The artifact; None on the ranks other than the first.
    """
    cfg = cfg or configured(SFTTrainConfig, DEFAULT_CONFIG)

    from nemotron.recipes.nano3.data.blend import ConversationSource
    from nemotron.recipes.nano3.model.distributed import open_ranks
    from nemotron.recipes.nano3.model.export import export_model, fingerprint
    from nemotron.recipes.nano3.model.llama import load_model
    from nemotron.recipes.nano3.model.training import Plan, train

    with open_ranks(cfg.machine.device, threads=cfg.machine.threads) as ranks:
        model = load_model(cfg.model_path, dropout=cfg.hidden_dropout)
        data_path = _data(cfg, model.config.max_position_embeddings)
        source = ConversationSource([data_path / "train"], seed=cfg.seed)
        valid = ConversationSource([data_path / "valid"], seed=cfg.seed)
        plan = Plan(
            title="sft",
            train=cfg.train,
            optimizer=cfg.optimizer,
            scheduler=cfg.scheduler,
            checkpoint=cfg.checkpoint,
            machine=cfg.machine,
            checkpoint_dir=cfg.output_dir / "checkpoints",
            seed=cfg.seed,
            fixed={
                "model": fingerprint(_sha256(cfg.model_path / "model.safetensors")),
                "data": fingerprint(_sha256(data_path / "train.bin")),
                "seed": cfg.seed,
            },
            force=cfg.force,
        )
        result = train(model, source, valid, plan, ranks)
        if not ranks.first:
            return None
        folder = export_model(model, cfg.model_path, cfg.output_dir / "model", chat=True)
    artifact = ModelArtifact(path=folder, loss=result.valid_loss, step=result.iteration)
    artifact.metadata.update(stage="sft", train_loss=result.train_loss, samples=len(source))
    artifact.save(name=cfg.artifact_name, copy=cfg.publish == "copy")
    print_step_complete(model=artifact)
    return artifact


def _sha256(path: Path) -> str:
    from nemotron.kit.artifacts.checksums import sum_file

    return sum_file(path).sha256


def _data(cfg: SFTTrainConfig, seq_length: int) -> Path:
    """The folder of the data; made where none is given. Ranks that come later find the receipts and wait for none."""
    if cfg.data_path is not None:
        return cfg.data_path
    from nemotron.recipes.nano3.stage1_sft.data_prep.prepare import prepare

    data = SFTDataConfig(
        tokenizer_path=cfg.model_path,
        output_dir=cfg.output_dir / "data",
        sample=cfg.sample,
        seq_length=seq_length,
        valid_fraction=0.04,
        test_fraction=0.04,
    )
    return prepare(data).path


if __name__ == "__main__":
    main()
