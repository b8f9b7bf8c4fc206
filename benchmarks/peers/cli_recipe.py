"""One nested command over one dataclass in tyro, typer or hydra: `python cli_recipe.py tyro|typer|hydra ARGUMENTS…`.

Run by the interpreter that has them (tools/peers/make.py tyro FOLDER); imports nothing of the project.
"""

# No `from __future__ import annotations`: typer reads the types at run time.

import sys
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Optimizer:
    lr: float = 1e-3  # the learning rate
    weight_decay: float = 0.1  # decoupled
    warmup_steps: int = 10  # linear


@dataclass
class TrainConfig:
    data_path: Path = Path("data")  # the shards
    checkpoint_dir: Path = Path("checkpoint")  # where the model goes
    steps: int = 100  # optimizer steps
    batch_size: int = 8  # sequences a step
    sequence_length: int = 256  # tokens
    seed: int = 0  # of everything
    resume: bool = True  # from the last checkpoint
    optimizer: Optimizer = field(default_factory=Optimizer)


def train(cfg: TrainConfig) -> None:
    """Train a model."""
    print(cfg)


def with_tyro() -> None:
    """Nested commands by tyro's subcommand_cli_from_dict."""
    import tyro

    tyro.extras.subcommand_cli_from_dict({"train": train, "eval": train})


def with_typer() -> None:
    """Nested commands by typer, with the fields as parameters."""
    import typer

    def command(
        data_path: Path = Path("data"),
        checkpoint_dir: Path = Path("checkpoint"),
        steps: int = 100,
        batch_size: int = 8,
        sequence_length: int = 256,
        seed: int = 0,
        resume: bool = True,
        optimizer_lr: float = 1e-3,
        optimizer_weight_decay: float = 0.1,
        optimizer_warmup_steps: int = 10,
    ) -> None:
        """Train a model."""
        print(locals())

    app = typer.Typer()
    app.command("train")(command)
    app.command("eval")(command)
    app()


def with_hydra() -> None:
    """A hydra application over the structured configuration; hydra has no commands."""
    import hydra
    from hydra.core.config_store import ConfigStore

    ConfigStore.instance().store(name="train", node=TrainConfig)
    sys.argv = [argument for argument in sys.argv if argument != "train"]
    hydra.main(version_base=None, config_name="train")(train)()


if __name__ == "__main__":
    library = sys.argv.pop(1)
    {"tyro": with_tyro, "typer": with_typer, "hydra": with_hydra}[library]()
