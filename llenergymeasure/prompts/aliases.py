"""The data sets that have a short name."""

from __future__ import annotations

import dataclasses

__all__ = ["ALIASES", "BUILTIN", "DEFAULT", "Alias"]

BUILTIN = "builtin"
DEFAULT = "ai-energy-score"


@dataclasses.dataclass(frozen=True, slots=True)
class Alias:
    """Where a data set lies on the hub, and which part of it holds the prompts."""

    path: str
    column: str
    subset: str | None = None
    split: str = "train"
    file: str | None = None  # of a repository that holds other files too
    source: str = ""  # as `lem datasets` shows it
    notes: str = ""


ALIASES = {
    "ai-energy-score": Alias(
        "AIEnergyScore/text_generation",
        "text",
        source="AIEnergyScore/text_generation",
        notes="Default when no --dataset specified",
    ),
    "alpaca": Alias("tatsu-lab/alpaca", "instruction", source="tatsu-lab/alpaca"),
    "sharegpt": Alias(
        "anon8231489123/ShareGPT_Vicuna_unfiltered",
        "conversations",
        file="ShareGPT_V3_unfiltered_cleaned_split.json",
        source="ShareGPT_Vicuna",
        notes="First human turn",
    ),
    "gsm8k": Alias("openai/gsm8k", "question", subset="main", source="gsm8k (main)"),
    "mmlu": Alias("cais/mmlu", "question", subset="all", split="test", source="cais/mmlu (all)", notes="Split test"),
    BUILTIN: Alias("", "prompt", source="shipped with lem", notes="100 prompts, no download"),
}
