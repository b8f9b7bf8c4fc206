"""The choice of the attention backend, its warnings word for word, and that all backends compute the same."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch

from medvllm import LLM, SamplingParams
from medvllm.layers import attention
from medvllm.layers.attention import Attention, AttentionSettings, choose_backend
from medvllm.layers.context import Context, reset_context, set_context
from medvllm.layers.fused import triton_wanted

NO_GPU = "it needs a CUDA GPU"


def choose(requested: str, *, flash: bool | None = None, device: str = "cpu", dtype: Any = torch.float32) -> Any:
    return choose_backend(requested, flash_attention=flash, device=device, dtype=dtype)


@pytest.fixture
def no_flash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "flash_unavailable", lambda: NO_GPU)


@pytest.fixture
def with_flash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "flash_unavailable", lambda: None)


@pytest.fixture
def no_sdpa(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "sdpa_unavailable", lambda: "torch 1.0 has no SDPA")


@pytest.mark.usefixtures("no_flash")
def test_flash_asked_for_in_vain_falls_back_to_sdpa() -> None:
    choice = choose("flash")
    assert (choice.backend, choice.kernel) == ("sdpa", "torch-sdpa")
    assert choice.warnings == (
        "FlashAttention was requested but is unavailable (it needs a CUDA GPU); falling back to SDPA",
    )


@pytest.mark.usefixtures("no_flash")
def test_triton_that_is_switched_off_is_not_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDVLLM_DISABLE_TRITON", "1")
    choice = choose("auto", device="cuda")
    assert (choice.backend, choice.kernel) == ("sdpa", "torch-sdpa")
    assert not triton_wanted()


@pytest.mark.usefixtures("no_flash", "no_sdpa")
def test_flash_then_manual() -> None:
    choice = choose("flash")
    assert (choice.backend, choice.kernel) == ("manual", "torch-manual")
    assert "falling back to manual attention" in choice.warnings[0]


@pytest.mark.usefixtures("with_flash", "no_sdpa")
def test_sdpa_asked_for_in_vain_falls_back_to_flash() -> None:
    choice = choose("sdpa", device="cuda", dtype=torch.bfloat16)
    assert choice.backend == "flash"
    assert choice.warnings == (
        "SDPA was requested but is unavailable (torch 1.0 has no SDPA); falling back to FlashAttention",
    )


@pytest.mark.usefixtures("no_flash", "no_sdpa")
def test_sdpa_then_manual() -> None:
    assert choose("sdpa").backend == "manual"


@pytest.mark.usefixtures("with_flash")
def test_auto_prefers_flash() -> None:
    assert choose("auto", device="cuda", dtype=torch.bfloat16).backend == "flash"
    assert choose("auto", device="cuda", dtype=torch.float32).backend == "sdpa"
    disabled = choose("auto", device="cuda", dtype=torch.bfloat16, flash=False)
    assert disabled.backend == "sdpa"
    assert "disabled by --no-flash-attention" in disabled.reason
    refused = choose("flash", device="cuda", dtype=torch.bfloat16, flash=False)
    assert refused.backend == "sdpa"
    assert "disabled by --no-flash-attention" in refused.warnings[0]


@pytest.mark.usefixtures("no_flash")
def test_auto_then_sdpa_then_manual(monkeypatch: pytest.MonkeyPatch) -> None:
    choice = choose("auto")
    assert choice.backend == "sdpa"
    assert choice.warnings == ()
    assert choice.kernel in ("native-paged", "torch-sdpa")
    monkeypatch.setattr(attention, "sdpa_unavailable", lambda: "none")
    assert choose("auto").backend == "manual"


def test_forward_warns_once(engine: Callable[..., LLM], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "flash_unavailable", lambda: NO_GPU)
    llm = engine(attention_impl="flash")
    with pytest.warns(RuntimeWarning, match="FlashAttention was requested") as caught:
        llm.generate("abc", SamplingParams(temperature=0, max_tokens=3))
    assert len([each for each in caught if "FlashAttention" in str(each.message)]) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        llm.generate("abc", SamplingParams(temperature=0, max_tokens=3))
    stats = llm.stats()
    assert (stats.attention_backend, stats.attention_kernel) == ("sdpa", "torch-sdpa")
    assert "falling back to SDPA" in stats.attention_reason


def paged(seed: int, lengths: list[tuple[int, int]], device: str) -> tuple[Attention, tuple[Any, ...], Context]:
    """An attention layer whose cache holds random keys, and a step of (new, total) tokens for each sequence."""
    torch.manual_seed(seed)
    size, tokens = 4, sum(new for new, _ in lengths)
    width = max(-(-total // size) for _, total in lengths)
    tables = torch.randperm(len(lengths) * width).view(len(lengths), width)
    slots = [
        int(tables[row, place // size]) * size + place % size
        for row, (new, total) in enumerate(lengths)
        for place in range(total - new, total)
    ]
    news, totals = zip(*lengths, strict=True)

    def bounds(counts: tuple[int, ...]) -> torch.Tensor:
        return torch.tensor([0, *torch.tensor(counts).cumsum(0)], dtype=torch.int32, device=device)

    context = Context(
        is_prefill=max(news) > 1,
        cu_seqlens_q=bounds(news),
        cu_seqlens_k=bounds(totals),
        max_seqlen_q=max(news),
        max_seqlen_k=max(totals),
        slot_mapping=torch.tensor(slots, device=device),
        context_lens=torch.tensor(totals, dtype=torch.int32, device=device),
        block_tables=tables.to(device, torch.int32),
        seqlens_q=news,
        seqlens_k=totals,
    )
    layer = Attention(6, 16, num_kv_heads=2, scale=0.25)
    layer.k_cache, layer.v_cache = (torch.randn(tables.numel(), size, 2, 16, device=device) for _ in range(2))
    return layer, tuple(torch.randn(tokens, heads, 16, device=device) for heads in (6, 2, 2)), context


@pytest.mark.parametrize("lengths", [[(1, 9), (1, 30), (1, 1)], [(7, 7), (3, 20), (1, 15)], [(13, 40)]])
@pytest.mark.parametrize("options", [{}, {"window": 5}, {"softcap": 3.0}])
def test_backends_agree(lengths: list[tuple[int, int]], options: dict[str, Any], device: str) -> None:
    results = {}
    for kernel in ("manual", "sdpa", "auto", "by row"):
        layer, tensors, context = paged(1, lengths, device)
        layer.window, layer.softcap = options.get("window"), options.get("softcap")
        layer.settings = AttentionSettings(kernel if kernel != "by row" else "manual", deterministic=kernel == "by row")
        set_context(context)
        try:
            results[kernel] = layer(*tensors)
        finally:
            reset_context()
    for kernel, found in results.items():
        torch.testing.assert_close(found, results["manual"], atol=2e-5, rtol=2e-5, msg=kernel)


@pytest.mark.parametrize("requested", ["manual", "sdpa"])
def test_later_tokens_do_not_change_earlier_ones(requested: str) -> None:
    """The causal mask, against the fault of a window that looked ahead."""
    torch.manual_seed(0)
    layer = Attention(4, 8, num_kv_heads=2, scale=0.3, window=3)
    layer.settings = AttentionSettings(requested)
    q, k, v = (torch.randn(9, heads, 8) for heads in (4, 2, 2))
    before = layer(q, k, v)
    k[6:], v[6:] = 100.0, -100.0
    torch.testing.assert_close(layer(q, k, v)[:6], before[:6])
    k[2], v[2] = 50.0, 50.0
    torch.testing.assert_close(layer(q, k, v)[5], before[5])  # position 2 is outside the window of position 5
