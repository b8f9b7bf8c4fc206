"""Model-backed NER beside transformers' own pipeline: the same texts, the same batch, the same number format."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import _report

__all__ = ["compare"]

# Number format → how our adapter and torch name it; int8 is ours alone.
FORMATS = {"bf16": "bfloat16", "fp32": "float32", "int8": "int8"}


def compare(model: str, texts: Sequence[str], *, batch_size: int, iters: int, device: str) -> dict[str, Any]:
    """Rows of time and throughput, in turn (ours, theirs, ours, …), and which share of the entities is the same."""
    runs: dict[str, Callable[[], Any]] = {}
    for name, dtype in FORMATS.items():
        if dtype == "int8" and device != "cpu":
            continue
        runs[f"medvllm-{name}"] = _ours(model, texts, dtype, batch_size, device)
        if dtype != "int8":
            runs[f"transformers-{name}"] = _theirs(model, texts, dtype, batch_size, device)
    first = {name: run() for name, run in runs.items()}  # also the warm-up
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(iters):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            times[name].append(1000 * (time.perf_counter() - began))
    rows: list[dict[str, Any]] = []
    for name, ms in times.items():
        summary = _report.summary(ms)
        rows.append(
            {
                "case": "model_ner",
                "provider": name,
                "time_ms": summary,
                "texts": len(texts),
                "batch_size": batch_size,
                "characters_per_s": round(1000 * sum(map(len, texts)) / summary["median"]),
                "entities": sum(map(len, first[name])),
            }
        )
    median = {row["provider"]: row["time_ms"]["median"] for row in rows}
    return {
        "rows": rows,
        "times_faster": {
            name: round(median[f"transformers-{name}"] / median[f"medvllm-{name}"], 2) for name in ("bf16", "fp32")
        },
        # Of the entities of either, how many are of both; windows of long texts differ in what is around a word.
        "shared_entities": {
            name: _shared(first[f"medvllm-{name}"], first[f"transformers-{name}"]) for name in ("bf16", "fp32")
        },
    }


def _shared(ours: list[Any], theirs: list[Any]) -> float:
    pairs = [(set(a), set(b)) for a, b in zip(ours, theirs, strict=True)]
    either = sum(len(a | b) for a, b in pairs)
    return round(sum(len(a & b) for a, b in pairs) / either, 4) if either else 1.0


def _ours(model: str, texts: Sequence[str], dtype: str, batch_size: int, device: str) -> Callable[[], Any]:
    from medvllm.tasks.model_ner import TokenClassifier

    classifier = TokenClassifier(model, device=device, dtype=dtype, batch_size=batch_size, aggregation="first")
    classifier.decoding = "greedy"  # as the pipeline does

    def run() -> list[list[tuple[int, int]]]:
        return [[(one.start, one.end) for one in found] for found in classifier.spans(texts)]

    return run


def _theirs(model: str, texts: Sequence[str], dtype: str, batch_size: int, device: str) -> Callable[[], Any]:
    """The pipeline, which reads what is longer than the model in windows too (`stride`)."""
    import torch
    import transformers

    network = transformers.AutoModelForTokenClassification.from_pretrained(model, dtype=getattr(torch, dtype))
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    tokenizer.model_max_length = min(tokenizer.model_max_length, network.config.max_position_embeddings, 256)
    pipeline = transformers.pipeline(
        "token-classification",
        model=network,
        tokenizer=tokenizer,
        aggregation_strategy="first",
        stride=32,
        device=device,
    )

    def run() -> list[list[tuple[int, int]]]:
        return [[(one["start"], one["end"]) for one in found] for found in pipeline(list(texts), batch_size=batch_size)]

    return run
