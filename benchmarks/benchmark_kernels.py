"""Time, error and share of the floor of every kernel, beside eager PyTorch, Inductor and channels-last.

    python benchmarks/benchmark_kernels.py [--op NAME,…] [--provider NAME,…] [--shape 8x32x256x256x3] [--csv FILE]
    python benchmarks/benchmark_kernels.py --list

Prints one JSON document; its rows are described in _bench.py, the operators are in _kernel_set.py. Exits 1 when an
output differs beyond tolerance or a case raises.
"""

from __future__ import annotations

import argparse
import csv
import io
from pathlib import Path
from typing import Any

import _bench
import _kernel_set  # noqa: F401 - fills the registry
import _operators
import _repo_path  # noqa: F401

COLUMNS = ("op", "shape", "dtype", "provider", "median_ms", "p90_ms", "n", "bytes_moved", "floor_ms")
MORE_COLUMNS = ("percent_of_floor", "max_error", "ok", "backend", "reason", "skipped", "error")


def parser() -> argparse.ArgumentParser:
    """The flags."""
    result = _bench.make_parser(__doc__)
    result.add_argument("--op", default="all", help="operators, separated by commas (%(default)s)")
    result.add_argument("--provider", default="all", help="providers, separated by commas (all but inductor)")
    result.add_argument("--shape", metavar="AxBx…", help="instead of the default shapes; for one --op, see --list")
    result.add_argument("--compile", action="store_true", help="also Inductor; a minute of compiling on a CPU")
    result.add_argument("--list", action="store_true", help="print the operators, their shapes and providers, and stop")
    result.add_argument("--csv", metavar="FILE", help="also write the rows as CSV")
    result.add_argument("--json", dest="out", metavar="FILE", help="the same as --out")
    _bench.add_common_flags(result, iters=30)
    return result


def operators(arguments: argparse.Namespace) -> list[_operators.Operator]:
    """Those asked for."""
    return [_operators.OPERATORS[name] for name in _names("--op", arguments.op, list(_operators.OPERATORS))]


def providers(operator: _operators.Operator, arguments: argparse.Namespace) -> list[str]:
    """Those asked for that this operator has."""
    if arguments.provider == "all":
        return [
            name
            for name in operator.providers
            if not name.startswith("fused") and (name != "inductor" or arguments.compile)
        ]
    known = {name for each in _operators.OPERATORS.values() for name in each.providers}
    return [name for name in _names("--provider", arguments.provider, sorted(known)) if name in operator.providers]


def _names(option: str, given: str, known: list[str]) -> list[str]:
    from medvllm.errors import MedvllmError

    if given == "all":
        return known
    names = given.split(",")
    for name in names:
        if name not in known:
            raise MedvllmError(f"{option} must be among {', '.join(known)}, got {name!r}")
    return names


def shapes(operator: _operators.Operator, arguments: argparse.Namespace, device: str) -> list[tuple[int, ...]]:
    """--shape, or the default ones of the device."""
    from medvllm.errors import MedvllmError

    if arguments.shape is None:
        return list(operator.shapes[device])
    sizes = arguments.shape.split("x")
    wanted = "x".join(operator.dimensions)
    if len(sizes) != len(operator.dimensions) or not all(size.isdigit() and int(size) for size in sizes):
        raise MedvllmError(f"--shape of {operator.name} must be {wanted} in whole numbers, got {arguments.shape}")
    return [tuple(map(int, sizes))]


def listing() -> str:
    """--list."""
    lines = []
    for name, operator in sorted(_operators.OPERATORS.items()):
        lines.append(f"{name}: {'x'.join(operator.dimensions)}")
        for device, every in operator.shapes.items():
            lines.append(f"  {device}: {', '.join('x'.join(map(str, shape)) for shape in every)}")
        lines.append(f"  providers: {', '.join(operator.providers)}")
    return "\n".join(lines)


def run(arguments: argparse.Namespace) -> dict[str, Any] | None:
    """The whole report; None for --list."""
    from medvllm.errors import MedvllmError

    if arguments.list:
        print(listing())
        return None
    chosen = operators(arguments)
    if arguments.shape and len(chosen) != 1:
        raise MedvllmError(f"--shape needs one --op, got {len(chosen)}")
    device, report = _bench.start("kernels", arguments)
    planned = [
        (operator, shape, providers(operator, arguments))
        for operator in chosen
        for shape in shapes(operator, arguments, device)
    ]
    progress = _bench.Progress(sum(len(names) for *_, names in planned))
    floor = _bench.Floor.measure(device)
    report |= {"floor": floor.to_dict(), "rows": []}
    for operator, shape, names in planned:
        case = _operators.case(operator, shape, dtype=arguments.dtype, device=device, providers=names)
        report["rows"] += _bench.run_case(
            case, floor=floor, device=device, iters=arguments.iters, warmup=arguments.warmup, progress=progress
        )
    progress.close()
    if arguments.csv:
        write_csv(report["rows"], Path(arguments.csv))
    return report


def write_csv(rows: list[dict[str, Any]], path: Path) -> None:
    """The rows, times in columns of their own."""
    from medvllm.utils.files import write_atomically

    text = io.StringIO()
    writer = csv.DictWriter(text, [*COLUMNS, *MORE_COLUMNS], extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        times = row["time_ms"] or {}
        writer.writerow(row | {"median_ms": times.get("median"), "p90_ms": times.get("p90"), "n": times.get("n")})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text.getvalue().encode())


if __name__ == "__main__":
    _bench.main(parser, run)
