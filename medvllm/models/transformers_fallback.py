"""Causal language models the engine has no layers for, run by transformers' own code inside the engine.

Where a model computes its attention through transformers' interface for it, that attention is replaced by the engine's,
over the paged cache, and all that the engine does (batching, prefix cache, beams) holds. Any other model (ALiBi,
recurrent) keeps transformers' cache, one for each sequence that runs; the engine's cache then holds the sequences'
token ids. Which of the two it is is found out by a trial on a few tokens: their logits must be those of the untouched
model.
"""

from __future__ import annotations

import inspect
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medvllm.errors import MedvllmError
from medvllm.layers.attention import Attention
from medvllm.layers.context import Context, get_context, reset_context, set_context
from medvllm.models.files import ModelFiles
from medvllm.models.runners import runner_for

__all__ = ["PagedModel", "SequenceModel", "gguf_fields", "load", "refuse_options"]

_NAME = "medvllm"  # of the engine's attention among transformers' implementations
_TRIAL_TOKENS = 12
_MAX_STATES = 64  # sequences whose transformers cache is kept; one beyond is computed anew from its tokens
_DIGITS = 4  # base 128, exact in every dtype of the cache: ids up to 2**28


def load(config: Any, files: ModelFiles, *, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """The model, with the interface of the engine's own (see medvllm.models); warns that transformers runs it.

    Raises:
        MedvllmError: transformers can't load it, or its weights are not all there.
    """
    model = _from_pretrained(config, files, dtype).to(device).eval()
    model.requires_grad_(False)
    paged = _paged(model)
    how = "attention over the paged cache" if paged else "each sequence with transformers' own cache, one at a time"
    warnings.warn(
        f"{config.architectures[0]} runs through transformers, because {runner_for(config)[1]} ({how}): slower, and "
        "without quantisation, compilation or tensor parallelism",
        RuntimeWarning,
        stacklevel=2,
    )
    return paged or SequenceModel(model)


def refuse_options(
    *, quantization: str | None, compile_mode: str | None, tensor_parallel_size: int, deterministic: bool
) -> None:
    """Refuses what a model run by transformers can't honour, by the option's name.

    Raises:
        MedvllmError: one of them is set.
    """
    given = {
        "quantization": quantization is not None,
        "compile_mode": compile_mode is not None,
        "tensor_parallel_size": tensor_parallel_size > 1,
        "deterministic": deterministic,
    }
    for name, is_set in given.items():
        if is_set:
            raise MedvllmError(
                f"{name} is not possible for this architecture, which runs through transformers; leave it out, or "
                "use a model the engine has layers for"
            )


def gguf_fields(files: ModelFiles) -> dict[str, Any]:
    """The configuration transformers reads from a GGUF file of an architecture that is not the engine's own.

    Raises:
        MedvllmError: transformers does not know it either.
    """
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    path = files.weights[0]
    try:
        config = AutoConfig.from_pretrained(str(path.parent), gguf_file=path.name, local_files_only=True)
    except (ValueError, KeyError, OSError, TypeError, AttributeError) as error:
        name = files.gguf.string("general.architecture")
        raise MedvllmError(f"{path}: neither the engine nor transformers reads GGUF files of {name!r}") from error
    fields: dict[str, Any] = config.to_dict()
    causal = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type)
    fields["architectures"] = [causal[0] if isinstance(causal, tuple | list) else causal] if causal else None
    fields.pop("quantization_config", None)
    return fields


