"""Every kernel compiles for sm_80 and sm_90 without a GPU, and its machine code is as good as it was.

No kernel may spill a register. EXPECTED bounds what a thread uses and loads; where rows are reused, the bound on loads
is what shows it. A kernel that needs more must say why here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass

import pytest
import torch
from medvllm_kernels.triton_cases import CASES, report, report_all
from medvllm_kernels.triton_report import CAPABILITIES, KernelReport, compile_launch
from medvllm_kernels.triton_support import interpreting

pytestmark = pytest.mark.skipif(interpreting(), reason="what is compiled is not interpreted: a process of its own")


@dataclass(frozen=True, slots=True)
class Expected:
    """Upper bounds for every dtype and capability: registers, load instructions, and those that are not 16 bytes wide.

    `narrow` is None where neighbouring outputs read at offsets of one element, so that most loads cannot be wide.
    `tensor`: in 16 bits the products run on the tensor cores.
    """

    registers: int
    loads: int
    narrow: int | None
    tensor: bool = False


EXPECTED = {
    "store_kv": Expected(48, 9, 1),
    "store_kv 3×64": Expected(64, 12, 4),  # the slots of several tokens are loaded one by one
    "paged_decode": Expected(128, 37, 4, tensor=True),  # the narrow ones: length and block table
    "paged_decode window softcap": Expected(128, 37, 4, tensor=True),
    "paged_decode 256": Expected(160, 38, 4, tensor=True),
    "paged_decode merge": Expected(40, 8, 4),
    "rms_norm": Expected(48, 12, 0),
    "rms_norm long": Expected(64, 20, 0),
    "rms_norm backward": Expected(112, 17, 1),
    "rotary": Expected(64, 15, 3),
    "rotary interleaved": Expected(64, 15, 5),
    "silu_and_mul": Expected(40, 8, 0),
    "silu_and_mul backward": Expected(80, 12, 0),
    "bias_gelu": Expected(56, 8, 0),
    "bias_gelu backward": Expected(96, 12, 0),
    "bias_gelu tanh": Expected(40, 8, 0),
    "bias_gelu tanh backward": Expected(80, 12, 0),
    # 32 outputs a thread: 9 loads each without reuse (288 in all), 3.1 with eight rows; 12.5 instead of 49 for K7.
    "depthwise_conv2d K3": Expected(136, 100, None),
    "depthwise_conv2d K5": Expected(136, 182, None),
    "depthwise_conv2d K7": Expected(208, 400, None),
    "depthwise_conv2d K3 NHWC": Expected(136, 28, 0),
    "depthwise_conv2d K7 NHWC": Expected(128, 18, 0),
    # 64 sums a thread in 16 bits; the tuner takes the case above where this one leaves too few threads in flight.
    "depthwise_conv2d K7 NHWC, 8 rows": Expected(232, 22, 0),
    "depthwise_conv2d dx stride 2": Expected(72, 16, None),
    "depthwise_conv2d dx stride 2 NHWC": Expected(80, 48, None),  # the weights, one by one: they are not repacked
    "depthwise_conv2d dweight": Expected(48, 10, None),
    "depthwise_conv2d dweight NHWC": Expected(72, 4, 0),
    # 16 outputs a thread: 27 loads each without reuse (432 in all).
    "separable_conv3d": Expected(80, 148, None),
    "separable_conv3d dweight": Expected(88, 28, None),
    "softmaxv": Expected(144, 24, 0, tensor=True),
    "softmaxv dscores": Expected(144, 32, 4, tensor=True),
    "softmaxv dv": Expected(104, 18, 2, tensor=True),
}

# Each kernel, both widths and both architectures by default; the rest of their product, two minutes, is slow.
DEFAULT = {(torch.float32, 80), (torch.bfloat16, 90)}
KEYS = [
    pytest.param(case.name, dtype, capability, marks=[] if (dtype, capability) in DEFAULT else [pytest.mark.slow])
    for case in CASES.values()
    for dtype in case.dtypes
    for capability in CAPABILITIES
]


@pytest.fixture(scope="module")
def reports(request: pytest.FixtureRequest) -> Iterator[dict[tuple[str, torch.dtype, int], Future[KernelReport]]]:
    """Those that this run asks for, compiled by two processes while the tests wait for theirs."""
    chosen = [item.callspec.params for item in request.session.items if getattr(item, "callspec", None)]
    futures = report_all(only={tuple(each.values()) for each in chosen if {"name", "capability"} <= set(each)})
    yield futures
    for future in futures.values():
        future.cancel()


def problems(name: str, dtype: torch.dtype, found: KernelReport) -> list[str]:
    """In what a kernel is worse than expected."""
    expected = EXPECTED[name]
    wrong = []
    if found.spills:
        wrong.append(f"{found.spills} spills")
    if found.registers > expected.registers:
        wrong.append(f"{found.registers} registers, at most {expected.registers} were expected")
    if found.loads > expected.loads:
        wrong.append(f"{found.loads} loads, at most {expected.loads} were expected")
    narrow = found.loads - found.wide_loads
    if expected.narrow is not None and narrow > expected.narrow:
        wrong.append(f"{narrow} loads below 16 bytes, at most {expected.narrow} were expected")
    if expected.tensor and dtype != torch.float32 and not found.tensor_ops:
        wrong.append("no tensor-core instruction")
    return wrong


@pytest.mark.parametrize(("name", "dtype", "capability"), KEYS, ids=lambda value: str(value).removeprefix("torch."))
def test_machine_code(
    reports: dict[tuple[str, torch.dtype, int], Future[KernelReport]], name: str, dtype: torch.dtype, capability: int
) -> None:
    found = reports[name, dtype, capability].result()
    assert problems(name, dtype, found) == [], found


def test_every_kernel_has_its_expectation() -> None:
    assert set(EXPECTED) == set(CASES)


def test_the_gate_sees_lost_alignment() -> None:
    """Tensors that begin at odd addresses cannot be read 16 bytes at a time: the gate must notice."""
    launch = CASES["silu_and_mul"].make(torch.bfloat16)
    gate = launch.arguments["gate_ptr"]
    shifted = torch.empty(gate.numel() * 2 + 1, dtype=gate.dtype, device="meta")[1:].view(-1, gate.stride(0))
    worse = dataclasses.replace(launch, arguments={**launch.arguments, "gate_ptr": shifted})
    assert problems("silu_and_mul", torch.bfloat16, compile_launch(worse, 80))


def test_the_gate_sees_lost_row_reuse() -> None:
    """One accumulator instead of eight: every output row loads all its input rows."""
    launch = CASES["depthwise_conv2d K3"].make(torch.float32)
    alone = dataclasses.replace(launch, arguments={**launch.arguments, "ROWS": 1})
    found, good = compile_launch(alone, 80), report("depthwise_conv2d K3", torch.float32, 80)
    assert found.loads > 2.5 * good.loads / launch.arguments["ROWS"]
