"""The medical tasks: speed and memory of the adapters, NER scores, scores of classification.

    python benchmarks/benchmark_medical.py [--ner NOTES.jsonl] [--csv ROWS.csv] [--jsonl ROWS.jsonl …]
    python benchmarks/benchmark_medical.py --model MODEL [--max-tokens 32]
    python benchmarks/benchmark_medical.py --ner-model FOLDER [--ner-batch 16]
    python benchmarks/benchmark_medical.py --hub-dataset NAME [--hub-text-field text] [--hub-label-field label]

Prints one JSON document: `adapters`, latency, throughput and memory of the NER processor and, with --model, of text
generation; with --ner-model `model_ner`, a token-classification model through our adapter and through transformers'
pipeline in turn; `ner`, exact and overlap scores of the processor; `classification`, by file. Without --ner the notes
are the tests' fixture, or the sample beside this program where there are no tests. The samples are made up: no
patient's text. Numbers on so few rows tell whether things work, not how good they are.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import _bench
import _repo_path  # noqa: F401
import _report

HERE = Path(__file__).parent
FIXTURE = HERE.parent / "tests" / "benchmarks" / "fixtures" / "ner.jsonl"
DATASETS = HERE / "datasets"
NER_SAMPLE = DATASETS / "i2b2_ner_sample.jsonl"
CSV_SAMPLE = DATASETS / "urgency_sample.csv"
JSONL_SAMPLES = (DATASETS / "pubmed_sample.jsonl", DATASETS / "mimic_notes_sample.jsonl")


def parser() -> argparse.ArgumentParser:
    """The flags."""
    result = _bench.make_parser(__doc__)
    result.add_argument("--ner", metavar="FILE", help='JSONL of {"text", "entities": [{"start", "end", "type"}]}')
    result.add_argument("--fast", action="store_true", help="the NER processor without its model and patterns")
    result.add_argument("--csv", metavar="FILE", help="classification: text,label (the sample beside this program)")
    result.add_argument("--jsonl", metavar="FILE", action="append", help="classification rows; may be repeated")
    result.add_argument("--hub-dataset", metavar="NAME", help="also a slice of this data set of the hub")
    result.add_argument("--hub-config", metavar="NAME", help="its configuration")
    result.add_argument("--hub-split", default="test", help="(%(default)s)")
    result.add_argument("--hub-rows", type=_bench.positive, default=100, help="(%(default)s)")
    result.add_argument("--hub-text-field", default="text", help="(%(default)s)")
    result.add_argument("--hub-label-field", default="label", help="(%(default)s)")
    result.add_argument("--model", help="also text generation with this model")
    result.add_argument("--max-tokens", type=_bench.positive, default=32, help="new tokens a prompt (%(default)s)")
    result.add_argument(
        "--ner-model", metavar="FOLDER", help="also this token-classification model, beside transformers"
    )
    result.add_argument("--ner-batch", type=_bench.positive, default=16, help="its windows at once (%(default)s)")
    _bench.add_common_flags(result, iters=5)
    _bench.add_trace_flags(result)
    return result


def ner_texts(arguments: argparse.Namespace) -> tuple[str, list[Any]]:
    """The name of the file and its annotated texts."""
    from medvllm.errors import MedvllmError
    from medvllm.utils.ner_metrics import read_annotated

    path = Path(arguments.ner) if arguments.ner else FIXTURE if FIXTURE.is_file() else NER_SAMPLE
    texts = read_annotated(path)
    if not texts:
        raise MedvllmError(f"--ner {path} holds no text")
    return path.name, texts


def ner_adapter(processor: Any, texts: list[str], arguments: argparse.Namespace) -> dict[str, Any]:
    """Latency of each text, and throughput of `iters` passes over all."""
    from medvllm.utils.profiler import get_profiler

    for _ in range(max(1, arguments.warmup)):
        for text in texts:
            processor.process(text)
    times = []
    for _ in range(arguments.iters):
        for text in texts:
            began = time.perf_counter_ns()
            processor.process(text)
            times.append((time.perf_counter_ns() - began) / 1e6)
    profiler = get_profiler("cpu", emit_trace=arguments.emit_trace, trace_dir=arguments.trace_dir)
    with profiler.profile():
        found = sum(len(processor.process(text)) for text in texts)
    total_s = sum(times) / 1000
    return {
        "case": "ner_processor",
        "provider": "fast" if arguments.fast else "full",
        "time_ms": _report.summary(times),
        "texts_per_s": round(len(times) / total_s, 1),
        "characters_per_s": round(arguments.iters * sum(map(len, texts)) / total_s),
        "entities": found,
        "memory": profiler.results["memory"],
        "trace_path": profiler.results["trace_path"],
    }


def ner_scores(processor: Any, texts: list[Any]) -> dict[str, Any]:
    """Scores of the processor on the types that the file annotates."""
    from medvllm.utils.ner_metrics import ner_metrics

    types = {span[2] for text in texts for span in text.spans}
    found = [
        [(entity.start, entity.end, entity.type) for entity in processor.process(text.text) if entity.type in types]
        for text in texts
    ]
    return {"types": sorted(types), **ner_metrics([text.spans for text in texts], found)}


def generation_adapter(arguments: argparse.Namespace, prompts: list[str]) -> dict[str, Any]:
    """Latency of one prompt after another, throughput of all at once, and memory; greedy."""
    from medvllm.llm import LLM
    from medvllm.sampling_params import SamplingParams
    from medvllm.utils.profiler import get_profiler

    began = time.perf_counter()
    model = LLM(arguments.model, device=arguments.device, dtype=_bench.DTYPES[arguments.dtype], seed=arguments.seed)
    load_s = time.perf_counter() - began
    sampling = SamplingParams(temperature=0.0, max_tokens=arguments.max_tokens)
    model.generate(prompts[:1], sampling, use_tqdm=False)
    times = []
    for number in range(arguments.iters):
        began = time.perf_counter()
        model.generate([prompts[number % len(prompts)]], sampling, use_tqdm=False)
        times.append(1000 * (time.perf_counter() - began))
    profiler = get_profiler(arguments.device, emit_trace=arguments.emit_trace, trace_dir=arguments.trace_dir)
    began = time.perf_counter()
    outputs = model.generate(prompts, sampling, use_tqdm=False)
    batch_s = time.perf_counter() - began
    with profiler.profile():
        model.generate(prompts[:1], sampling, use_tqdm=False)
    tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
    return {
        "case": "text_generation",
        "provider": "medvllm",
        "model": Path(arguments.model).name,
        "load_s": round(load_s, 3),
        "time_ms": _report.summary(times),
        "prompts": len(prompts),
        "new_tokens": tokens,
        "tokens_per_s": round(tokens / batch_s, 1),
        "memory": profiler.results["memory"],
        "trace_path": profiler.results["trace_path"],
    }


def classification(arguments: argparse.Namespace) -> dict[str, Any]:
    """Scores by file, and of the hub's slice where asked for."""
    import _classification

    csv_file = Path(arguments.csv) if arguments.csv else CSV_SAMPLE
    files = [Path(name) for name in arguments.jsonl] if arguments.jsonl else list(JSONL_SAMPLES)
    result = {csv_file.name: _classification.evaluate(_classification.read_csv(csv_file))}
    for file in files:
        result[file.name] = _classification.evaluate(_classification.read_jsonl(file))
    if arguments.hub_dataset:
        rows = _classification.read_hub(
            arguments.hub_dataset,
            config=arguments.hub_config,
            split=arguments.hub_split,
            rows=arguments.hub_rows,
            text=arguments.hub_text_field,
            label=arguments.hub_label_field,
        )
        result[arguments.hub_dataset] = _classification.evaluate(rows)
    return result


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """The whole report."""
    from medvllm.tasks import NERProcessor

    _device, report = _bench.start("medical", arguments)
    scores = classification(arguments)
    name, texts = ner_texts(arguments)
    progress = _bench.Progress(2 + bool(arguments.model) + bool(arguments.ner_model))
    progress.show("NER processor")
    began = time.perf_counter()
    processor = NERProcessor(fast=arguments.fast)
    load_s = time.perf_counter() - began
    only_text = [text.text for text in texts]
    adapters = [{**ner_adapter(processor, only_text, arguments), "load_s": round(load_s, 3)}]
    progress.show("NER scores")
    report["ner"] = {"file": name, **ner_scores(processor, texts)}
    if arguments.model:
        progress.show("text generation")
        adapters.append(generation_adapter(arguments, only_text))
    if arguments.ner_model:
        import _model_ner

        progress.show("model-backed NER")
        report["model_ner"] = _model_ner.compare(
            arguments.ner_model,
            only_text,
            batch_size=arguments.ner_batch,
            iters=arguments.iters,
            device="cpu" if arguments.device == "auto" else arguments.device,
        )
    progress.close()
    return report | {"adapters": adapters, "classification": scores}


if __name__ == "__main__":
    _bench.main(parser, run)
