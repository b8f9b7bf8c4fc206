"""The engine's CPU kernels beside torch's operators, with the floor that memory sets, in the same run.

    python benchmarks/benchmark_cpu_kernels.py [--threads 2] [--batches 1,8,32,256] [--output FILE]

Shapes are those of SmolLM2-135M: hidden 576, 9 heads and 3 KV heads of 64, intermediate 1536, vocabulary 49152, 30
layers. `linear` is all linear layers of a step; `attention` one layer; `step` a whole step from embeddings to logits.
Wall and CPU milliseconds are medians; the floor is the bytes of the weights over the read bandwidth measured here.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import _repo_path  # noqa: F401
import _report
from absl import app, flags

FLAGS = flags.FLAGS
flags.DEFINE_integer("threads", 2, "Threads of all providers.", lower_bound=1)
flags.DEFINE_list("batches", ["1", "8", "32", "256"], "Rows of the linear layers; above 32 a prompt of that length.")
flags.DEFINE_list("parts", ["linear", "attention", "step"], "What is measured.")
flags.DEFINE_list("formats", ["fp32", "bf16", "int8", "int4"], "Formats of our weights.")
flags.DEFINE_integer("layers", 30, "Layers of the model.", lower_bound=1)
flags.DEFINE_integer("repeats", 7, "Counted runs of each case, after one that is not counted.", lower_bound=1)
flags.DEFINE_string("output", None, "Also write the JSON to this file.")

HIDDEN, HEADS, KV_HEADS, HEAD_DIM, INTERMEDIATE, VOCABULARY = 576, 9, 3, 64, 1536, 49152
# (outputs, inputs) of a layer: qkv, o, gate and up, down.
LAYER = [
    ((HEADS + 2 * KV_HEADS) * HEAD_DIM, HIDDEN),
    (HIDDEN, HIDDEN),
    (2 * INTERMEDIATE, HIDDEN),
    (HIDDEN, INTERMEDIATE),
]
TORCH_PROVIDERS = ("F.linear fp32", "F.linear bf16", "_weight_int8pack_mm", "_weight_int4pack_mm_for_cpu")
GROUP = 32
CONTEXT, BLOCK = 288, 16


def timed(run: Callable[[], object], repeats: int) -> dict[str, float]:
    """Median wall and CPU milliseconds of the process, and the fastest run."""
    run()
    wall, cpu = [], []
    for _ in range(repeats):
        cpu_start, start = time.process_time(), time.perf_counter()
        run()
        wall.append(1e3 * (time.perf_counter() - start))
        cpu.append(1e3 * (time.process_time() - cpu_start))
    figures = _report.summary(wall)
    return {
        "ms": figures["median"],
        "p90_ms": figures["p90"],
        "min_ms": figures["min"],
        "cpu_ms": _report.summary(cpu)["median"],
    }


def read_bandwidth(threads: int) -> float:
    """GB/s of reading 512 MiB, the best of ten runs: a product with one row of packed fp32 weights."""
    import torch
    from medvllm_kernels import cpu_linear

    packed = cpu_linear.pack(torch.ones(1 << 15, 1 << 12), format="fp32", threads=threads)
    x = torch.ones(1, packed.k)
    run = timed(lambda: cpu_linear.linear(x, packed, threads=threads), 10)
    buffer = torch.ones(1 << 27)
    plain = timed(buffer.sum, 10)
    fastest: float = max(packed.nbytes / run["min_ms"], 4 * buffer.numel() / plain["min_ms"])
    return round(fastest / 1e6, 2)


def torch_layer(provider: str, n: int, k: int) -> tuple[Callable[[Any], object], int]:
    """A linear layer of one of torch's operators, and the bytes of its weight."""
    import torch

    if provider.startswith("F.linear"):
        weight = torch.randn(n, k, dtype=torch.float32 if provider.endswith("fp32") else torch.bfloat16)
        return lambda x: torch.nn.functional.linear(x, weight), weight.numel() * weight.element_size()
    if provider == "_weight_int8pack_mm":
        packed = torch.randint(-127, 127, (n, k), dtype=torch.int8)
        scales = torch.rand(n, dtype=torch.bfloat16)
        return lambda x: torch._weight_int8pack_mm(x, packed, scales), packed.numel()
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(torch.randint(0, 15, (n, k), dtype=torch.int32), 1)
    pairs = torch.rand(k // GROUP, n, 2, dtype=torch.bfloat16)
    size = packed.numel() * packed.element_size() + 2 * pairs.numel()
    return lambda x: torch.ops.aten._weight_int4pack_mm_for_cpu(x, packed, GROUP, pairs), size


def packed_layer(format: str, n: int, k: int) -> tuple[Callable[[Any], object], int]:
    """A linear layer of ours, and the bytes of its weight."""
    import torch
    from medvllm_kernels import cpu_linear

    packed = cpu_linear.pack(torch.randn(n, k), format=format, threads=FLAGS.threads)
    return lambda x: cpu_linear.linear(x, packed, threads=FLAGS.threads), packed.nbytes


def measure_linear(provider: str, bandwidth: float) -> dict[str, Any]:
    """All linear layers of a step with B rows, for each B."""
    import torch

    make = torch_layer if provider in TORCH_PROVIDERS else packed_layer
    dtype = torch.bfloat16 if provider in TORCH_PROVIDERS[1:] else torch.float32
    try:
        layers = [(k, *make(provider, n, k)) for n, k in LAYER * FLAGS.layers + [(VOCABULARY, HIDDEN)]]
    except (RuntimeError, NotImplementedError) as error:
        return {"skipped": str(error).splitlines()[0]}
    weight_bytes = sum(size for _, _, size in layers)
    results: dict[str, Any] = {"weight_mb": round(weight_bytes / 1e6, 1)}
    for batch in map(int, FLAGS.batches):
        inputs = {k: torch.randn(batch, k).to(dtype) for k in {k for _, k in LAYER}}

        def run(inputs: dict[int, Any] = inputs) -> None:
            for k, layer, _ in layers:
                layer(inputs[k])

        figures = timed(run, FLAGS.repeats if batch <= 32 else 3)
        floor = weight_bytes / bandwidth / 1e6
        figures["gb_per_s"] = round(weight_bytes / figures["ms"] / 1e6, 2)
        figures["floor_ms"] = round(floor, 2)
        figures["floor_percent"] = round(100 * floor / figures["ms"], 1)
        results[f"B={batch}"] = figures
    return results


def measure_attention() -> dict[str, Any]:
    """One layer: ours over blocks, and gathered keys with torch's scaled_dot_product_attention."""
    import torch
    from medvllm_kernels import cpu_attention

    results: dict[str, Any] = {}
    for name, batch, context, new in (
        ("decode", 1, CONTEXT, 1),
        ("decode", 32, CONTEXT, 1),
        ("decode", 1, 4096, 1),
        ("prefill", 1, 512, 512),
    ):
        blocks = context // BLOCK
        tables = torch.randperm(batch * blocks, dtype=torch.int32).view(batch, blocks)
        lengths, bounds = torch.full((batch,), context).int(), (torch.arange(batch + 1) * new).int()
        for dtype in (torch.float32, torch.bfloat16):
            caches = torch.randn(2, batch * blocks, BLOCK, KV_HEADS, HEAD_DIM).to(dtype)
            q = torch.randn(batch * new, HEADS, HEAD_DIM)

            def ours(q: Any = q, caches: Any = caches, rest: Any = (tables, lengths, bounds)) -> object:
                arguments = (q, *caches, *rest, HEAD_DIM**-0.5)
                return cpu_attention.paged_attention(*arguments, threads=FLAGS.threads)

            def gathered(q: Any = q, caches: Any = caches, tables: Any = tables, shape: Any = (batch, new)) -> object:
                k, v = (cache[tables.long()].flatten(1, 2).transpose(1, 2).to(cache.dtype) for cache in caches)
                queries = q.view(*shape, HEADS, HEAD_DIM).transpose(1, 2).to(k.dtype)
                return torch.nn.functional.scaled_dot_product_attention(
                    queries, k, v, is_causal=shape[1] > 1, enable_gqa=True
                )

            key = f"{name} B={batch} context={context} {str(dtype)[6:]}"
            results[key] = {"medvllm": timed(ours, 3 * FLAGS.repeats), "gather + SDPA": timed(gathered, FLAGS.repeats)}
    return results


def make_step(format: str, cache_blocks: int) -> Any:
    """A model of random weights."""
    import torch
    from medvllm_kernels import cpu_decoder, cpu_elementwise, cpu_linear

    def pack(n: int, k: int) -> Any:
        return cpu_linear.pack(torch.randn(n, k) * k**-0.5, format=format, threads=FLAGS.threads)

    table = cpu_elementwise.rotary_cos_sin(1e4 ** -(torch.arange(0, HEAD_DIM, 2) / HEAD_DIM), 4096)
    layers = []
    for _ in range(FLAGS.layers):
        qkv, o, gate_up, down = (pack(n, k) for n, k in LAYER)
        caches = torch.zeros(2, cache_blocks, BLOCK, KV_HEADS, HEAD_DIM, dtype=torch.bfloat16)
        norms = torch.ones(2, HIDDEN)
        layers.append(
            cpu_decoder.DecoderLayer(
                qkv=qkv,
                o=o,
                gate_up=gate_up,
                down=down,
                input_norm=norms[0],
                mlp_input_norm=norms[1],
                k_cache=caches[0],
                v_cache=caches[1],
                cos_sin=table,
            )
        )
    config = cpu_decoder.DecoderConfig(
        hidden_size=HIDDEN,
        intermediate_size=INTERMEDIATE,
        num_heads=HEADS,
        num_kv_heads=KV_HEADS,
        head_dim=HEAD_DIM,
        eps=1e-5,
        scale=HEAD_DIM**-0.5,
    )
    return cpu_decoder.DecoderStep(config, layers, torch.ones(HIDDEN)), pack(VOCABULARY, HIDDEN)


def measure_step(format: str, bandwidth: float) -> dict[str, Any]:
    """Embeddings to greedy tokens: fused, and through the single kernels; decoding at B, above 32 a prompt."""
    import torch
    from medvllm_kernels import cpu_decoder, cpu_elementwise, cpu_linear

    step, head = make_step(format, 32 * CONTEXT // BLOCK)
    weight_bytes = head.nbytes + sum(
        w.nbytes for layer in step.layers for w in (layer.qkv, layer.o, layer.gate_up, layer.down)
    )
    results: dict[str, Any] = {}
    for batch in map(int, FLAGS.batches):
        sequences, new = (batch, 1) if batch <= 32 else (1, batch)
        context = CONTEXT if new == 1 else new
        tables = torch.arange(sequences * (-(-context // BLOCK)), dtype=torch.int32).view(sequences, -1)
        slots = (tables[:, :, None] * BLOCK + torch.arange(BLOCK)).view(sequences, -1)[:, context - new : context]
        batch_arguments = (
            torch.arange(context - new, context).repeat(sequences),
            slots.flatten(),
            tables,
            torch.full((sequences,), context).int(),
            (torch.arange(sequences + 1) * new).int(),
        )
        ids = torch.arange(sequences * new) % VOCABULARY

        def run(function: Any, ids: Any = ids, arguments: Any = batch_arguments, new: int = new) -> object:
            hidden = function(cpu_linear.embedding(ids, head), *arguments, threads=FLAGS.threads)
            return cpu_elementwise.greedy(cpu_linear.linear(hidden[new - 1 :: new], head, threads=FLAGS.threads))

        repeats = FLAGS.repeats if batch <= 32 else 3
        fused = timed(functools.partial(run, step), repeats)
        single = timed(functools.partial(run, functools.partial(cpu_decoder.decoder_step_reference, step)), repeats)
        floor = weight_bytes / bandwidth / 1e6
        fused.update(floor_ms=round(floor, 2), floor_percent=round(100 * floor / fused["ms"], 1))
        results[f"B={batch}" if new == 1 else f"prompt of {new}"] = {"fused": fused, "single kernels": single}
    return results


def main(_argv: list[str]) -> None:
    """Measures what --parts names and reports."""
    import torch
    from medvllm_kernels import engine_native

    torch.manual_seed(0)
    torch.set_num_threads(FLAGS.threads)
    bandwidth = read_bandwidth(FLAGS.threads)
    report: dict[str, Any] = {
        "benchmark": "cpu_kernels",
        "machine": _report.machine(),
        "torch": torch.__version__,
        "native": engine_native.instruction_set(),
        "threads": FLAGS.threads,
        "read_gb_per_s": bandwidth,
    }
    with torch.inference_mode():
        if "linear" in FLAGS.parts:
            providers = [*FLAGS.formats, *TORCH_PROVIDERS]
            report["linear"] = {provider: measure_linear(provider, bandwidth) for provider in providers}
        if "attention" in FLAGS.parts:
            report["attention"] = measure_attention()
        if "step" in FLAGS.parts:
            report["step"] = {format: measure_step(format, bandwidth) for format in FLAGS.formats}
    _report.write(report, FLAGS.output)


if __name__ == "__main__":
    app.run(main)
