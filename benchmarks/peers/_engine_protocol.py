"""What every process measured by benchmark_engine.py does alike, whatever its interpreter: standard library only.

It gets a JSON file: `batch` and `single` (prompts as token ids), `new_tokens`, `threads`, `dtype`, `model` and more. It
loads, prints one line of JSON, and answers each line of standard input with one: `batch` runs all prompts at once,
`single` one prompt alone, whose tokens are timed as they come.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

# Nothing but answers goes to standard output, whatever the libraries print there.
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)


def settings() -> dict[str, Any]:
    """The JSON file that the first argument names."""
    found: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    return found


def peak_rss_mib() -> float | None:
    """Peak memory of this process; None where the system doesn't tell. (`ru_maxrss` would count the parent's.)"""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return round(int(line.split()[1]) / 1024, 1)


def timed_batch(run: Callable[[], int]) -> dict[str, Any]:
    """`run` returns the number of new tokens."""
    wall, cpu = time.perf_counter(), time.process_time()
    tokens = run()
    wall_s, cpu_s = time.perf_counter() - wall, time.process_time() - cpu
    return {"wall_s": wall_s, "cpu_s": cpu_s, "tokens": tokens, "peak_rss_mib": peak_rss_mib()}


def timed_single(stream: Callable[[], Iterable[int]]) -> dict[str, Any]:
    """`stream` yields the number of new tokens so far each time that it grows."""
    wall, cpu = time.perf_counter(), time.process_time()
    times: list[float] = []
    tokens = 0
    for count in stream():
        now = time.perf_counter() - wall
        times += [now] * (count - tokens)
        tokens = count
    wall_s, cpu_s = time.perf_counter() - wall, time.process_time() - cpu
    if tokens < 2:
        raise SystemExit(f"expected at least 2 new tokens, got {tokens}")
    return {
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "tokens": tokens,
        "ttft_ms": 1000 * times[0],
        "inter_token_ms": 1000 * (times[-1] - times[0]) / (tokens - 1),
        "peak_rss_mib": peak_rss_mib(),
    }


def serve(ready: dict[str, Any], **requests: Callable[[], dict[str, Any]]) -> None:
    """Says what was loaded, and answers each request by its name until the input ends."""
    print(json.dumps(ready), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(requests[line.strip()]()), file=answers, flush=True)
