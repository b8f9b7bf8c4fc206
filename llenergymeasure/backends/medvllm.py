"""Med vLLM's own engine, stepped by hand so that every token has its time.

`batching.batch_size` is the number of sequences it runs at once; batches are continuous, so static and dynamic are the
same. Prefix caching is off unless the section `medvllm` turns it on: warm-up and further cycles repeat prompts, and
would find them cached. The section takes the options of `medvllm.engine.config.EngineConfig`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llenergymeasure.backends.base import BatchOutcome, ModelInfo, Request, RequestSource, peak_rss_mib
from llenergymeasure.backends.continuous import Grown, run_steps
from llenergymeasure.backends.flops import Architecture, read_architecture
from llenergymeasure.backends.gpus import process_gpus
from llenergymeasure.backends.tokens import TokenisedPrompts, check_options, input_limit
from llenergymeasure.errors import LemError

if TYPE_CHECKING:
    from llenergymeasure.config import ExperimentConfig
    from llenergymeasure.prompts import Prompt

__all__ = ["MedvllmBackend", "resolve_medvllm"]


def resolve_medvllm(name: str) -> Any:
    """The files of a model that Med vLLM knows: a registered name, a folder, a .gguf file, a hub id.

    Raises:
        LemError: there is none of that name.
    """
    from medvllm.errors import MedvllmError
    from medvllm.models.files import resolve_model

    try:
        return resolve_model(name)
    except MedvllmError as error:
        raise LemError(str(error)) from error


class MedvllmBackend:
    """`medvllm.LLM`."""

    name = "medvllm"

    def __init__(self) -> None:
        self._llm: Any = None

    def load(self, config: ExperimentConfig, *, process_index: int, num_processes: int) -> ModelInfo:
        """Starts the engine; see Backend."""
        import torch

        from medvllm import LLM
        from medvllm.engine.config import EngineConfig
        from medvllm.errors import MedvllmError

        known = [field.name for field in dataclasses.fields(EngineConfig) if field.name != "model"]
        options = check_options("medvllm", config.medvllm, known)
        if config.adapter:
            raise LemError("the medvllm backend takes no adapter; merge it into the model, or use backend pytorch")
        files = resolve_medvllm(config.model_name)
        architecture = _architecture(files)
        limit, warnings = input_limit(config, architecture)
        parallel = config.parallelism
        if parallel.strategy == "tensor_parallel":
            options.setdefault("tensor_parallel_size", parallel.degree)
        elif parallel.strategy == "pipeline_parallel":
            raise LemError("the medvllm backend has no pipeline parallelism; use tensor_parallel")
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        if self._device == "cuda":
            torch.cuda.set_device(process_gpus(config, process_index=process_index, num_processes=num_processes)[0])
        options.setdefault("dtype", config.fp_precision)
        options.setdefault("max_num_seqs", max(config.batching.batch_size, config.decoder.beam_search.num_beams))
        options.setdefault("enable_prefix_caching", False)
        options.setdefault("max_model_len", limit + config.max_output_tokens)
        if config.random_seed is not None:
            options.setdefault("seed", config.random_seed)
        if config.batching.max_tokens_per_batch:
            tokens = max(config.batching.max_tokens_per_batch, options["max_num_seqs"])
            options.setdefault("max_num_batched_tokens", tokens)
        try:
            self._llm = LLM(config.model_name, **options)
        except MedvllmError as error:
            raise LemError(str(error)) from error
        self._config, self._limit = config, int(options["max_num_seqs"])
        self._prompts = TokenisedPrompts(self._llm.tokenizer, limit=limit)
        stats = self._llm.stats()
        return ModelInfo(
            name=config.model_name,
            folder=Path(files.folder),
            architecture=architecture,
            dtype=stats.dtype,
            device=stats.device,
            max_input_tokens=limit,
            warnings=warnings,
        )

    def prepare(self, prompts: Sequence[Prompt]) -> dict[str, int]:
        """Tokenises; see Backend."""
        return self._prompts.add(prompts)

    def run(self, source: RequestSource, *, streaming: bool) -> Iterator[BatchOutcome]:
        """Steps the engine; see Backend."""
        from medvllm.errors import MedvllmError

        beams = self._config.decoder.beam_search.num_beams
        engine = _Engine(self._llm.engine, self._config, self._prompts)
        try:
            yield from run_steps(engine, source, limit=max(1, self._limit // beams), streaming=streaming)
        except MedvllmError as error:
            raise LemError(str(error)) from error

    def peak_memory(self) -> tuple[float | None, str | None]:
        """Of the GPU's allocator on CUDA, else resident memory; see Backend."""
        if self._device == "cuda":
            import torch

            return torch.cuda.max_memory_allocated() / 2**20, "torch allocator, the KV cache it reserves included"
        return peak_rss_mib(), "resident memory of the process, loading included"

    def reset_peak_memory(self) -> None:
        """Resets the allocator's peak on CUDA."""
        if self._device == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats()

    def close(self) -> None:
        """Ends the engine."""
        if self._llm is not None:
            self._llm.shutdown()
            self._llm = None


