"""vLLM, its engine stepped by hand so that every token has its time.

`batching.batch_size` is max_num_seqs; batches are continuous, so static and dynamic are the same. Prefix caching is off
unless the section `vllm` turns it on: warm-up and further cycles repeat prompts, and would find them cached. The
section takes the options of `vllm.EngineArgs`. Written against vLLM 0.32 (engine V1).
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from llenergymeasure.backends.base import BatchOutcome, ModelInfo, Request, RequestSource, peak_rss_mib
from llenergymeasure.backends.continuous import Grown, run_steps
from llenergymeasure.backends.flops import read_architecture
from llenergymeasure.backends.gpus import only_gpus, process_gpus
from llenergymeasure.backends.model_files import resolve_folder
from llenergymeasure.backends.tokens import TokenisedPrompts, check_options, input_limit, load_tokenizer
from llenergymeasure.errors import LemError, first_line

if TYPE_CHECKING:
    from llenergymeasure.config import ExperimentConfig
    from llenergymeasure.prompts import Prompt

__all__ = ["VLLMBackend"]


class VLLMBackend:
    """`vllm.LLMEngine`."""

    name = "vllm"

    def __init__(self) -> None:
        self._engine: Any = None

    def load(self, config: ExperimentConfig, *, process_index: int, num_processes: int) -> ModelInfo:
        """Starts the engine; see Backend."""
        import torch
        from vllm import EngineArgs, LLMEngine

        known = [field.name for field in dataclasses.fields(EngineArgs) if field.name != "model"]
        options = check_options("vllm", config.vllm, known)
        if config.decoder.beam_search.num_beams > 1 or config.decoder.no_repeat_ngram_size:
            raise LemError("the vllm backend has no beam search and no no_repeat_ngram_size; use backend pytorch")
        if config.adapter:
            raise LemError("the vllm backend takes no adapter here; merge it into the model, or use backend pytorch")
        folder = resolve_folder(config.model_name)
        architecture = read_architecture(folder)
        limit, warnings = input_limit(config, architecture)
        for name, value in _defaults(config, limit).items():
            options.setdefault(name, value)
        self._config, self._limit = config, int(options["max_num_seqs"])
        self._cuda = torch.cuda.is_available()
        seen: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if self._cuda:
            seen = only_gpus(process_gpus(config, process_index=process_index, num_processes=num_processes))
        try:
            with seen:
                self._engine = LLMEngine.from_engine_args(EngineArgs(model=str(folder), **options))
        except (ValueError, RuntimeError, OSError, ImportError, TypeError) as error:
            raise LemError(f"vLLM can't start: {first_line(error)}") from error
        self._prompts = TokenisedPrompts(load_tokenizer(folder), limit=limit)
        return ModelInfo(
            name=config.model_name,
            folder=folder,
            architecture=architecture,
            dtype=config.fp_precision,
            device="cuda" if self._cuda else "cpu",
            max_input_tokens=limit,
            warnings=warnings,
        )

    def prepare(self, prompts: Sequence[Prompt]) -> dict[str, int]:
        """Tokenises; see Backend."""
        return self._prompts.add(prompts)

    def run(self, source: RequestSource, *, streaming: bool) -> Iterator[BatchOutcome]:
        """Steps the engine; see Backend."""
        engine = _Engine(self._engine, self._config, self._prompts)
        yield from run_steps(engine, source, limit=self._limit, streaming=streaming)

    def peak_memory(self) -> tuple[float | None, str | None]:
        """Resident memory where the engine runs in this process on the CPU; not known otherwise; see Backend."""
        if self._cuda or os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING", "1") != "0":
            return None, "vLLM runs its model in another process"
        return peak_rss_mib(), "resident memory of the process, loading and the reserved KV cache included"

    def reset_peak_memory(self) -> None:
        """Nothing to reset."""

    def close(self) -> None:
        """Ends the engine."""
        self._engine = None


class _Engine:
    """The engine's steps as run_steps wants them."""

    _runs = 0  # an engine refuses a request id that it has seen

    def __init__(self, engine: Any, config: ExperimentConfig, prompts: TokenisedPrompts) -> None:
        self._engine, self._config, self._prompts = engine, config, prompts
        self._seen: dict[str, int] = {}
        self._ids: dict[str, str] = {}  # ours → the engine's
        _Engine._runs += 1
        self._prefix = f"lem-{_Engine._runs}-"

    def add(self, key: str, request: Request) -> int:
        """See StepEngine."""
        ids = self._prompts[request.prompt]
        name = f"{self._prefix}{key}"
        added = self._engine.add_request(
            name, {"prompt_token_ids": list(ids)}, _params(self._config, request.prompt.index)
        )
        self._ids[key] = added if isinstance(added, str) else name
        self._seen[key] = 0
        return len(ids)

    def step(self) -> Sequence[Grown]:
        """See StepEngine."""
        found = []
        for output in self._engine.step():
            key = str(output.request_id).removeprefix(self._prefix)
            if key not in self._seen:
                continue
            completion = output.outputs[0]
            count = len(completion.token_ids)
            wanted = output.finished and (self._config.save_outputs or self._config.decode_token_to_text)
            text = str(completion.text) if wanted else None
            found.append(Grown(key, count - self._seen[key], bool(output.finished), count, text))
            self._seen[key] = count
            if output.finished:
                del self._seen[key], self._ids[key]
        return found

    def abort(self, keys: Sequence[str]) -> None:
        """See StepEngine."""
        self._engine.abort_request([self._ids.pop(key) for key in keys if key in self._ids])


def _defaults(config: ExperimentConfig, limit: int) -> dict[str, Any]:
    """What the configuration says in vLLM's words."""
    found: dict[str, Any] = {
        "dtype": config.fp_precision,
        "max_num_seqs": config.batching.batch_size,
        "max_model_len": limit + config.max_output_tokens,
        "enable_prefix_caching": False,
        "trust_remote_code": False,
        "load_format": "safetensors",
        "disable_log_stats": True,
        "seed": config.random_seed or 0,
    }
    if config.batching.max_tokens_per_batch:
        found["max_num_batched_tokens"] = max(config.batching.max_tokens_per_batch, found["max_num_seqs"])
    if config.parallelism.strategy == "tensor_parallel":
        found["tensor_parallel_size"] = config.parallelism.degree
    elif config.parallelism.strategy == "pipeline_parallel":
        found["pipeline_parallel_size"] = config.parallelism.degree
    return found


def _params(config: ExperimentConfig, index: int) -> Any:
    """vLLM's parameters of a request; its own seed makes it independent of what runs beside it."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    decoder = config.decoder
    return SamplingParams(
        temperature=0.0 if decoder.greedy else decoder.temperature,
        top_k=decoder.top_k,
        top_p=decoder.top_p,
        min_p=decoder.min_p,
        repetition_penalty=decoder.repetition_penalty,
        max_tokens=config.max_output_tokens,
        min_tokens=config.min_output_tokens,
        seed=None if config.random_seed is None else (config.random_seed * 1_000_003 + index) % 2**63,
        detokenize=config.save_outputs or config.decode_token_to_text,
        output_kind=RequestOutputKind.CUMULATIVE,
    )
