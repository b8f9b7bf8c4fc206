"""TensorRT-LLM through its LLM API, one thread per running request to time its tokens.

Written against the API's documentation (tensorrt_llm 1.x: LLM, SamplingParams, generate_async with streaming); it needs
an NVIDIA GPU and has not been run by this project. `batching.batch_size` is max_batch_size, with in-flight batching, so
static and dynamic are the same. The section `tensorrt` takes the arguments of `tensorrt_llm.LLM`.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from llenergymeasure.backends.base import (
    BatchOutcome,
    ModelInfo,
    Request,
    RequestOutcome,
    RequestSource,
    Timeline,
    request_phases,
)
from llenergymeasure.backends.flops import read_architecture
from llenergymeasure.backends.gpus import only_gpus, process_gpus
from llenergymeasure.backends.model_files import resolve_folder
from llenergymeasure.backends.tokens import TokenisedPrompts, input_limit, load_tokenizer
from llenergymeasure.errors import LemError, first_line

if TYPE_CHECKING:
    from llenergymeasure.config import ExperimentConfig
    from llenergymeasure.prompts import Prompt

__all__ = ["TensorRTBackend"]

_Finished = tuple[RequestOutcome, float]  # and when its first token came


class TensorRTBackend:
    """`tensorrt_llm.LLM`."""

    name = "tensorrt"

    def __init__(self) -> None:
        self._llm: Any = None

    def load(self, config: ExperimentConfig, *, process_index: int, num_processes: int) -> ModelInfo:
        """Builds or loads the engine; see Backend."""
        if config.fp_precision == "float32":
            raise LemError("TensorRT-LLM does not run float32; use fp_precision float16 or bfloat16")
        if config.decoder.beam_search.num_beams > 1 or config.adapter:
            raise LemError("the tensorrt backend has no beam search and no adapter here; use backend pytorch")
        from tensorrt_llm import LLM

        folder = resolve_folder(config.model_name)
        architecture = read_architecture(folder)
        limit, warnings = input_limit(config, architecture)
        options = {**_defaults(config, limit), **(config.tensorrt or {})}
        gpus = process_gpus(config, process_index=process_index, num_processes=num_processes)
        try:
            with only_gpus(gpus):
                self._llm = LLM(model=str(folder), **options)
        except (ValueError, RuntimeError, OSError, TypeError) as error:
            reason = first_line(error)
            raise LemError(f"TensorRT-LLM can't start: {reason}") from error
        self._config, self._limit = config, int(options["max_batch_size"])
        self._prompts = TokenisedPrompts(load_tokenizer(folder), limit=limit)
        return ModelInfo(
            name=config.model_name,
            folder=folder,
            architecture=architecture,
            dtype=config.fp_precision,
            device="cuda",
            max_input_tokens=limit,
            warnings=warnings,
        )

    def prepare(self, prompts: Sequence[Prompt]) -> dict[str, int]:
        """Tokenises; see Backend."""
        return self._prompts.add(prompts)

    def run(self, source: RequestSource, *, streaming: bool) -> Iterator[BatchOutcome]:
        """Keeps up to max_batch_size requests in the engine; see Backend."""
        done: queue.Queue[_Finished | BaseException] = queue.Queue()
        running = 0
        while running or not source.exhausted:
            for request in source.take(self._limit - running):
                running += 1
                threading.Thread(target=self._follow, args=(request, streaming, done), daemon=True).start()
            if not running:
                source.wait()
                continue
            try:
                found = done.get(timeout=0.01)  # s: new arrivals are looked for as often
            except queue.Empty:
                continue
            running -= 1
            if isinstance(found, BaseException):
                raise LemError(f"TensorRT-LLM failed: {found}") from found
            outcome, first = found
            yield BatchOutcome((outcome,), request_phases([(outcome.started_s, first, outcome.finished_s)]))

    def peak_memory(self) -> tuple[float | None, str | None]:
        """Not known: the library allocates outside of torch; see Backend."""
        return None, "TensorRT-LLM does not say"

    def reset_peak_memory(self) -> None:
        """Nothing to reset."""

    def close(self) -> None:
        """Ends the engine."""
        if self._llm is not None:
            self._llm.shutdown()
            self._llm = None

    def _follow(self, request: Request, streaming: bool, done: queue.Queue[_Finished | BaseException]) -> None:
        """Times one request's tokens as they are streamed."""
        try:
            ids = self._prompts[request.prompt]
            started = time.monotonic() if request.arrived_s is None else request.arrived_s
            line = Timeline(request.prompt, len(ids), started)
            completion = None
            for output in self._llm.generate_async(list(ids), _params(self._config), streaming=True):
                completion = output.outputs[0]
                line.token_s += [time.monotonic()] * (len(completion.token_ids) - len(line.token_s))
            wanted = self._config.save_outputs or self._config.decode_token_to_text
            text = str(completion.text) if wanted and completion is not None else None
            outcome = line.outcome(streaming=streaming, output_tokens=len(line.token_s), text=text)
            done.put((outcome, line.token_s[0] if line.token_s else outcome.finished_s))
        except Exception as error:  # noqa: BLE001 - whatever it is, the main thread raises it
            done.put(error)


def _defaults(config: ExperimentConfig, limit: int) -> dict[str, Any]:
    """What the configuration says in the library's words."""
    found: dict[str, Any] = {
        "dtype": config.fp_precision,
        "max_batch_size": config.batching.batch_size,
        "max_input_len": limit,
        "max_seq_len": limit + config.max_output_tokens,
        "trust_remote_code": False,
    }
    if config.batching.max_tokens_per_batch:
        found["max_num_tokens"] = config.batching.max_tokens_per_batch
    if config.parallelism.strategy == "tensor_parallel":
        found["tensor_parallel_size"] = config.parallelism.degree
    elif config.parallelism.strategy == "pipeline_parallel":
        found["pipeline_parallel_size"] = config.parallelism.degree
    return found


def _params(config: ExperimentConfig) -> Any:
    from tensorrt_llm import SamplingParams

    decoder = config.decoder
    return SamplingParams(
        temperature=0.0 if decoder.greedy else decoder.temperature,
        top_k=1 if decoder.greedy else decoder.top_k or None,
        top_p=decoder.top_p,
        min_p=decoder.min_p or None,
        repetition_penalty=decoder.repetition_penalty,
        no_repeat_ngram_size=decoder.no_repeat_ngram_size or None,
        max_tokens=config.max_output_tokens,
        min_tokens=config.min_output_tokens or None,
        seed=config.random_seed,
    )
