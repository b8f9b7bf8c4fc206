"""From requests inside the engine to what its users see."""

from __future__ import annotations

from typing import Any

from medvllm.engine.detokenizer import Detokenizer
from medvllm.engine.sequence import Request, Sequence
from medvllm.outputs import CompletionOutput, RequestMetrics, RequestOutput
from medvllm.sampling_params import SamplingParams

__all__ = ["completion_text", "needs_text", "new_detokenizer", "request_output"]


def new_detokenizer(tokenizer: Any, seq: Sequence) -> Detokenizer:
    """A detokenizer that has seen the prompt and, where there are any, the tokens generated."""
    params = seq.request.params
    found = Detokenizer(
        tokenizer,
        seq.request.prompt_token_ids,
        stop=params.stop if isinstance(params, SamplingParams) else (),
        skip_special_tokens=params.skip_special_tokens,
    )
    for token in seq.output_token_ids:
        found.add(token)
    return found


def needs_text(tokenizer: Any, seq: Sequence) -> Detokenizer | None:
    """A detokenizer for a sequence whose text must be known at each token; else it is made at the end, in one go."""
    params = seq.request.params
    wanted = isinstance(params, SamplingParams) and (bool(params.stop) or seq.request.followed)
    return new_detokenizer(tokenizer, seq) if wanted else None


def completion_text(tokenizer: Any, seq: Sequence) -> str:
    """The text of a sequence so far; at the end, all of it."""
    if seq.detokenizer is not None:
        return str(seq.detokenizer.text if seq.finish_reason is None else seq.detokenizer.finish())
    detokenizer = Detokenizer(
        tokenizer, seq.request.prompt_token_ids, skip_special_tokens=seq.request.params.skip_special_tokens
    )
    ids = seq.output_token_ids
    if seq.finish_reason == "stop" and ids and ids[-1] in seq.request.eos_token_ids:
        ids = ids[:-1]
    return detokenizer.all_at_once(ids)


def request_output(request: Request, tokenizer: Any) -> RequestOutput:
    """The request and its completions as they are now."""
    asked = getattr(request.params, "logprobs", None) is not None
    scored = asked or request.beam_search is not None
    arrival = request.arrival_s
    return RequestOutput(
        request_id=request.request_id,
        prompt=request.prompt,
        prompt_token_ids=request.prompt_token_ids,
        outputs=[
            CompletionOutput(
                index=seq.index,
                text=completion_text(tokenizer, seq),
                token_ids=seq.output_token_ids,
                cumulative_logprob=seq.cumulative_logprob if scored else None,
                logprobs=seq.logprobs.copy() if asked else None,
                finish_reason=seq.finish_reason,
                stop_reason=seq.stop_reason,
            )
            for seq in request.sequences
        ],
        finished=request.finished,
        metrics=RequestMetrics(
            ttft_s=None if request.first_token_s is None else request.first_token_s - arrival,
            latency_s=None if request.finished_s is None else request.finished_s - arrival,
        ),
        num_cached_tokens=request.num_cached_tokens,
        prompt_logprobs=request.prompt_logprobs,
    )
