"""Model-backed NER beside transformers' own pipeline: the same texts, the same batch, the same number format."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import _report

__all__ = ["compare"]

# Number format → how our adapter and torch name it; int8 is ours alone.
FORMATS = {"bf16": "bfloat16", "fp32": "float32", "int8": "int8"}
_WINDOW = 256  # tokens that the pipeline reads at once, special ones included,
_STRIDE = 32  # and those that its neighbouring windows share; ours are as the model's folder says
_ONE_WINDOW = 200  # tokens of a text that both read as a whole

Spans = list[tuple[int, int]]


@dataclass
class _Run:
    """find(texts) → the spans of each; `tokens` and `padded` count what the model was given in all calls so far."""

    find: Callable[[Sequence[str]], list[Spans]] = lambda texts: [[] for _ in texts]
    tokens: int = 0
    padded: int | None = 0  # with the padding; None: not counted
    times_ms: list[float] = field(default_factory=list)


def compare(model: str, texts: Sequence[str], *, batch_size: int, iters: int, device: str) -> dict[str, Any]:
    """Rows of time, throughput and tokens, in turn (ours, theirs, ours, …), and the share of equal entities.

    `times_faster` is by number format; `fastest` sets our default format against their fastest one.
    """
    runs: dict[str, _Run] = {}
    for name, dtype in FORMATS.items():
        if dtype == "int8" and device != "cpu":
            continue
        runs[f"medvllm-{name}"] = _ours(model, dtype, batch_size, device)
        if dtype != "int8":
            runs[f"transformers-{name}"] = _theirs(model, dtype, batch_size, device)
    short = _one_window(model, texts)
    whole = {name: run.find(short) for name, run in runs.items()}  # also a warm-up
    for run in runs.values():
        run.tokens = 0
        run.padded = 0 if run.padded is not None else None
    first = {name: run.find(texts) for name, run in runs.items()}
    read = {name: (run.tokens, run.padded) for name, run in runs.items()}
    for _ in range(iters):
        for run in runs.values():
            began = time.perf_counter()
            run.find(texts)
            run.times_ms.append(1000 * (time.perf_counter() - began))
    rows = [
        {
            "case": "model_ner",
            "provider": name,
            "time_ms": _report.summary(run.times_ms),
            "texts": len(texts),
            "batch_size": batch_size,
            "tokens": read[name][0],
            "padded_tokens": read[name][1],
            "characters_per_s": round(1000 * sum(map(len, texts)) / _median(run)),
            "entities": sum(map(len, first[name])),
        }
        for name, run in runs.items()
    ]
    both = [name for name in FORMATS if f"transformers-{name}" in runs]
    default = "medvllm-fp32" if device == "cpu" else "medvllm-bf16"
    fastest = min((f"transformers-{name}" for name in both), key=lambda name: _median(runs[name]))
    return {
        "rows": rows,
        "times_faster": {
            name: round(_median(runs[f"transformers-{name}"]) / _median(runs[f"medvllm-{name}"]), 2) for name in both
        },
        "fastest": {
            "medvllm": default,
            "transformers": fastest,
            "times_faster": round(_median(runs[fastest]) / _median(runs[default]), 2),
        },
        # Of the entities of either, how many are of both. Windows of long texts begin elsewhere, so that words near
        # their edges are seen in another context; of what both read as a whole, all should be the same at fp32.
        "shared_entities": {name: _shared(first[f"medvllm-{name}"], first[f"transformers-{name}"]) for name in both},
        "shared_entities_one_window": {
            name: _shared(whole[f"medvllm-{name}"], whole[f"transformers-{name}"]) for name in both
        },
    }


def _median(run: _Run) -> float:
    median: float = _report.summary(run.times_ms)["median"]
    return median


def _shared(ours: list[Spans], theirs: list[Spans]) -> float:
    pairs = [(set(a), set(b)) for a, b in zip(ours, theirs, strict=True)]
    either = sum(len(a | b) for a, b in pairs)
    return round(sum(len(a & b) for a, b in pairs) / either, 4) if either else 1.0


def _one_window(model: str, texts: Sequence[str]) -> list[str]:
    """The beginnings of the texts that are no longer than a window."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    encoded = tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    ends = [places[:_ONE_WINDOW][-1][1] if places else 0 for places in encoded]
    return [text[:end] for text, end in zip(texts, ends, strict=True)]


def _ours(model: str, dtype: str, batch_size: int, device: str) -> _Run:
    from medvllm.tasks.model_ner import TokenClassifier

    classifier = TokenClassifier(model, device=device, dtype=dtype, batch_size=batch_size, aggregation="first")
    classifier.decoding = "greedy"  # as the pipeline does
    logits = classifier.model.logits
    run = _Run()

    def counted(sequences: Sequence[Sequence[int]]) -> Any:
        run.tokens += sum(map(len, sequences))
        run.padded = run.tokens if device == "cpu" else None  # on the CPU there is no padding
        return logits(sequences)

    classifier.model.logits = counted  # type: ignore[method-assign]
    run.find = lambda texts: [[(one.start, one.end) for one in found] for found in classifier.spans(texts)]
    return run


def _theirs(model: str, dtype: str, batch_size: int, device: str) -> _Run:
    """The pipeline, which reads what is longer than the model in windows too (`stride`)."""
    import torch
    import transformers

    network = transformers.AutoModelForTokenClassification.from_pretrained(model, dtype=getattr(torch, dtype))
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    tokenizer.model_max_length = min(tokenizer.model_max_length, network.config.max_position_embeddings, _WINDOW)
    pipeline = transformers.pipeline(
        "token-classification",
        model=network,
        tokenizer=tokenizer,
        aggregation_strategy="first",
        stride=_STRIDE,
        device=device,
    )
    run = _Run()

    def count(_network: Any, _given: Any, named: dict[str, Any]) -> None:
        run.tokens += int(named["attention_mask"].sum())
        run.padded = (run.padded or 0) + named["attention_mask"].numel()

    network.register_forward_pre_hook(count, with_kwargs=True)
    run.find = lambda texts: [
        [(one["start"], one["end"]) for one in found] for found in pipeline(list(texts), batch_size=batch_size)
    ]
    return run
