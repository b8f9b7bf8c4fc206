"""Faults that kernels of this kind have had elsewhere, one test each; and the switches, choices and error messages."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from medvllm_kernels import triton_depthwise_conv2d_backward as conv2d_backward
from medvllm_kernels import triton_depthwise_conv2d_forward as conv2d_forward
from medvllm_kernels import triton_separable_conv3d as conv3d
from medvllm_kernels.triton_bias_gelu import bias_gelu, bias_gelu_reference
from medvllm_kernels.triton_depthwise_conv2d import depthwise_conv2d, depthwise_conv2d_reference
from medvllm_kernels.triton_support import OPERATORS, KernelArgumentError, Launch, interpreting

from medvllm import kernels

# ---- faults -------------------------------------------------------------------------------------------------------


def _one_call_each(device: str) -> dict[str, Callable[[], tuple[list[torch.Tensor], torch.Tensor]]]:
    """Of every operator with a backward pass: (inputs that want a gradient, the sum of the output's squares)."""

    def call(function: Callable[..., Any], *shapes: tuple[int, ...], **options: Any) -> Any:
        def run() -> tuple[list[torch.Tensor], torch.Tensor]:
            inputs = [torch.randn(shape, device=device, requires_grad=True) for shape in shapes]
            result = function(*inputs, **options)
            return inputs, (result[0] if isinstance(result, tuple) else result).square().sum()

        return run

    positions, angles = torch.arange(3, device=device), torch.randn(3, 8, device=device)
    return {
        "depthwise_conv2d": call(kernels.depthwise_conv2d, (1, 2, 5, 6), (2, 1, 3, 3), (2,)),
        "separable_conv3d": call(kernels.separable_conv3d, (1, 1, 2, 2, 5), (1, 1, 3, 3, 3), (1,)),
        "softmaxv": call(kernels.softmaxv, (1, 4, 5), (1, 5, 8)),
        "rms_norm": call(lambda x, w, r: kernels.rms_norm(x, w, 1e-6, r), (3, 8), (8,), (3, 8)),
        "rotary": call(lambda q: kernels.rotary(q, q, positions, angles), (3, 2, 8)),
        "silu_and_mul": call(kernels.silu_and_mul, (3, 8)),
        "bias_gelu": call(kernels.bias_gelu, (3, 8), (8,)),
    }


@pytest.mark.parametrize("operator", sorted(set(OPERATORS) - {"store_kv", "paged_decode_attention"}))
def test_gradients_are_not_lost(accuracy: Any, operator: str) -> None:
    inputs, loss = _one_call_each(accuracy.device)[operator]()
    accuracy.ran(operator)
    for gradient in torch.autograd.grad(loss, inputs):
        assert gradient.abs().sum() > 0


def test_every_column_of_a_wide_volume_is_right(accuracy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interior tiles need the mask of the volume's edge too: W = 256 in tiles of 64."""
    monkeypatch.setenv("MEDVLLM_SEP3D_BLOCK_W", "64")
    accuracy(
        "separable_conv3d",
        conv3d.separable_conv3d,
        conv3d.separable_conv3d_reference,
        torch.randn(1, 1, 1, 3, 256),
        torch.randn(1, 1, 3, 3, 3),
        gradients=False,
    )


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_bias_gelu_is_finite_far_out_and_writes_every_row(accuracy: Any, approximate: str) -> None:
    far = torch.tensor([-1e4, -100.0, -50.0, -10.3, 10.2, 10.3, 50.0, 1e4])
    (y,) = accuracy(
        "bias_gelu",
        lambda x, bias: bias_gelu(x, bias, approximate=approximate),
        lambda x, bias: bias_gelu_reference(x, bias, approximate=approximate),
        far.expand(2, 3, 8).clone(),
        torch.zeros(8),
    )
    assert torch.isfinite(y).all()


@pytest.mark.parametrize("columns", [384, 4100])
def test_softmaxv_skips_and_cuts_no_column(accuracy: Any, columns: int) -> None:
    """Equal scores give the mean of all values, whatever the length of the row."""
    v = (
        torch.arange(columns, dtype=torch.float32, device=accuracy.device)[None, :, None].expand(1, columns, 3)
        / columns
    )
    out = kernels.softmaxv(torch.zeros(1, 2, columns, device=accuracy.device), v)
    accuracy.close(out, torch.full((1, 2, 3), (columns - 1) / columns / 2, dtype=torch.float64))


def _meta_launches(shape: tuple[int, ...]) -> list[Launch]:
    x = torch.empty(shape, device="meta")
    if x.dim() == 5:
        numbers = {"stride": 1, "padding": 1, "dilation": 1}
        weight = torch.empty(shape[1], 1, 3, 3, 3, device="meta")
        forward = conv3d.plan_separable_conv3d(x, weight, None, x, **numbers)
        return [*forward, conv3d.plan_separable_conv3d_weight_gradient(x, x, **numbers)[0]]
    geometry = conv2d_forward.ConvGeometry((3, 3), (1, 1), (1, 1), (1, 1))
    weight = torch.empty(shape[1], 1, 3, 3, device="meta")
    candidates = conv2d_forward.forward_candidates(x, weight, None, x, geometry, channels_last=False)
    return [*candidates, conv2d_backward.plan_weight_gradient(x, x, geometry)[0]]


@pytest.mark.parametrize("shape", [(1, 1, 256, 256, 256), (2, 35_000, 4, 4), (70_000, 1, 3, 3), (1, 70_000, 2, 2, 2)])
def test_grids_stay_within_what_cuda_starts(shape: tuple[int, ...]) -> None:
    """Axes 1 and 2 of a grid end at 65,535; every launch is folded onto axis 0, which ends at 2³¹ − 1."""
    for launch in _meta_launches(shape):
        assert isinstance(launch.grid, int)
        assert 0 < launch.grid < 2**31


def test_many_planes_are_all_computed(accuracy: Any) -> None:
    """70,000 channels × batch; the interpreter, at milliseconds a program, takes them as NHWC."""
    channels = 200 if interpreting() else 35_000
    x = torch.randn(2, channels, 2, 2, device=accuracy.device)
    if interpreting():
        x = x.contiguous(memory_format=torch.channels_last)
    weight = torch.randn(channels, 1, 1, 1, device=accuracy.device)
    accuracy.close(depthwise_conv2d(x, weight), (x.double() * weight.double().view(1, -1, 1, 1)))


def test_offsets_beyond_32_bits(accuracy: Any) -> None:
    """The two images of the batch lie 2³¹ + 64 elements apart; only the pages that are touched take memory."""
    far = 2**31 + 64
    storage = torch.empty(far + 4096, dtype=torch.float16, device=accuracy.device)
    x = storage.as_strided((2, 4, 5, 6), (far, 30, 6, 1))
    x.copy_(torch.randn(2, 4, 5, 6))
    weight = torch.randn(4, 1, 3, 3).half()
    accuracy.close(
        depthwise_conv2d(x, weight.to(accuracy.device), padding=1),
        depthwise_conv2d_reference(x.cpu().double(), weight.double(), padding=1),
    )
    rows = storage.as_strided((2, 40), (far, 1))
    y = kernels.silu_and_mul(rows)
    gate, up = rows.cpu().double().chunk(2, -1)
    accuracy.close(y, gate.sigmoid() * gate * up)
    cache = storage.as_strided((2, 2, 1, 8), (far, 8, 8, 1))
    k = torch.randn(1, 1, 8, device=accuracy.device)
    kernels.store_kv(k, k, cache, cache, torch.tensor([3], device=accuracy.device))
    assert torch.equal(cache[1, 1].float(), k[0].half().float())


def test_channels_last_is_read_and_written_as_it_lies() -> None:
    x = torch.empty(2, 16, 9, 9, device="meta").to(memory_format=torch.channels_last)
    assert conv2d_forward.is_channels_last(x)
    weight = torch.empty(3, 3, 16, device="meta")
    geometry = conv2d_forward.ConvGeometry((3, 3), (1, 1), (1, 1), (1, 1))
    for launch in conv2d_forward.forward_candidates(x, weight, None, x, geometry, channels_last=True):
        assert launch.arguments["x_ptr"] is x, "no copy is made"
        assert launch.arguments["x_column"] == 16


BLOCKED = """
import importlib.abc, sys
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "triton":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Block())
import torch
from medvllm import kernels
y = kernels.depthwise_conv2d(torch.ones(1, 2, 4, 4), torch.ones(2, 1, 3, 3))
assert y.shape == (1, 2, 2, 2) and kernels.build_fused_depthwise_conv2d_if_available(2, 3) is None
print(kernels.explain()["depthwise_conv2d"]["last_reason"])
"""


def test_everything_imports_and_runs_without_triton() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run([sys.executable, "-c", BLOCKED], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "triton is not installed"


# ---- choices ------------------------------------------------------------------------------------------------------


def test_a_fused_module_is_there_exactly_where_the_kernel_runs(accuracy: Any) -> None:
    module = kernels.build_fused_depthwise_conv2d_if_available(4, 3, padding=1, device=accuracy.device)
    here = kernels.explain()["depthwise_conv2d"]
    assert (module is not None) == (here["backend"] == "triton")
    if module is None:
        assert here["reason"] == "no CUDA GPU is visible to torch"
        return
    plain = torch.nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False, device=accuracy.device)
    plain.load_state_dict(module.state_dict())
    x = torch.randn(1, 4, 6, 7, device=accuracy.device).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        for _ in range(2):  # the second time with other weights: none are kept from the first
            accuracy.close(module(x), plain.double()(x.double()))
            module.weight.mul_(-2)
            plain.weight.mul_(-2)


def test_the_3d_module_fuses_what_the_environment_says(accuracy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDVLLM_SEP3D_FUSE_BIAS", "1")
    monkeypatch.setenv("MEDVLLM_SEP3D_FUSE_RELU", "1")
    module = kernels.build_fused_separable_conv3d_if_available(2, device=accuracy.device)
    assert (module is not None) == accuracy.fused
    if module is not None:
        y = module(torch.randn(1, 2, 2, 2, 5, device=accuracy.device))
        assert module.bias is not None
        assert y.min() == 0


@pytest.mark.parametrize("operator", OPERATORS)
def test_the_switch_turns_every_operator_off(operator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDVLLM_DISABLE_TRITON", "1")
    assert kernels.explain()[operator]["backend"] == "torch"
    assert kernels.explain()[operator]["reason"] == "MEDVLLM_DISABLE_TRITON is set"


@pytest.mark.parametrize(
    ("operator", "variable"),
    [("softmaxv", "MEDVLLM_ENABLE_TRITON_SOFTMAXV"), ("separable_conv3d", "MEDVLLM_ENABLE_TRITON_SEP3D")],
)
def test_what_is_opt_in_says_so(operator: str, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "0")
    assert kernels.explain()[operator]["reason"] == f"{variable}=1 is not set"


@pytest.mark.parametrize(
    ("variable", "valid"),
    [("BLOCK_W", "64, 128, 256"), ("WARPS", "2, 4, 8"), ("STAGES", "2, 3, 4")],
)
def test_a_tuning_variable_outside_its_set_lists_the_set(
    variable: str, valid: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"MEDVLLM_SEP3D_{variable}", "48")
    x, weight = torch.empty(1, 2, 3, 4, 5, device="meta"), torch.empty(2, 1, 3, 3, 3, device="meta")
    with pytest.raises(KernelArgumentError, match=f"MEDVLLM_SEP3D_{variable} must be one of {valid}, got '48'"):
        conv3d.plan_separable_conv3d(x, weight, None, x, stride=1, padding=1, dilation=1)


def test_tuning_variables_reach_the_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("BLOCK_W", "128"), ("WARPS", "8"), ("STAGES", "3")):
        monkeypatch.setenv(f"MEDVLLM_SEP3D_{name}", value)
    x, weight = torch.empty(1, 2, 3, 4, 5, device="meta"), torch.empty(2, 1, 3, 3, 3, device="meta")
    for launch in conv3d.plan_separable_conv3d(x, weight, None, x, stride=1, padding=1, dilation=1):
        assert (launch.arguments["BLOCK_W"], launch.num_warps, launch.num_stages) == (128, 8, 3)


def _zeros(*shape: int) -> torch.Tensor:
    return torch.zeros(shape)


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "conv2d shape": (lambda: kernels.depthwise_conv2d(_zeros(1, 2, 3, 3), _zeros(2, 2, 3, 3)), "weight (C, 1, KH, KW)"),
    "conv2d stride": (
        lambda: kernels.depthwise_conv2d(_zeros(1, 2, 3, 3), _zeros(2, 1, 3, 3), stride=0),
        "stride must be a whole number of at least 1, or two of them, got 0",
    ),
    "conv2d size": (lambda: kernels.depthwise_conv2d(_zeros(1, 2, 2, 2), _zeros(2, 1, 3, 3)), "too small"),
    "conv2d build": (lambda: kernels.build_fused_depthwise_conv2d_if_available(0, 3), "C and K must be at least 1"),
    "conv3d shape": (lambda: kernels.separable_conv3d(_zeros(1, 2, 3, 3, 3), _zeros(2, 1, 5, 5, 5)), "(C, 1, 3, 3, 3)"),
    "softmaxv": (lambda: kernels.softmaxv(_zeros(1, 2, 3), _zeros(1, 2, 3)), "v (…, T, D)"),
    "store_kv": (
        lambda: kernels.store_kv(
            _zeros(1, 2, 3), _zeros(1, 2, 3), _zeros(1, 2, 2, 4), _zeros(1, 2, 2, 4), torch.zeros(1).long()
        ),
        "k_cache and v_cache must be (num_blocks, block_size, 2, 3)",
    ),
    "decode": (
        lambda: kernels.paged_decode_attention(
            _zeros(1, 3, 8), _zeros(1, 2, 2, 8), _zeros(1, 2, 2, 8), torch.zeros(1, 1).int(), torch.ones(1).int()
        ),
        "num_heads must be a multiple of num_kv_heads, got 3 and 2",
    ),
    "rms_norm": (lambda: kernels.rms_norm(_zeros(2, 3), _zeros(4)), "weight must be (hidden,)"),
    "rotary": (
        lambda: kernels.rotary(_zeros(1, 1, 4), _zeros(1, 1, 4), torch.zeros(1).long(), _zeros(2, 6)),
        "even rotary_dim ≤ 4",
    ),
    "silu_and_mul": (lambda: kernels.silu_and_mul(_zeros(2, 3)), "x must be (…, 2 · width), got (2, 3)"),
    "swiglu": (lambda: kernels.swiglu(_zeros(2, 3), _zeros(3, 2)), "must have one shape, dtype and device"),
    "bias_gelu": (
        lambda: kernels.bias_gelu(_zeros(2, 3), _zeros(3), approximate="erf"),
        "approximate must be 'none' or 'tanh', got 'erf'",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_are_named(name: str) -> None:
    call, message = WRONG[name]
    with pytest.raises(KernelArgumentError, match=re.escape(message)):
        call()
