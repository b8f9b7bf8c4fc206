"""Settings of model and training, in Megatron's names. They import no torch, so that `--help` shows them quickly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = [
    "CheckpointSettings",
    "MachineSettings",
    "ModelSettings",
    "OptimizerSettings",
    "SchedulerSettings",
    "TrainSettings",
]


@dataclass
class ModelSettings:
    """The model's shape; the vocabulary is the tokenizer's."""

    num_layers: int = 12
    hidden_size: int = 768
    ffn_hidden_size: int = 2048
    num_attention_heads: int = 12
    num_query_groups: int = 4  # key and value heads
    seq_length: int = 1024
    rotary_base: float = 10_000.0
    norm_epsilon: float = 1e-5
    hidden_dropout: float = 0.0
    share_embeddings_and_output_weights: bool = True
    init_method_std: float = 0.02


@dataclass
class TrainSettings:
    """How much is trained at a time, and how long."""

    train_iters: int = 10_000
    global_batch_size: int = 64  # samples an iteration, over all ranks
    micro_batch_size: int = 8  # samples that one rank takes at once
    eval_interval: int = 500  # iterations between evaluations of the valid split; 0: only at the end
    eval_iters: int = 20  # global batches of an evaluation
    log_interval: int = 10


@dataclass
class OptimizerSettings:
    """AdamW (Loshchilov and Hutter 2019); weight decay on matrices only."""

    lr: float = 6e-4
    min_lr: float = 6e-5
    weight_decay: float = 0.1
    adam_beta1: float = 0.9
    adam_beta2: float = 0.95
    adam_eps: float = 1e-8
    clip_grad: float = 1.0


@dataclass
class SchedulerSettings:
    """Learning rate over the iterations: up from 0 in a line, then down to min_lr."""

    lr_warmup_iters: int = 200
    lr_decay_style: Literal["cosine", "linear", "constant"] = "cosine"


@dataclass
class CheckpointSettings:
    """Checkpoints hold all that the next iteration depends on, so training goes on to the same result after a kill."""

    save_interval: int = 500
    keep: int = 2  # newest checkpoints that stay
    load: bool = True  # go on from the newest one


@dataclass
class MachineSettings:
    """The machine's side of training."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["fp32", "bf16"] = "fp32"  # of the matrix products; weights and optimizer stay fp32
    compile: bool = False
    threads: int = 0  # CPU threads of a process; 0: OMP_NUM_THREADS, else torch's choice
