"""The process that benchmark_ner.py measures: NER over a JSONL file of notes, in this process, as a batch run does it.

    python benchmarks/_ner_worker.py TEXT.jsonl full|fast

On `pass` it processes all notes to JSONL output; on `stages` it times each step over all notes by itself.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import _repo_path  # noqa: F401

from medvllm.tasks import batch


def peak_rss_mib() -> float | None:
    """Peak memory of this process; None where the system doesn't tell. (`ru_maxrss` would count the parent's.)"""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return round(int(line.split()[1]) / 1024, 1)


def run_pass(text: str, options: batch.NEROptions) -> dict[str, Any]:
    """All notes once: read, process, serialise."""
    wall, cpu = time.perf_counter(), time.process_time()
    plan = batch.plan([text])
    results = list(batch.map_local(plan.pieces(), options, plan, "jsonl", workers=1))
    return {
        "wall_s": time.perf_counter() - wall,
        "cpu_s": time.process_time() - cpu,
        "entities": sum(result.entities for result in results),
        "output_bytes": sum(len(result.output.encode()) for result in results),
        "errors": [error for result in results for error in result.errors],
        "peak_rss_mib": peak_rss_mib(),
    }


def run_stages(text: str, options: batch.NEROptions) -> dict[str, float]:
    """CPU seconds of each step of a note's way, each over all notes."""
    from medvllm.tasks.assertion import assert_entities
    from medvllm.tasks.detection import Detector
    from medvllm.tasks.entities import Entity
    from medvllm.tasks.formats.json_format import to_jsonl
    from medvllm.tasks.patterns import recognize

    processor = options.processor()
    detector = Detector(processor.store, mode="fast" if options.fast else "full")
    taken: dict[str, float] = {}
    clock = time.process_time

    begin = clock()
    rows = [json.loads(line) for line in Path(text).read_text(encoding="utf-8").splitlines()]
    taken["read"] = clock() - begin
    notes = [row["text"] for row in rows]

    begin = clock()
    found = [detector.detect(note) for note in notes]
    taken["detect"] = clock() - begin

    begin = clock()
    entities = [
        [Entity(note[m.start : m.end], m.type, m.start, m.end, confidence=m.confidence, term=m.term) for m in mentions]
        for note, mentions in zip(notes, found, strict=True)
    ]
    taken["entities"] = clock() - begin

    if not options.fast:
        begin = clock()
        entities = [recognize(note, some) for note, some in zip(notes, entities, strict=True)]
        taken["patterns"] = clock() - begin

    begin = clock()
    for note, some in zip(notes, entities, strict=True):
        assert_entities(note, some)
    taken["assertion"] = clock() - begin

    for step in ("link, first time", "link"):
        begin = clock()
        for some in entities:
            processor.link_entities(some)
        taken[step] = clock() - begin

    begin = clock()
    for row, some in zip(rows, entities, strict=True):
        to_jsonl(str(row["id"]), some)
    taken["serialise"] = clock() - begin
    return taken


def main() -> None:
    """Loads, says so, and answers requests until the input ends."""
    text, mode = sys.argv[1:]
    from medvllm_kernels import native

    options = batch.NEROptions(fast=mode == "fast")
    begin = time.process_time()
    options.processor().process("Patient with HTN on lisinopril.")
    ready = {"load_cpu_s": round(time.process_time() - begin, 3), "native": native.library() is not None}
    print(json.dumps(ready), flush=True)
    for request in sys.stdin:
        answer = run_stages(text, options) if request.strip() == "stages" else run_pass(text, options)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
