"""`nano3 pretrain`: a Llama on the shards of data prep. One process, or as many as torchrun starts:

torchrun --nproc_per_node=2 -m nemotron.recipes.nano3.stage0_pretrain.train --config config/tiny.yaml
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from nemotron.kit import ModelArtifact, print_step_complete
from nemotron.recipes.nano3.command_line import configured
from nemotron.recipes.nano3.model.settings import (
    CheckpointSettings,
    MachineSettings,
    ModelSettings,
    OptimizerSettings,
    SchedulerSettings,
    TrainSettings,
)

__all__ = ["PretrainConfig", "main"]

DEFAULT_CONFIG = Path(__file__).parent / "config" / "default.yaml"


@dataclass
class PretrainConfig:
    """Pretraining."""

    data_path: Path  # folder of data prep, with blend.json and tokenizer/
    output_dir: Path  # checkpoints/ and model/
    model: ModelSettings = field(default_factory=ModelSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    scheduler: SchedulerSettings = field(default_factory=SchedulerSettings)
    checkpoint: CheckpointSettings = field(default_factory=CheckpointSettings)
    machine: MachineSettings = field(default_factory=MachineSettings)
    seed: int = 1234
    publish: Literal["reference", "copy"] = "copy"  # copy: the registry holds its own copy of the model
    artifact_name: str = "ModelArtifact-pretrain"
    force: bool = False  # start anew, not from the newest checkpoint


def main(cfg: PretrainConfig | None = None) -> ModelArtifact | None:
    """Pretrains a Llama on the shards of data prep, and goes on from the newest checkpoint.

    Returns:
        The artifact; None on the ranks other than the first.
    """
    cfg = cfg or configured(PretrainConfig, DEFAULT_CONFIG)

    import torch

    from nemotron.recipes.nano3.data.blend import TextSource, read_blend
    from nemotron.recipes.nano3.data.tokenizer import load_tokenizer
    from nemotron.recipes.nano3.model.distributed import open_ranks
    from nemotron.recipes.nano3.model.export import data_fingerprint, export_model, fingerprint, llama_config
    from nemotron.recipes.nano3.model.llama import Llama
    from nemotron.recipes.nano3.model.training import Plan, train

    tokenizer_dir = cfg.data_path / "tokenizer"
    vocab_size = load_tokenizer(tokenizer_dir).get_vocab_size()
    blend = read_blend(cfg.data_path / "blend.json")
    shape = llama_config(cfg.model, vocab_size=vocab_size)
    length, batch = cfg.model.seq_length, cfg.train.global_batch_size
    with open_ranks(cfg.machine.device, threads=cfg.machine.threads) as ranks:
        torch.manual_seed(cfg.seed)  # on all ranks alike: the weights
        model = Llama(shape, dropout=cfg.model.hidden_dropout, init_std=cfg.model.init_method_std)
        source = TextSource(blend["train"], seq_length=length, samples=batch * cfg.train.train_iters, seed=cfg.seed)
        valid = TextSource(blend["valid"], seq_length=length, samples=batch * cfg.train.eval_iters, seed=cfg.seed)
        plan = Plan(
            title="pretrain",
            train=cfg.train,
            optimizer=cfg.optimizer,
            scheduler=cfg.scheduler,
            checkpoint=cfg.checkpoint,
            machine=cfg.machine,
            checkpoint_dir=cfg.output_dir / "checkpoints",
            seed=cfg.seed,
            fixed={
                "model": fingerprint(cfg.model, vocab_size),
                "data": data_fingerprint(cfg.data_path),
                "seed": cfg.seed,
            },
            force=cfg.force,
        )
        result = train(model, source, valid, plan, ranks)
        if not ranks.first:
            return None
        folder = export_model(model, tokenizer_dir, cfg.output_dir / "model", chat=False)
    artifact = ModelArtifact(path=folder, loss=result.valid_loss, step=result.iteration)
    artifact.metadata.update(
        stage="pretrain",
        train_loss=result.train_loss,
        parameters=sum(weight.numel() for weight in model.parameters()),
        tokens_seen=result.iteration * batch * length,
    )
    artifact.save(name=cfg.artifact_name, copy=cfg.publish == "copy")
    print_step_complete(model=artifact)
    return artifact


if __name__ == "__main__":
    main()
