"""transformers' models in PyTorch: real batches, left-padded with an attention mask, from safetensors only.

A batch runs to its longest completion, so all its requests finish together unless they are streamed. The prefill phase
ends when the first tokens are there, by a synchronised clock.
"""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, StoppingCriteria, StoppingCriteriaList
from transformers.utils import logging as transformers_logging

from llenergymeasure.backends.base import BatchOutcome, ModelInfo, Phase, Request, RequestSource, Timeline, peak_rss_mib
from llenergymeasure.backends.flops import read_architecture
from llenergymeasure.backends.gpus import process_gpus
from llenergymeasure.backends.model_files import resolve_folder
from llenergymeasure.backends.tokens import TokenisedPrompts, check_options, input_limit, load_tokenizer
from llenergymeasure.errors import LemError, first_line

if TYPE_CHECKING:
    from llenergymeasure.config import ExperimentConfig
    from llenergymeasure.prompts import Prompt

__all__ = ["OPTIONS", "PyTorchBackend"]

OPTIONS = ("attn_implementation", "cache_implementation", "device_map", "threads", "torch_compile")


class PyTorchBackend:
    """A causal language model of transformers. Section `pytorch`: attn_implementation, cache_implementation,
    device_map (of accelerate), threads, torch_compile (true or a mode)."""

    name = "pytorch"

    def __init__(self) -> None:
        self._model: Any = None

    def load(self, config: ExperimentConfig, *, process_index: int, num_processes: int) -> ModelInfo:
        """Loads the model in `fp_precision`; see Backend."""
        options = check_options("pytorch", config.pytorch, OPTIONS)
        if config.parallelism.strategy in ("tensor_parallel", "pipeline_parallel") and config.parallelism.degree > 1:
            raise LemError(
                "the pytorch backend runs a model in one process; use backend vllm or medvllm for parallelism."
                f"strategy {config.parallelism.strategy}, or pytorch: {{device_map: auto}} to place layers on GPUs"
            )
        folder = resolve_folder(config.model_name)
        architecture = read_architecture(folder)
        limit, warnings = input_limit(config, architecture)
        self._config = config
        self._device = _device(config, process_index=process_index, num_processes=num_processes)
        _set_threads(options.get("threads"))
        self._tokenizer = load_tokenizer(folder)
        self._prompts = TokenisedPrompts(self._tokenizer, limit=limit)
        self._model = _load_model(config, folder, self._device, options)
        self._ends = _end_tokens(self._model, self._tokenizer)
        self._pad = next((t for t in (self._tokenizer.pad_token_id, *sorted(self._ends)) if t is not None), 0)
        self._generation = self._generation_config(options.get("cache_implementation"))
        self.reset_peak_memory()
        return ModelInfo(
            name=config.model_name,
            folder=folder,
            architecture=architecture,
            dtype=config.fp_precision,
            device=str(self._device),
            max_input_tokens=limit,
            warnings=warnings,
        )

    def prepare(self, prompts: Sequence[Prompt]) -> dict[str, int]:
        """Tokenises; see Backend."""
        return self._prompts.add(prompts)

    def run(self, source: RequestSource, *, streaming: bool) -> Iterator[BatchOutcome]:
        """One batch after the other; see Backend."""
        while (batch := source.next_batch()) is not None:
            try:
                outcome = self._complete(batch, streaming=streaming)
            except torch.OutOfMemoryError as error:
                raise LemError(
                    f"{self._device} has too little memory for a batch of {len(batch)}; lower batching.batch_size or "
                    "max_input_tokens, or set batching.max_tokens_per_batch with strategy dynamic"
                ) from error
            yield outcome

    def peak_memory(self) -> tuple[float | None, str | None]:
        """Of the GPU's allocator on CUDA, else resident memory; see Backend."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) / 2**20, f"torch allocator, {self._device}"
        return peak_rss_mib(), "resident memory of the process, loading included"

    def reset_peak_memory(self) -> None:
        """Resets the allocator's peak on CUDA."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)

    def close(self) -> None:
        """Frees the model."""
        self._model = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def _complete(self, batch: list[Request], *, streaming: bool) -> BatchOutcome:
        ids, mask = self._padded([self._prompts[request.prompt] for request in batch])  # (batch, width) both
        if self._config.random_seed is not None:  # by batch, so that a resumed run need not know what went before
            torch.manual_seed((self._config.random_seed * 1_000_003 + batch[0].prompt.index) % 2**63)
        clock = _StepClock(self._device, every_step=streaming)
        _synchronise(self._device)
        began = time.monotonic()
        found = self._model.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=self._generation,
            stopping_criteria=StoppingCriteriaList([clock]),
        )
        rows = found[:, ids.shape[1] :].tolist()  # waits for the device
        ended = time.monotonic()
        first = clock.times[0] if clock.times else ended
        requests = []
        for request, row, count in zip(batch, rows, mask.sum(dim=1).tolist(), strict=True):
            tokens = row[: self._completion_length(row)]
            times = clock.times[: len(tokens)] if streaming else [ended]
            line = Timeline(request.prompt, count, began if request.arrived_s is None else request.arrived_s, times)
            text = self._text(tokens)
            requests.append(line.outcome(streaming=streaming, output_tokens=len(tokens), text=text))
        return BatchOutcome(tuple(requests), (Phase("prefill", began, first), Phase("decode", first, ended)))

    def _padded(self, prompts: list[list[int]]) -> tuple[Any, Any]:
        """Token ids padded on the left, and their mask: 1 for the prompt's tokens, 0 for padding."""
        width = max(map(len, prompts))
        ids = torch.tensor([[self._pad] * (width - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        return ids.to(self._device), mask.to(self._device)

    def _completion_length(self, row: list[int]) -> int:
        """Tokens up to the first end-of-sequence token, with it; what follows is padding."""
        end = next((place for place, token in enumerate(row) if token in self._ends), None)
        return len(row) if end is None else end + 1

    def _text(self, tokens: list[int]) -> str | None:
        wanted = self._config.save_outputs or self._config.decode_token_to_text
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True)) if wanted else None

    def _generation_config(self, cache: str | None) -> Any:
        config, decoder = self._config, self._config.decoder
        beams = decoder.beam_search
        options: dict[str, Any] = {
            "max_new_tokens": config.max_output_tokens,
            "min_new_tokens": config.min_output_tokens or None,
            "do_sample": not decoder.greedy,
            "repetition_penalty": decoder.repetition_penalty,
            "no_repeat_ngram_size": decoder.no_repeat_ngram_size,
            "num_beams": beams.num_beams,
            "eos_token_id": sorted(self._ends) or None,
            "pad_token_id": self._pad,
            "cache_implementation": cache,
        }
        if beams.num_beams > 1:
            options |= {"length_penalty": beams.length_penalty, "early_stopping": beams.early_stopping}
        if not decoder.greedy:
            options |= {"temperature": decoder.temperature, "top_p": decoder.top_p, "top_k": decoder.top_k}
            options |= {"min_p": decoder.min_p} if decoder.min_p else {}
        # The model's own defaults (a temperature in generation_config.json) must not fill in what is not said here.
        self._model.generation_config = GenerationConfig(eos_token_id=options["eos_token_id"], pad_token_id=self._pad)
        return GenerationConfig(**options)


class _StepClock(StoppingCriteria):
    """Notes when each step's tokens were there; never stops."""

    def __init__(self, device: torch.device, *, every_step: bool) -> None:
        self._device, self._every_step = device, every_step
        self.times: list[float] = []

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        if self._every_step or not self.times:
            _synchronise(self._device)
            self.times.append(time.monotonic())
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _device(config: ExperimentConfig, *, process_index: int, num_processes: int) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    gpu = process_gpus(config, process_index=process_index, num_processes=num_processes)[0]
    if gpu >= torch.cuda.device_count():
        raise LemError(f"gpus names {gpu}, but {torch.cuda.device_count()} are visible; see: lem gpus")
    return torch.device("cuda", gpu)


def _set_threads(threads: object) -> None:
    """Threads of this process: as asked, else its share of the cores where OMP_NUM_THREADS leaves the choice."""
    if isinstance(threads, int) and threads > 0:
        torch.set_num_threads(threads)
    elif threads is not None:
        raise LemError(f"pytorch.threads must be a positive number, got {threads!r}")
    elif "OMP_NUM_THREADS" not in os.environ:
        local = int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("WORLD_SIZE") or 1)
        torch.set_num_threads(max(1, torch.get_num_threads() // max(local, 1)))


def _load_model(config: ExperimentConfig, folder: Path, device: torch.device, options: dict[str, Any]) -> Any:
    arguments: dict[str, Any] = {
        "dtype": getattr(torch, config.fp_precision),
        "use_safetensors": True,
        "trust_remote_code": False,
        "local_files_only": True,
    }
    if options.get("attn_implementation"):
        arguments["attn_implementation"] = options["attn_implementation"]
    placed = options.get("device_map")
    if config.quantization.bits:
        arguments["quantization_config"] = _quantization(config)
        placed = placed or {"": device}
    if placed:
        if importlib.util.find_spec("accelerate") is None:
            raise LemError("device_map and quantization need accelerate; install it: pip install accelerate")
        arguments["device_map"] = placed
    transformers_logging.disable_progress_bar()  # it would cut through ours
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, **arguments)
        if config.adapter:
            model.load_adapter(_adapter_folder(config.adapter))
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        reason = first_line(error)
        raise LemError(f"can't load the model in {folder}: {reason}") from error
    model = model if placed else model.to(device)
    model.eval()
    compiled = options.get("torch_compile")
    if compiled:
        model.forward = torch.compile(model.forward, mode=compiled if isinstance(compiled, str) else None)
    return model


def _quantization(config: ExperimentConfig) -> Any:
    from transformers import BitsAndBytesConfig

    asked = config.quantization
    if asked.bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_compute_dtype=getattr(torch, asked.bnb_4bit_compute_dtype),
        bnb_4bit_quant_type=asked.bnb_4bit_quant_type,
        bnb_4bit_use_double_quant=asked.bnb_4bit_use_double_quant,
    )


def _adapter_folder(name: str) -> str:
    folder = Path(name).expanduser()
    if not (folder / "adapter_model.safetensors").is_file():
        raise LemError(f"there is no adapter_model.safetensors in {name}; adapter is the folder of a LoRA adapter")
    return str(folder)


def _end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """Tokens that end a completion: the model's, else the tokenizer's."""
    found = getattr(model.generation_config, "eos_token_id", None)
    if found is None:
        found = tokenizer.eos_token_id
    return frozenset([found] if isinstance(found, int) else found or ())