def _from_pretrained(config: Any, files: ModelFiles, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM

    options: dict[str, Any] = {"dtype": dtype, "local_files_only": True, "output_loading_info": True}
    if files.is_gguf:
        options |= _gguf_options(files.weights[0])
    else:
        safe = None if files.allow_pickle else True
        options |= {"config": config, "use_safetensors": safe, "trust_remote_code": files.trust_remote_code}
    try:
        model, info = AutoModelForCausalLM.from_pretrained(str(files.folder), **options)
    except (ValueError, KeyError, OSError, RuntimeError, TypeError, AttributeError, ImportError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise MedvllmError(f"transformers can't load {files.name}: {lines[0]}") from error
    problems = {
        "lacks": sorted(info["missing_keys"]),
        "does not fit at": sorted(str(key) for key in info["mismatched_keys"]),
    }
    for what, names in problems.items():
        if names:
            raise MedvllmError(f"the checkpoint of {files.name} {what} {', '.join(names[:3])} ({len(names)} in all)")
    return model


def _gguf_options(path: Path) -> dict[str, Any]:
    options: dict[str, Any] = {"gguf_file": path.name}
    try:
        from transformers import GgufConfig
    except ImportError:  # before it, GGUF weights were always dequantised
        return options
    return options | {"quantization_config": GgufConfig(dequantize=True)}


class _Output:
    """The output of a model's body: hidden states first, and nothing else, whatever a head looks for."""

    def __init__(self, hidden: Tensor) -> None:
        self.last_hidden_state = hidden

    def __getitem__(self, index: int | slice) -> Any:
        return (self.last_hidden_state,)[index]

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


class _Given(nn.Module):
    """Stands in for a model's body while its head is run: returns hidden states that are there already."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden

    @property
    def decoder(self) -> _Given:
        """Some heads reach one level deeper."""
        return self

    def forward(self, *_args: Any, **_options: Any) -> _Output:
        return _Output(self.hidden)


def _body_then_head(model: Any, ids: Tensor, **options: Any) -> tuple[Tensor, Any]:
    """(tokens, hidden) of the model's body for one row of ids, and its whole output."""
    output = model.base_model(input_ids=ids.unsqueeze(0), **options)
    return output.last_hidden_state[0], output


def _head(model: Any, hidden: Tensor) -> Tensor:
    """The logits the model makes of hidden states, with whatever scaling and capping it applies, (n, vocab)."""
    prefix = model.base_model_prefix
    body = getattr(model, prefix)
    try:
        setattr(model, prefix, _Given(hidden.unsqueeze(0)))
        logits: Tensor = model(input_ids=torch.zeros(1, len(hidden), dtype=torch.long, device=hidden.device)).logits[0]
    finally:
        setattr(model, prefix, body)
    return logits


class PagedModel(nn.Module):
    """A model of transformers whose attention is the engine's."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        """(tokens,) ids and positions → (tokens, hidden); sequences are told apart by the step's context."""
        hidden, _ = _body_then_head(self.model, input_ids, position_ids=positions.unsqueeze(0), use_cache=False)
        return hidden

    def compute_logits(self, hidden: Tensor) -> Tensor:
        """(n, hidden) → (n, vocab)."""
        return _head(self.model, hidden)


def _paged(model: Any) -> PagedModel | None:
    """The model with the engine's attention in place of its own; None, and untouched, where that changes its logits."""
    if "position_ids" not in inspect.signature(model.base_model.forward).parameters:
        return None
    from transformers import AttentionInterface

    AttentionInterface.register(_NAME, _engine_attention)
    own = model.config._attn_implementation
    ids = torch.arange(_TRIAL_TOKENS, device=model.device) * 7 % min(model.config.vocab_size, 1000)
    found = PagedModel(model)
    with torch.inference_mode():
        expected = model(input_ids=ids.unsqueeze(0), use_cache=False).logits[0]
        try:
            model.set_attn_implementation(_NAME)
            set_context(_single_sequence(len(ids), ids.device))
            logits = found.compute_logits(found(ids, torch.arange(len(ids), device=ids.device)))
            agrees = _same(logits, expected)
        except (RuntimeError, ValueError, TypeError, AttributeError, KeyError, IndexError):
            agrees = False
        finally:
            reset_context()
    if agrees and any(isinstance(module, Attention) for module in model.modules()):
        return found
    for module in list(model.modules()):
        module._modules.pop(_NAME, None)
    model.set_attn_implementation(own)
    return None


def _same(logits: Tensor, expected: Tensor) -> bool:
    """Whether two computations of the same logits differ by no more than their dtype's rounding."""
    difference, size = (logits - expected).float().norm(), expected.float().norm()
    return bool(difference <= (1e-4 if expected.dtype == torch.float32 else 3e-2) * size)


def _single_sequence(tokens: int, device: torch.device) -> Context:
    ends = torch.tensor([0, tokens], dtype=torch.int32, device=device)
    return Context(True, ends, ends, tokens, tokens, seqlens_q=(tokens,), seqlens_k=(tokens,))


def _engine_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    is_causal: bool | None = None,
    **_others: Any,
) -> tuple[Tensor, None]:
    """The engine's attention as transformers calls it: (1, heads, tokens, head_dim) → (1, tokens, heads, head_dim).

    The first call of a layer, in the trial, gives it an `Attention`, which the engine then provides with a cache.
    """
    attention = module._modules.get(_NAME)
    if attention is None:
        if query.shape[-1] != value.shape[-1] or is_causal is False:
            raise ValueError("attention that the engine's layer does not do")
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        attention = Attention(
            query.shape[1],
            query.shape[-1],
            num_kv_heads=key.shape[1],
            scale=float(scale),
            window=sliding_window,
            softcap=softcap,
        )
        module.add_module(_NAME, attention)
    q, k, v = (x[0].transpose(0, 1).contiguous() for x in (query, key, value))
    return attention(q, k, v).unsqueeze(0), None


class SequenceModel(nn.Module):
    """A model of transformers that keeps its own cache of each sequence, found again by the tokens it has seen.

    `tokens` looks to the engine like an attention layer of one head: its cache holds each position's token id, so that
    sequences can be preempted, shared and copied as any other.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.tokens = Attention(1, _DIGITS, num_kv_heads=1, scale=1.0)
        self.states: OrderedDict[tuple[int, ...], Any] = OrderedDict()
        self.splits = self._try_head()

    def _try_head(self) -> bool:
        """Whether body and head can be run apart; if not, the logits pass for hidden states."""
        ids = torch.arange(_TRIAL_TOKENS, device=self.model.device) * 7 % min(self.model.config.vocab_size, 1000)
        with torch.inference_mode():
            expected = self.model(input_ids=ids.unsqueeze(0)).logits[0]
            try:
                return _same(_head(self.model, _body_then_head(self.model, ids)[0]), expected)
            except (RuntimeError, ValueError, TypeError, AttributeError, KeyError, IndexError):
                return False

    def forward(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        """(tokens,) ids and positions → (tokens, hidden), or (tokens, vocab) where body and head can't be run apart."""
        context, start, rows = get_context(), 0, []
        if context.slot_mapping is not None:
            digits = _digits(input_ids, self.tokens.k_cache.dtype)
            self.tokens.store(digits, digits, context.slot_mapping)
        for number, (new, length) in enumerate(zip(context.seqlens_q, context.seqlens_k, strict=True)):
            ids = input_ids[start : start + new]
            start += new
            rows.append(self._run(self._earlier(context, number, length - new), ids))
        return torch.cat(rows)

    def compute_logits(self, hidden: Tensor) -> Tensor:
        """(n, hidden) → (n, vocab)."""
        return _head(self.model, hidden) if self.splits else hidden

    def _earlier(self, context: Context, number: int, count: int) -> Tensor:
        """The first `count` token ids of sequence `number`, from the engine's cache."""
        if count == 0 or context.block_tables is None:
            return torch.empty(0, dtype=torch.long, device=self.model.device)
        cache = self.tokens.k_cache
        table = context.block_tables[number, : -(-count // cache.shape[1])].long()
        digits = cache[table].reshape(-1, _DIGITS)[:count].long()
        return (digits * (128 ** torch.arange(_DIGITS, device=digits.device))).sum(-1)

    def _run(self, earlier: Tensor, ids: Tensor) -> Tensor:
        """The rows of `ids` after `earlier`, from the state kept for these or computed anew."""
        seen = tuple(earlier.tolist())
        state = self.states.pop(seen, None) if seen else None
        output = self._call(ids if state is not None else torch.cat([earlier, ids]), state)
        state = getattr(output, "past_key_values", None)
        if state is not None and not isinstance(state, tuple):
            self.states[seen + tuple(ids.tolist())] = state
            if len(self.states) > _MAX_STATES:
                self.states.popitem(last=False)
        rows: Tensor = (output.last_hidden_state if self.splits else output.logits)[0, -len(ids) :]
        return rows

    def _call(self, ids: Tensor, state: Any) -> Any:
        run = self.model.base_model if self.splits else self.model
        given = {} if state is None else {"past_key_values": state}
        return run(input_ids=ids.unsqueeze(0), use_cache=True, **given)


def _digits(ids: Tensor, dtype: torch.dtype) -> Tensor:
    """Token ids as (tokens, 1, 4) digits to the base 128."""
    places = 128 ** torch.arange(_DIGITS, device=ids.device)
    return (ids.unsqueeze(-1) // places % 128).unsqueeze(1).to(dtype)