class _Engine:
    """The engine's steps as run_steps wants them."""

    def __init__(self, engine: Any, config: ExperimentConfig, prompts: TokenisedPrompts) -> None:
        self._engine, self._config, self._prompts = engine, config, prompts
        self._keys: dict[int, str] = {}  # the engine's request ids → ours
        self._requests: dict[str, Any] = {}
        self._seen: dict[str, int] = {}

    def add(self, key: str, request: Request) -> int:
        """See StepEngine."""
        ids = self._prompts[request.prompt]
        added = self._engine.add_request(None, ids, _params(self._config, request.prompt.index))
        self._keys[added.request_id], self._requests[key], self._seen[key] = key, added, 0
        return len(ids)

    def step(self) -> Sequence[Grown]:
        """See StepEngine."""
        found = []
        for request in self._engine.step():
            key = self._keys[request.request_id]
            count = len(request.sequences[0].output_token_ids) if request.sequences else self._seen[key]
            text = self._text(request) if request.finished else None
            found.append(Grown(key, max(0, count - self._seen[key]), request.finished, count, text))
            self._seen[key] = count
            if request.finished:
                del self._keys[request.request_id], self._requests[key], self._seen[key]
        return found

    def abort(self, keys: Sequence[str]) -> None:
        """See StepEngine."""
        for key in keys:
            request = self._requests.pop(key, None)
            if request is not None:
                self._keys.pop(request.request_id)
                self._engine.abort(request)

    def _text(self, request: Any) -> str | None:
        wanted = self._config.save_outputs or self._config.decode_token_to_text
        return str(self._engine.output(request).outputs[0].text) if wanted else None


def _params(config: ExperimentConfig, index: int) -> Any:
    """The engine's parameters of a request; its own seed makes it independent of what runs beside it."""
    from medvllm import SamplingParams
    from medvllm.sampling_params import BeamSearchParams

    decoder, beams = config.decoder, config.decoder.beam_search
    if decoder.no_repeat_ngram_size:
        raise LemError("the medvllm backend has no no_repeat_ngram_size; use backend pytorch")
    if beams.num_beams > 1:
        return BeamSearchParams(
            beam_width=beams.num_beams,
            max_tokens=config.max_output_tokens,
            length_penalty=beams.length_penalty,
            early_stopping=beams.early_stopping,
        )
    seed = None if config.random_seed is None else (config.random_seed * 1_000_003 + index) % 2**63
    return SamplingParams(
        temperature=0.0 if decoder.greedy else decoder.temperature,
        top_k=decoder.top_k,
        top_p=decoder.top_p,
        min_p=decoder.min_p,
        repetition_penalty=decoder.repetition_penalty,
        max_tokens=config.max_output_tokens,
        min_tokens=config.min_output_tokens,
        seed=seed,
    )


def _architecture(files: Any) -> Architecture:
    """Of a folder of safetensors; of a GGUF file nothing that the formula could use is read."""
    if not files.is_gguf:
        return read_architecture(Path(files.folder))
    return Architecture(
        parameters=None,
        body_parameters=None,
        head_parameters=None,
        layers=None,
        hidden_size=None,
        num_heads=None,
        head_dim=None,
        sliding_window=None,
        context=None,
        confidence="low",
        note="not computed for GGUF files",
    )
