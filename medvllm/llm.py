"""`LLM`: a model and the engine that runs it, with the interface of vLLM's offline class."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from medvllm.engine.config import EngineConfig
from medvllm.engine.llm_engine import LLMEngine
from medvllm.engine.sequence import Request
from medvllm.engine.stats import Clock, EngineStats
from medvllm.errors import MedvllmError
from medvllm.models.tokenizer import apply_chat_template
from medvllm.outputs import GenerationInterrupted, RequestOutput
from medvllm.sampling_params import BeamSearchParams, SamplingParams

__all__ = ["LLM"]

Prompt = str | Sequence[int]
Params = SamplingParams | BeamSearchParams


class LLM:
    """A language model on this machine.

        llm = LLM("smollm2-135m-instruct")
        for output in llm.generate(["Hypertension is"], SamplingParams(temperature=0, max_tokens=32)):
            print(output.outputs[0].text)

    Args:
        model: a registered name, a folder, a .gguf file or a hub id.
        options: those of `medvllm.engine.config.EngineConfig`, by keyword.

    Raises:
        MedvllmError: a model that can't be loaded, an option that is wrong, or too little memory; says what is needed.
    """

    def __init__(self, model: str, **options: Any) -> None:
        known = {field.name for field in dataclasses.fields(EngineConfig)}
        unknown = sorted(set(options) - known)
        if unknown:
            raise MedvllmError(f"LLM has no option {unknown[0]!r}; the options are {', '.join(sorted(known))}")
        self.engine = LLMEngine(EngineConfig(model=model, **options))

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer, of transformers' kind, which is imported when this is first asked for."""
        return self.engine.full_tokenizer

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: Params | Sequence[Params] | None = None,
        *,
        use_tqdm: bool = False,
        truncate: bool = False,
    ) -> list[RequestOutput]:
        """The completions of texts or lists of token ids, in their order.

        Args:
            prompts: one, or many.
            sampling_params: for all, or one for each; the default samples 16 tokens.
            use_tqdm: a progress bar on stderr.
            truncate: drop the head of a prompt longer than the context instead of refusing it.

        Raises:
            MedvllmError: a prompt or parameter that can't be used; nothing was generated.
            GenerationInterrupted: Ctrl-C; its `outputs` hold what there is.
        """
        many = _listed(prompts)
        params = _spread(sampling_params or SamplingParams(), len(many))
        requests: list[Request] = []
        try:
            for prompt, each in zip(many, params, strict=True):
                requests.append(self._add(prompt, each, truncate=truncate))
            self._run(requests, use_tqdm=use_tqdm)
        except KeyboardInterrupt:
            self._drop(requests)
            raise GenerationInterrupted([self.engine.output(request) for request in requests]) from None
        except BaseException:
            self._drop(requests)
            raise
        return [self.engine.output(request) for request in requests]

    def chat(
        self,
        messages: Sequence[Mapping[str, str]] | Sequence[Sequence[Mapping[str, str]]],
        sampling_params: Params | Sequence[Params] | None = None,
        *,
        chat_template: str | None = None,
        use_tqdm: bool = False,
        truncate: bool = False,
    ) -> list[RequestOutput]:
        """The model's answers to one conversation or many, through its chat template."""
        many: Any = [messages] if messages and isinstance(messages[0], Mapping) else messages
        prompts = [apply_chat_template(self.engine.tokenizer, each, template=chat_template) for each in many]
        return self.generate(prompts, sampling_params, use_tqdm=use_tqdm, truncate=truncate)

    def stream(
        self, prompt: Prompt, sampling_params: Params | None = None, *, truncate: bool = False
    ) -> Iterator[RequestOutput]:
        """One completion as it grows: each output holds all there is so far, the last has `finished`.

        Leaving the iterator early drops the request.
        """
        request = self._add(prompt, sampling_params or SamplingParams(), truncate=truncate)
        self.engine.follow(request)
        try:
            while not request.finished:
                if request in self.engine.step():
                    yield self.engine.output(request)
        finally:
            self._drop([request])

    def stats(self) -> EngineStats:
        """What the engine counted, timed and chose."""
        return self.engine.stats()

    def reset_stats(self) -> None:
        """Sets counters and times back to zero."""
        self.engine.clock = Clock()

    def shutdown(self) -> None:
        """Ends the processes of the other tensor-parallel ranks."""
        self.engine.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()

    def _add(self, prompt: Prompt, params: Params, *, truncate: bool) -> Request:
        text = prompt if isinstance(prompt, str) else None
        ids: Any = self.engine.tokenizer.encode(text) if text is not None else prompt
        return self.engine.add_request(text, ids, params, truncate=truncate)

    def _run(self, requests: list[Request], *, use_tqdm: bool) -> None:
        """Steps until the requests are done."""
        left = {request.request_id for request in requests}
        with _progress(len(requests), show=use_tqdm) as bar:
            while left:
                done = {each.request_id for each in self.engine.step() if each.finished} & left
                left -= done
                bar.update(len(done))

    def _drop(self, requests: list[Request]) -> None:
        """Lets go of those that are not finished."""
        for request in requests:
            if not request.finished:
                self.engine.abort(request)


class _NoBar:
    """Stands in for a progress bar."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, count: int) -> None:
        """Shows nothing."""


def _progress(total: int, *, show: bool) -> Any:
    if not show:
        return _NoBar()
    from tqdm import tqdm

    return tqdm(total=total, desc="Prompts", file=sys.stderr)


def _listed(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """One prompt or many as a list."""
    if isinstance(prompts, str):
        return [prompts]
    found: list[Any] = list(prompts)
    return [found] if found and isinstance(found[0], int) else found


def _spread(params: Params | Sequence[Params], count: int) -> list[Params]:
    """The parameters of each of `count` prompts."""
    if isinstance(params, SamplingParams | BeamSearchParams):
        return [params] * count
    if len(params) != count:
        raise MedvllmError(f"sampling_params must be one, or one for each of {count} prompts, got {len(params)}")
    return list(params)
