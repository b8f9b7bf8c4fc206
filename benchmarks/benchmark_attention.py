"""Attention as the engine can compute it: manual, PyTorch SDPA, FlashAttention; and softmax×V on its own.

    python benchmarks/benchmark_attention.py --seq 512 --heads 8 --dim 64 [--batch 1] [--causal] [--compile]
    python benchmarks/benchmark_attention.py … --attn-softmaxv-bench [--enable-triton-softmaxv]

Prints one JSON document: `attention` with a row for each way to compute it, `chosen` with what the engine would take
here and why, and `attn_softmaxv_bench` on request. Rows are described in _bench.py. softmax×V reads the whole matrix
of scores, which SDPA and FlashAttention never make, so it cannot be faster than they are. Exits 1 when an output
differs beyond tolerance or a case raises.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import _bench
import _kernel_set  # noqa: F401 - fills the registry
import _operators
import _repo_path  # noqa: F401

if TYPE_CHECKING:
    import torch


def parser() -> argparse.ArgumentParser:
    """The flags."""
    result = _bench.make_parser(__doc__)
    result.add_argument("--seq", type=_bench.positive, default=512, help="tokens of a sequence (%(default)s)")
    result.add_argument("--heads", type=_bench.positive, default=8, help="query heads (%(default)s)")
    result.add_argument("--kv-heads", type=_bench.positive, help="key and value heads (as many as --heads)")
    result.add_argument("--dim", type=_bench.positive, default=64, help="width of a head (%(default)s)")
    result.add_argument("--batch", type=_bench.positive, default=1, help="sequences (%(default)s)")
    result.add_argument("--causal", action="store_true", help="a token sees itself and those before it")
    result.add_argument("--compile", action="store_true", help="also Inductor on the manual one")
    result.add_argument("--attn-softmaxv-bench", action="store_true", help="also softmax×V, eager and Triton")
    result.add_argument(
        "--enable-triton-softmaxv",
        action="store_true",
        help="set MEDVLLM_ENABLE_TRITON_SOFTMAXV=1 for this run",
    )
    _bench.add_common_flags(result, iters=20)
    _bench.add_trace_flags(result)
    return result


def manual(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool) -> torch.Tensor:
    """softmax(q · kᵀ / √dim) · v with the scores in memory; all (B, H, S, D)."""
    import torch

    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5  # (B, H, S, S)
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
        scores = scores.masked_fill(~mask, float("-inf"))
    return torch.softmax(scores, dim=-1) @ v


def attention_case(arguments: argparse.Namespace, device: str) -> _bench.Case:
    """Every way to compute attention on the shape asked for."""
    import torch
    import torch.nn.functional as F

    from medvllm.errors import MedvllmError

    kv_heads = arguments.kv_heads or arguments.heads
    if arguments.heads % kv_heads:
        raise MedvllmError(f"--heads must be a multiple of --kv-heads, got {arguments.heads} and {kv_heads}")
    dtype, causal = _bench.torch_dtype(arguments.dtype), arguments.causal
    shape = (arguments.batch, arguments.seq, arguments.dim)
    q, k, v = (
        torch.randn(shape[0], heads, *shape[1:], device=device).to(dtype)
        for heads in (arguments.heads, kv_heads, kv_heads)
    )
    wide_k, wide_v = (torch.repeat_interleave(tensor, arguments.heads // kv_heads, dim=1) for tensor in (k, v))

    def inductor() -> Callable[[], Any]:
        function = _bench.compiled(lambda *tensors: manual(*tensors, causal=causal))
        return lambda: function(q, wide_k, wide_v)

    providers: dict[str, Callable[[], Callable[[], Any]]] = {
        "manual": lambda: lambda: manual(q, wide_k, wide_v, causal=causal),
        "sdpa": lambda: lambda: F.scaled_dot_product_attention(q, wide_k, wide_v, is_causal=causal),
        "flash": lambda: flash(q, k, v, device=device, causal=causal),
    }
    if arguments.compile:
        providers["inductor"] = inductor
    return _bench.Case(
        op="attention",
        shape=f"{shape[0]}x{arguments.heads}x{shape[1]}x{shape[2]} kv{kv_heads}{' causal' if causal else ''}",
        dtype=arguments.dtype,
        bytes_moved=(2 * q.numel() + k.numel() + v.numel()) * q.element_size(),
        reference=lambda: manual(q.double(), wide_k.double(), wide_v.double(), causal=causal),
        providers=providers,
    )


def flash(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, device: str, causal: bool) -> Callable[[], Any]:
    """The flash-attn package, which wants (B, S, H, D)."""
    from medvllm.layers.attention import choose_backend, flash_unavailable

    choice = choose_backend("flash", flash_attention=None, device=device, dtype=q.dtype)
    if choice.backend != "flash":
        raise _bench.Unavailable(flash_unavailable() or choice.reason)
    from flash_attn import flash_attn_func

    q, k, v = (tensor.transpose(1, 2).contiguous() for tensor in (q, k, v))
    return lambda: flash_attn_func(q, k, v, causal=causal).transpose(1, 2)


def chosen(arguments: argparse.Namespace, device: str) -> dict[str, Any]:
    """What the engine's attention layer would take here; its fallbacks are warned of on stderr."""
    from medvllm.layers.attention import choose_backend

    choice = choose_backend("auto", flash_attention=None, device=device, dtype=_bench.torch_dtype(arguments.dtype))
    for message in choice.warnings:
        print(f"warning: {message}", file=sys.stderr)
    return {"backend": choice.backend, "kernel": choice.kernel, "reason": choice.reason}


def softmaxv_case(arguments: argparse.Namespace, device: str) -> _bench.Case:
    """softmax×V on a square of scores: eager, the Triton kernel, and Inductor where asked for."""
    names = ["eager", "fused", *(["inductor"] if arguments.compile else [])]
    shape = (arguments.batch, arguments.heads, arguments.seq, arguments.seq, arguments.dim)
    operator = _operators.OPERATORS["softmaxv"]
    return _operators.case(operator, shape, dtype=arguments.dtype, device=device, providers=names)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """The whole report."""
    if arguments.enable_triton_softmaxv:
        os.environ["MEDVLLM_ENABLE_TRITON_SOFTMAXV"] = "1"
    device, report = _bench.start("attention", arguments)
    cases = [attention_case(arguments, device)]
    if arguments.attn_softmaxv_bench:
        cases.append(softmaxv_case(arguments, device))
    progress = _bench.Progress(sum(len(case.providers) for case in cases))
    floor = _bench.Floor.measure(device)
    rows = [
        _bench.run_case(
            case, floor=floor, device=device, iters=arguments.iters, warmup=arguments.warmup, progress=progress
        )
        for case in cases
    ]
    progress.close()
    report |= {"floor": floor.to_dict(), "chosen": chosen(arguments, device), "attention": rows[0]}
    if arguments.attn_softmaxv_bench:
        report["attn_softmaxv_bench"] = _bench.by_provider(rows[1])
    report["profile"] = _bench.traced(cases, [row for each in rows for row in each], arguments, device)
    return report


if __name__ == "__main__":
    _bench.main(parser, run)
