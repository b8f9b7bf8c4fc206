"""Depthwise 3-D convolution, 3 × 3 × 3: eager and channels-last PyTorch beside the Triton kernel, with bias and ReLU.

    MEDVLLM_ENABLE_TRITON_SEP3D=1 python benchmarks/benchmark_separable_conv3d.py [--sizes 32x32x128x128] [--batch 1]

MEDVLLM_SEP3D_BLOCK_W, MEDVLLM_SEP3D_WARPS and MEDVLLM_SEP3D_STAGES fix the kernel's tile for a sweep;
MEDVLLM_SEP3D_FUSE_BIAS=1 and MEDVLLM_SEP3D_FUSE_RELU=1 (or --bias and --relu) fuse what follows. Prints one JSON
document whose cases are described in _bench.py. Exits 1 when an output differs beyond tolerance or a case raises.
"""

from __future__ import annotations

import argparse
from typing import Any

import _bench
import _kernel_set
import _operators
import _repo_path  # noqa: F401

SIZES = {"cpu": "4x8x32x32,8x16x32x32", "cuda": "32x32x128x128,64x32x128x128"}


def parser() -> argparse.ArgumentParser:
    """The flags."""
    result = _bench.make_parser(__doc__)
    result.add_argument("--sizes", metavar="CxDxHxW,…", help="cases; small ones on a CPU by default")
    result.add_argument("--batch", type=_bench.positive, default=1, help="volumes (%(default)s)")
    result.add_argument("--channels-last", action="store_true", help="also NDHWC")
    result.add_argument("--compile", action="store_true", help="also Inductor")
    result.add_argument("--bias", action="store_true", help="add a bias of each channel")
    result.add_argument("--relu", action="store_true", help="ReLU after it")
    _bench.add_common_flags(result, iters=20)
    _bench.add_trace_flags(result)
    return result


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """The whole report."""
    device, report = _bench.start("separable_conv3d", arguments)
    names = ["eager", *(["channels_last"] if arguments.channels_last else [])]
    names += ["inductor"] if arguments.compile else []
    names += ["fused", *(["fused_channels_last"] if arguments.channels_last else [])]
    bias, relu = _kernel_set.epilogue(bias=arguments.bias, relu=arguments.relu)
    operator = _kernel_set.separable_conv3d(bias=bias, relu=relu)
    cases = [
        _operators.case(operator, (arguments.batch, *size, 3), dtype=arguments.dtype, device=device, providers=names)
        for size in _bench.sizes("--sizes", arguments.sizes or SIZES[device], "CxDxHxW")
    ]
    progress = _bench.Progress(sum(len(case.providers) for case in cases))
    floor = _bench.Floor.measure(device)
    by_size = [
        _bench.run_case(
            case, floor=floor, device=device, iters=arguments.iters, warmup=arguments.warmup, progress=progress
        )
        for case in cases
    ]
    progress.close()
    report |= {"floor": floor.to_dict(), "bias": bias, "relu": relu}
    report["cases"] = [
        {"size": case.shape, **_bench.by_provider(each)} for case, each in zip(cases, by_size, strict=True)
    ]
    report["profile"] = _bench.traced(cases, [row for each in by_size for row in each], arguments, device)
    return report


if __name__ == "__main__":
    _bench.main(parser, run)
