"""Writes the table of docs/KERNELS.md: what the assembler made of every kernel for sm_80 and sm_90, no GPU needed.

./bazelw run //tools:kernel_table              compiles every case (minutes) and rewrites the table
./bazelw run //tools:kernel_table -- --check   exits 1 when the table is not what this compiler gives
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import triton
from medvllm_kernels.triton_cases import CASES, report_all

from medvllm.utils.files import write_atomically

BEGIN, END = "<!-- kernel table -->", "<!-- end of kernel table -->"
HEAD = (
    "| kernel | shape | dtype | registers | shared memory | spills | loads, 16 bytes wide | tensor-core instructions |"
)


def table(processes: int) -> str:
    """The table in Markdown; a cell gives sm_80 / sm_90, or one number where they agree."""
    futures = report_all(processes)
    lines = [
        f"Compiled by triton {triton.__version__}; a cell gives sm_80 / sm_90.",
        "",
        HEAD,
        "|---|---|---|---|---|---|---|---|",
    ]
    for case in CASES.values():
        for dtype in case.dtypes:
            a, b = (futures[case.name, dtype, capability].result() for capability in (80, 90))
            print(f"{case.name} {dtype}", file=sys.stderr)
            pairs = [
                (str(a.registers), str(b.registers)),
                (str(a.shared_bytes), str(b.shared_bytes)),
                (str(a.spills), str(b.spills)),
                (f"{a.loads}, {a.wide_loads}", f"{b.loads}, {b.wide_loads}"),
                (str(a.tensor_ops), str(b.tensor_ops)),
            ]
            cells = [one if one == other else f"{one} / {other}" for one, other in pairs]
            lines.append(f"| {case.name} | {case.shape} | {str(dtype).removeprefix('torch.')} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    parser.add_argument("--processes", type=int, default=2, help="compilers at a time (default: 2)")
    arguments = parser.parse_args(argv)
    root = Path(os.environ.get("BUILD_WORKSPACE_DIRECTORY", Path(__file__).resolve().parent.parent))
    page = root / "docs" / "KERNELS.md"
    text = page.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    wanted = f"{before}{BEGIN}\n{table(arguments.processes)}\n{END}{after}"
    if arguments.check:
        print(
            "docs/KERNELS.md is up to date" if wanted == text else "docs/KERNELS.md differs: run //tools:kernel_table"
        )
        return int(wanted != text)
    write_atomically(page, wanted.encode())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
