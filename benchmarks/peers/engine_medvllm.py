"""Med vLLM's own engine, as benchmark_engine.py measures it: see _engine_protocol.py."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

from _engine_protocol import peak_rss_mib, serve, settings, timed_batch, timed_single

from medvllm.llm import LLM
from medvllm.sampling_params import SamplingParams

given = settings()
began = time.perf_counter()
llm = LLM(
    given["model"],
    dtype=given["dtype"],
    quantization=given["quantization"],
    threads=given["threads"],
    kv_cache_bytes=given["kv_cache_bytes"],
    max_model_len=given["max_model_len"],
    deterministic=given.get("deterministic", False),
    enable_prefix_caching=False,  # every pass would find its prompts there
)
load_s = time.perf_counter() - began
params = SamplingParams(temperature=0, max_tokens=given["new_tokens"], ignore_eos=True)


def batch() -> dict[str, Any]:
    """All prompts at once."""
    return timed_batch(lambda: sum(len(one.outputs[0].token_ids) for one in llm.generate(given["batch"], params)))


def single() -> dict[str, Any]:
    """One prompt alone."""

    def stream() -> Iterator[int]:
        for output in llm.stream(given["single"], params):
            yield len(output.outputs[0].token_ids)

    return timed_single(stream)


def quality() -> dict[str, Any]:
    """Log-probability of each token of the texts and the likeliest token in its place."""
    asked = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=1)
    logprobs: list[float] = []
    likeliest: list[int] = []
    for text in given["texts"]:
        (output,) = llm.generate([text], asked)
        for token, entries in zip(text[1:], (output.prompt_logprobs or [])[1:], strict=True):
            assert entries is not None
            logprobs.append(entries[token].logprob)
            likeliest.append(min(entries, key=lambda known: entries[known].rank))
    perplexity = math.exp(-sum(logprobs) / len(logprobs))
    return {"perplexity": perplexity, "tokens": len(logprobs), "likeliest": likeliest, "peak_rss_mib": peak_rss_mib()}


def stats() -> dict[str, Any]:
    """Time outside the model since the last time this was asked."""
    found = llm.stats()
    llm.reset_stats()
    return {
        "steps": found.steps,
        "step_s": found.step_s,
        "model_s": found.model_s,
        "overhead_share": found.overhead_share,
    }


now = llm.stats()
ready = {
    "load_s": round(load_s, 1),
    "weight_bytes": now.weight_bytes,
    "dtype": now.dtype,
    "activation_dtype": now.activation_dtype,
    "quantization": now.quantization,
    "attention": now.attention_kernel,
    "linear": now.linear_kernel.split("(")[0].strip(),
    "threads": now.threads,
    "kv_cache_bytes": now.kv_cache_bytes,
}
serve(ready, batch=batch, single=single, quality=quality, stats=stats)
