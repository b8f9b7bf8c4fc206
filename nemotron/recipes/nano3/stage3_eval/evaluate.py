"""`nano3 eval`: the loss on held-out text beside the entropy of its token frequencies, which a model must get under."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nemotron.kit import Artifact, print_step_complete
from nemotron.kit.errors import KitError
from nemotron.recipes.nano3.command_line import configured
from nemotron.recipes.nano3.model.settings import MachineSettings

if TYPE_CHECKING:
    from nemotron.recipes.nano3.model.distributed import Ranks
    from nemotron.recipes.nano3.model.llama import Llama

__all__ = ["EvalArtifact", "EvalConfig", "main"]

DEFAULT_CONFIG = Path(__file__).parent / "config" / "default.yaml"


@dataclass
class EvalArtifact(Artifact):
    """`results.json`. Losses and entropies are in nats a token, over the same held-out tokens.

    Attributes:
        heldout_loss: the model's.
        perplexity: exp(heldout_loss).
        unigram_entropy: of the held-out tokens' own frequencies: no model without context can be better on them.
        margin: unigram_entropy - heldout_loss; above 0 the model uses context.
        tokens: predicted.
    """

    heldout_loss: float
    perplexity: float
    unigram_entropy: float
    margin: float
    tokens: int


@dataclass
class EvalConfig:
    """Evaluation on held-out text."""

    model_path: Path  # folder of a model
    data_path: Path  # folder of data prep, with blend.json
    output_dir: Path
    split: Literal["test", "valid"] = "test"
    max_tokens: int = 100_000  # held-out tokens used, from the start of the split's shards
    batch_size: int = 8  # windows at once
    min_margin: float | None = None  # fail where the loss is not this far (nats) under the unigram entropy
    machine: MachineSettings = field(default_factory=MachineSettings)
    artifact_name: str = "EvalArtifact-default"


def main(cfg: EvalConfig | None = None) -> EvalArtifact | None:
    """Prints a model's held-out loss beside the unigram entropy of the same text.

    Returns:
        The artifact; None on the ranks other than the first.
    """
    cfg = cfg or configured(EvalConfig, DEFAULT_CONFIG)

    import numpy as np

    from nemotron.recipes.nano3.model.distributed import open_ranks
    from nemotron.recipes.nano3.model.llama import load_model

    with open_ranks(cfg.machine.device, threads=cfg.machine.threads) as ranks:
        model = load_model(cfg.model_path).to(ranks.device).eval()
        tokens = _heldout(cfg)
        if int(tokens.max()) >= model.config.vocab_size:
            raise KitError(f"{cfg.data_path} has tokens beyond the model's vocabulary; use the data of its tokenizer")
        loss, count, targets = _loss(model, tokens, cfg, ranks)
    if not ranks.first:
        return None
    frequencies = np.bincount(targets) / len(targets)
    frequencies = frequencies[frequencies > 0]
    entropy = float(-(frequencies * np.log(frequencies)).sum())
    artifact = EvalArtifact(
        path=cfg.output_dir,
        heldout_loss=loss,
        perplexity=math.exp(loss),
        unigram_entropy=entropy,
        margin=entropy - loss,
        tokens=count,
    )
    _publish(artifact, cfg, entropy)
    return artifact


def _publish(artifact: EvalArtifact, cfg: EvalConfig, entropy: float) -> None:
    cfg.output_dir.mkdir(parents=True, exist_ok=True)
    results = json.dumps(artifact.typed_values(), indent=2) + "\n"
    (cfg.output_dir / "results.json").write_text(results, encoding="utf-8")
    print(
        f"held-out loss {artifact.heldout_loss:.4f} nats/token, perplexity {artifact.perplexity:.2f}\n"
        f"unigram entropy {entropy:.4f} nats/token, perplexity {math.exp(entropy):.2f}\n"
        f"the loss is {artifact.margin:.4f} nats under the unigram entropy ({artifact.tokens} {cfg.split} tokens)",
        file=sys.stdout if sys.stdout.isatty() else sys.stderr,
    )
    artifact.save(name=cfg.artifact_name)
    print_step_complete(eval=artifact)
    if cfg.min_margin is not None and artifact.margin < cfg.min_margin:
        raise KitError(
            f"the held-out loss must be at least {cfg.min_margin:g} nats under the unigram entropy, it is "
            f"{artifact.margin:.4f}; train longer, or check the data"
        )


def _heldout(cfg: EvalConfig):  # type: ignore[no-untyped-def]  # an array, and numpy is not imported at the top
    import numpy as np

    from nemotron.recipes.nano3.data.blend import read_blend
    from nemotron.recipes.nano3.data.megatron_shards import Shard

    shards = [Shard(prefix) for _, prefix in read_blend(cfg.data_path / "blend.json").get(cfg.split, [])]
    tokens = np.concatenate([shard.tokens for shard in shards] or [np.zeros(0, np.int64)])[: cfg.max_tokens + 1]
    if len(tokens) < 2:
        raise KitError(
            f"the {cfg.split} split of {cfg.data_path} is empty; prepare data with a larger {cfg.split}_fraction"
        )
    return tokens.astype(np.int64)


def _loss(model: Llama, tokens, cfg: EvalConfig, ranks: Ranks):  # type: ignore[no-untyped-def]
    """(mean loss, predicted tokens, those tokens), each predicted once, from at most seq_length tokens before it."""
    import torch

    from nemotron.recipes.nano3.model.progress import Progress

    length = min(model.config.max_position_embeddings, len(tokens) - 1)
    windows = (len(tokens) - 1) // length
    total = torch.zeros((), dtype=torch.float64, device=ranks.device)
    starts = range(0, windows, cfg.batch_size)
    with Progress("eval", total=len(starts), silent=not ranks.first) as bar, torch.inference_mode():
        for step, first in enumerate(starts):
            if step % ranks.count == ranks.rank:
                last = min(first + cfg.batch_size, windows) * length
                block = torch.from_numpy(tokens[first * length : last + 1]).to(ranks.device)
                inputs, targets = block[:-1].view(-1, length), block[1:].view(-1, length)
                total += model.loss(inputs, targets, torch.ones_like(targets, dtype=torch.float32))
            bar.update(step + 1)
    count = windows * length
    return float(ranks.total(total)) / count, count, tokens[1 : count + 1]


if __name__ == "__main__":
    main()
