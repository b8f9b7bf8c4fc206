"""llama.cpp through xllamacpp, as benchmark_engine.py measures it: see _engine_protocol.py."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import xllamacpp  # type: ignore[import-not-found]
from _engine_protocol import serve, settings, timed_batch, timed_single

given = settings()
began = time.perf_counter()
params = xllamacpp.CommonParams()
params.model.path = given["gguf"]
params.n_parallel = len(given["batch"])
params.n_ctx = len(given["batch"]) * (max(len(prompt) for prompt in given["batch"]) + given["new_tokens"] + 16)
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = given["threads"]
params.cache_prompt = False
params.ui = False
params.port = 0
server = xllamacpp.Server(params)
load_s = time.perf_counter() - began


def request(prompt: list[int], *, stream: bool) -> dict[str, Any]:
    """The body of a completion request."""
    return {
        "prompt": prompt,
        "max_tokens": given["new_tokens"],
        "temperature": 0,
        "ignore_eos": True,
        "cache_prompt": False,
        "stream": stream,
    }


def batch() -> dict[str, Any]:
    """All prompts at once, a thread each."""

    def run() -> int:
        found: list[int] = []

        def one(prompt: list[int]) -> None:
            found.append(server.handle_completions(request(prompt, stream=False))["usage"]["completion_tokens"])

        threads = [threading.Thread(target=one, args=(prompt,)) for prompt in given["batch"]]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(found)

    return timed_batch(run)


def single() -> dict[str, Any]:
    """One prompt alone; pieces without text, which end a stream, are no tokens."""

    def stream() -> Iterator[int]:
        pieces: SimpleQueue[dict[str, Any] | None] = SimpleQueue()

        def run() -> None:
            server.handle_completions(request(given["single"], stream=True), pieces.put)
            pieces.put(None)

        threading.Thread(target=run, daemon=True).start()
        count = 0
        while (piece := pieces.get()) is not None:
            if piece["choices"][0]["finish_reason"] is None:
                count += 1
                yield count

    return timed_single(stream)


ready = {
    "load_s": round(load_s, 1),
    "weight_bytes": Path(given["gguf"]).stat().st_size,
    "dtype": Path(given["gguf"]).stem.rsplit(".", 1)[-1],
    "threads": given["threads"],
    "versions": {"xllamacpp": version("xllamacpp")},
    "system": xllamacpp.get_system_info(),
}
serve(ready, batch=batch, single=single)
