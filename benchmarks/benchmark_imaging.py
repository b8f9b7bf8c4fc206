"""Convolutions of medical imaging in 2-D and 3-D: throughput and memory of a small network, depthwise kernels, Dice.

    python benchmarks/benchmark_imaging.py --conv-type 2d --in-ch 32 --depthwise --height 256 --width 256 [--compile]
    python benchmarks/benchmark_imaging.py --depthwise-bench --depthwise-bench-sizes 8x128x128,32x256x256 --batch 8
    python benchmarks/benchmark_imaging.py --seg-dataset seg2d_small

Prints one JSON document: `conv`, the network of three convolutions that the flags describe; `depthwise_bench`, eager
beside the Triton kernel; `acc_check`, the same input twice; `segmentation`, Dice and IoU of a network trained on the
spot (see _segmentation.py). Rows are described in _bench.py. Exits 1 when an output differs beyond tolerance, a case
raises, or Dice or IoU is below its threshold.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import _bench
import _kernel_set
import _repo_path  # noqa: F401

if TYPE_CHECKING:
    import torch

DATASETS = ("seg2d_small",)
LAYERS = 3


def parser() -> argparse.ArgumentParser:
    """The flags."""
    result = _bench.make_parser(__doc__)
    result.add_argument(
        "--conv-type", choices=("2d", "3d"), default="2d", help="convolutions in 2-D or 3-D (%(default)s)"
    )
    result.add_argument("--in-ch", type=_bench.positive, default=8, help="channels of input and layers (%(default)s)")
    result.add_argument("--groups", type=_bench.positive, default=1, help="of every convolution (%(default)s)")
    result.add_argument("--depthwise", action="store_true", help="as many groups as channels; overrides --groups")
    result.add_argument("--kernel-size", type=_bench.positive, default=3, help="odd (%(default)s)")
    result.add_argument("--depth", type=_bench.positive, default=16, help="of 3-D images (%(default)s)")
    result.add_argument("--height", type=_bench.positive, default=128, help="of images (%(default)s)")
    result.add_argument("--width", type=_bench.positive, default=128, help="of images (%(default)s)")
    result.add_argument("--batch", type=_bench.positive, default=1, help="images (%(default)s)")
    result.add_argument("--channels-last", action="store_true", help="also NHWC or NDHWC")
    result.add_argument("--cudnn-benchmark", action="store_true", help="let cuDNN try its algorithms first; GPU only")
    result.add_argument(
        "--no-amp", action="store_true", help="no autocast on CUDA; --dtype is that of the weights then"
    )
    result.add_argument("--compile", action="store_true", help='also torch.compile(mode="max-autotune")')
    result.add_argument("--acc-check", action="store_true", help="also whether two passes over one input agree")
    result.add_argument("--depthwise-bench", action="store_true", help="also depthwise: eager beside the Triton kernel")
    result.add_argument("--depthwise-bench-iters", type=_bench.positive, default=50, help="calls (%(default)s)")
    result.add_argument(
        "--depthwise-bench-sizes", default="", metavar="CxHxW,…", help="cases; without it --in-ch, --height and --width"
    )
    result.add_argument("--seg-dataset", choices=DATASETS, help="also Dice and IoU on this data set")
    _bench.add_common_flags(result, iters=10)
    _bench.add_trace_flags(result)
    return result


def image_shape(arguments: argparse.Namespace) -> tuple[int, ...]:
    """(batch, channels, [depth,] height, width)."""
    size = (arguments.height, arguments.width)
    return (arguments.batch, arguments.in_ch, *((arguments.depth,) if arguments.conv_type == "3d" else ()), *size)


def network(arguments: argparse.Namespace, device: str, dtype: torch.dtype) -> torch.nn.Module:
    """Three convolutions with ReLU between, all as wide as the input."""
    from torch import nn

    from medvllm.errors import MedvllmError

    channels, kernel = arguments.in_ch, arguments.kernel_size
    groups = channels if arguments.depthwise else arguments.groups
    if channels % groups:
        raise MedvllmError(f"--in-ch must be a multiple of --groups, got {channels} and {groups}")
    if kernel % 2 == 0:
        raise MedvllmError(f"--kernel-size must be odd, got {kernel}")
    convolution = nn.Conv2d if arguments.conv_type == "2d" else nn.Conv3d
    layers: list[nn.Module] = []
    for _ in range(LAYERS):
        layers += [convolution(channels, channels, kernel, padding=kernel // 2, groups=groups), nn.ReLU()]
    return nn.Sequential(*layers[:-1]).to(device=device, dtype=dtype).eval()


def conv_case(arguments: argparse.Namespace, device: str) -> tuple[_bench.Case, dict[str, Any]]:
    """The network in each layout and compiler asked for, and how it computes."""
    import torch

    dtype = _bench.torch_dtype(arguments.dtype)
    amp = device == "cuda" and not arguments.no_amp and arguments.dtype != "fp32"
    model = network(arguments, device, torch.float32 if amp else dtype)
    x = torch.randn(image_shape(arguments), device=device).to(dtype)
    layout = torch.channels_last if x.dim() == 4 else torch.channels_last_3d

    def forward(run: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor) -> Callable[[], Any]:
        def call() -> Any:
            with torch.inference_mode(), torch.autocast(device, dtype, enabled=amp):
                return run(images)

        return call

    def last() -> Callable[[], Any]:
        copy = network(arguments, device, torch.float32 if amp else dtype)
        copy.load_state_dict(model.state_dict())
        return forward(copy.to(memory_format=layout), x.contiguous(memory_format=layout))

    def reference() -> torch.Tensor:
        double = network(arguments, device, torch.float64)
        double.load_state_dict(model.state_dict())
        with torch.inference_mode():
            return double(x.double())

    providers: dict[str, Callable[[], Callable[[], Any]]] = {"eager": lambda: forward(model, x)}
    if arguments.channels_last:
        providers["channels_last"] = last
    if arguments.compile:
        providers["inductor"] = lambda: forward(_bench.compiled(model, mode="max-autotune"), x)
    weights = sum(parameter.numel() for parameter in model.parameters())
    groups = arguments.in_ch if arguments.depthwise else arguments.groups
    case = _bench.Case(
        op=f"conv{arguments.conv_type}",
        shape=f"{'x'.join(map(str, x.shape))} k{arguments.kernel_size} g{groups}",
        dtype=arguments.dtype,
        bytes_moved=(2 * LAYERS * x.numel() + weights) * x.element_size(),
        reference=reference,
        providers=providers,
    )
    return case, {"layers": LAYERS, "groups": groups, "amp": amp, "cudnn_benchmark": torch.backends.cudnn.benchmark}


def with_throughput(rows: list[dict[str, Any]], batch: int) -> list[dict[str, Any]]:
    """Each row with images a second, of the median."""
    for row in rows:
        times = row["time_ms"]
        row["images_per_s"] = round(1000 * batch / times["median"], 2) if times else None
    return rows


def acc_check(case: _bench.Case) -> dict[str, Any]:
    """Whether two calls on one input give the same, by provider."""
    section = {}
    for name, prepare in case.providers.items():
        call = prepare()
        first, second = call().float().clone(), call().float()
        section[name] = {"identical": bool(first.equal(second)), "max_difference": float((first - second).abs().max())}
    return section


def depthwise_sizes(arguments: argparse.Namespace) -> list[tuple[int, ...]]:
    """(channels, [depth,] height, width) of each case."""
    if not arguments.depthwise_bench_sizes:
        return [image_shape(arguments)[1:]]
    dimensions = "CxHxW" if arguments.conv_type == "2d" else "CxDxHxW"
    return _bench.sizes("--depthwise-bench-sizes", arguments.depthwise_bench_sizes, dimensions)


def depthwise_cases(arguments: argparse.Namespace, device: str) -> list[_bench.Case]:
    """Eager and the Triton kernel on every size; NHWC and Inductor where asked for."""
    names = ["eager", "fused"]
    if arguments.channels_last:
        names += ["channels_last", "fused_channels_last"]
    if arguments.compile:
        names.append("inductor")
    return [
        _kernel_set.depthwise_case(
            (arguments.batch, *size, arguments.kernel_size), dtype=arguments.dtype, device=device, providers=names
        )
        for size in depthwise_sizes(arguments)
    ]


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """The whole report."""
    import torch

    torch.backends.cudnn.benchmark = arguments.cudnn_benchmark
    device, report = _bench.start("imaging", arguments)
    conv, how = conv_case(arguments, device)
    depthwise = depthwise_cases(arguments, device) if arguments.depthwise_bench else []
    progress = _bench.Progress(sum(len(case.providers) for case in (conv, *depthwise)))
    floor = _bench.Floor.measure(device)
    report["floor"] = floor.to_dict()

    def timed(case: _bench.Case, iters: int) -> list[dict[str, Any]]:
        return _bench.run_case(
            case, floor=floor, device=device, iters=iters, warmup=arguments.warmup, progress=progress
        )

    rows = with_throughput(timed(conv, arguments.iters), arguments.batch)
    report["conv"] = {**how, "cases": rows}
    if arguments.acc_check:
        report["acc_check"] = acc_check(conv)
    if depthwise:
        by_size = [timed(case, arguments.depthwise_bench_iters) for case in depthwise]
        report["depthwise_bench"] = {
            "iters": arguments.depthwise_bench_iters,
            "cases": [
                {"size": "x".join(map(str, size)), **_bench.by_provider(each)}
                for size, each in zip(depthwise_sizes(arguments), by_size, strict=True)
            ],
        }
        rows = rows + [row for each in by_size for row in each]
    report["profile"] = _bench.traced([conv, *depthwise], rows, arguments, device)
    if arguments.seg_dataset:
        import _segmentation

        progress.show("segmentation")
        report["segmentation"] = _segmentation.evaluate(device=device, seed=arguments.seed)
    progress.close()
    return report


if __name__ == "__main__":
    _bench.main(parser, run)
