"""transformers, as benchmark_engine.py measures it: see _engine_protocol.py.

`mode` of the settings is `static`, one left-padded batch through `generate`, or `continuous`, `generate_batch`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import torch
from _engine_protocol import serve, settings, timed_batch, timed_single
from transformers import AutoModelForCausalLM, GenerationConfig

given = settings()
torch.set_num_threads(given["threads"])
began = time.perf_counter()
dtype = getattr(torch, given["dtype"])
attention = "sdpa" if given["mode"] == "static" else "sdpa_paged"
model = AutoModelForCausalLM.from_pretrained(given["folder"], dtype=dtype, attn_implementation=attention).eval()
load_s = time.perf_counter() - began
count = given["new_tokens"]
greedy: dict[str, Any] = {"do_sample": False, "max_new_tokens": count, "eos_token_id": None, "pad_token_id": 0}
model.generation_config.eos_token_id = None


def batch() -> dict[str, Any]:
    """All prompts at once."""
    return timed_batch(static if given["mode"] == "static" else continuous)


def static() -> int:
    """One batch, padded on the left to the longest prompt."""
    longest = max(len(prompt) for prompt in given["batch"])
    ids = torch.zeros(len(given["batch"]), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(given["batch"]):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    with torch.inference_mode():
        found = model.generate(ids, attention_mask=mask, **greedy)
    return int(found[:, longest:].numel())


def continuous() -> int:
    """Continuous batching over a paged cache."""
    config = GenerationConfig(do_sample=False, max_new_tokens=count, eos_token_id=-1, pad_token_id=0)
    with torch.inference_mode():
        found = model.generate_batch(inputs=given["batch"], generation_config=config, progress_bar=False)
    return sum(len(output.generated_tokens) for output in found.values())


class Counter:
    """A streamer that counts: `put` gets the prompt first, then each new token."""

    def __init__(self) -> None:
        self.counts: list[tuple[float, int]] = []

    def put(self, value: torch.Tensor) -> None:
        """Notes the time of a token."""
        self.counts.append((time.perf_counter(), value.numel()))

    def end(self) -> None:
        """Nothing to do."""


def single() -> dict[str, Any]:
    """One prompt alone."""
    counter = Counter()
    start: list[float] = []

    def stream() -> Iterator[int]:
        ids = torch.tensor([given["single"]])
        start.append(time.perf_counter())
        with torch.inference_mode():
            model.generate(ids, attention_mask=torch.ones_like(ids), streamer=counter, **greedy)
        yield count

    answer = timed_single(stream)
    times = [at - start[0] for at, _ in counter.counts[1:]]
    answer["ttft_ms"] = 1000 * times[0]
    answer["inter_token_ms"] = 1000 * (times[-1] - times[0]) / (len(times) - 1)
    return answer


ready = {
    "load_s": round(load_s, 1),
    "weight_bytes": sum(weight.numel() * weight.element_size() for weight in model.parameters()),
    "dtype": given["dtype"],
    "threads": torch.get_num_threads(),
    "versions": {name: version(name) for name in ("transformers", "torch")},
}
serve(ready, batch=batch, single=single)
