"""Medical text generation: a style, a length and a strategy in; the text and what was measured on it out.

    generator = TextGenerator("smollm2-135m-instruct")
    options = GenerationOptions(style=Style(purpose="patient", readability="general"), target_words=120)
    result = generator.generate("Explain hypertension to a patient.", options)
    result.text, result.metadata["constraints_report"]["words"]

Not for clinical use.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any, cast

from medvllm.errors import MedvllmError
from medvllm.outputs import GenerationInterrupted
from medvllm.tasks.generation.metadata import describe_engine, describe_request
from medvllm.tasks.generation.options import DISCLAIMER, GenerationOptions, Style
from medvllm.tasks.generation.prompt import Prompt, build_prompt
from medvllm.tasks.generation.report import constraints_report, factual_report
from medvllm.tasks.generation.result import GeneratedText, GenerationResult, TextInterrupted
from medvllm.tasks.generation.shape import Draft, finished_text

if TYPE_CHECKING:
    from medvllm.llm import LLM
    from medvllm.outputs import CompletionOutput, RequestOutput
    from medvllm.tasks.ner_processor import NERProcessor

__all__ = [
    "DISCLAIMER",
    "GeneratedText",
    "GenerationOptions",
    "GenerationResult",
    "Style",
    "TextGenerator",
    "TextInterrupted",
]


class TextGenerator:
    """Writes texts with a causal language model.

    `model` is a registered name, a folder, a .gguf file, a hub id, or an `LLM` that is loaded already; further
    arguments are those of `medvllm.LLM`.

    Raises:
        MedvllmError: the model can't be found or loaded, or an argument of the engine can't be.
    """

    def __init__(self, model: str | LLM, **engine: Any) -> None:
        began = time.perf_counter()
        if isinstance(model, str):
            from medvllm.llm import LLM

            self.llm = LLM(model, **engine)
            self.name = model
        else:
            if engine:
                raise MedvllmError(f"the LLM is loaded already; give {', '.join(engine)} where it is made")
            self.llm = model
            self.name = self.llm.stats().model
        self.load_s = time.perf_counter() - began
        self.tokenizer = self.llm.engine.tokenizer

    def generate(
        self,
        text: str,
        options: GenerationOptions | None = None,
        *,
        report: bool = True,
        on_text: Callable[[str], None] | None = None,
    ) -> GenerationResult:
        """The text for one prompt.

        With `on_text` the text is handed out while it is written, in pieces that together are `result.text`: tokens, or
        whole sentences where a target may still cut it. `report` False leaves out what is measured on the text.

        Raises:
            MedvllmError: the prompt is too long for the model (`options.truncate` cuts it instead).
            TextInterrupted: Ctrl-C after the first token; it holds the text so far.
        """
        options = options or GenerationOptions()
        prompt = self._prompt(text, options)
        draft = Draft(options)
        began = time.perf_counter()
        if options.in_force["strategy"] == "beam" or options.n > 1:
            output, interrupted = self._whole(prompt, options)
        else:
            output, interrupted = self._stream(prompt, options, draft, on_text)
        elapsed_s = time.perf_counter() - began
        result = self._result(
            text, prompt, output, options, report=report, interrupted=interrupted, elapsed_s=elapsed_s
        )
        if on_text is not None:
            on_text(draft.rest(result.text))
        if interrupted:
            raise TextInterrupted(result)
        return result

    def generate_many(
        self, texts: Sequence[str], options: GenerationOptions | None = None, *, report: bool = True
    ) -> list[GenerationResult | MedvllmError]:
        """The texts for many prompts, computed together, in their order; an error stands for a prompt that can't be."""
        options = options or GenerationOptions()
        prompts: list[Prompt | MedvllmError] = []
        for text in texts:
            try:
                prompts.append(self._prompt(text, options))
            except MedvllmError as error:
                prompts.append(error)
        outputs = iter(self._run([prompt for prompt in prompts if isinstance(prompt, Prompt)], options))
        results: list[GenerationResult | MedvllmError] = []
        for text, prompt in zip(texts, prompts, strict=True):
            if isinstance(prompt, MedvllmError):
                results.append(prompt)
                continue
            results.append(self._result(text, prompt, next(outputs), options, report=report, interrupted=False))
        return results

    def _prompt(self, text: str, options: GenerationOptions) -> Prompt:
        return build_prompt(text, options, self.tokenizer, max_model_len=self.llm.engine.runner.max_model_len)

    def _run(self, prompts: list[Prompt], options: GenerationOptions) -> list[RequestOutput]:
        if not prompts:
            return []
        return self.llm.generate([prompt.token_ids for prompt in prompts], self._params(options))

    def _whole(self, prompt: Prompt, options: GenerationOptions) -> tuple[RequestOutput, bool]:
        """The request when it is done, or what there is of its texts at Ctrl-C, and whether that ended it."""
        try:
            (output,) = self._run([prompt], options)
        except GenerationInterrupted as error:
            (output,) = error.outputs
            if not output.outputs or not all(one.text.strip() for one in output.outputs):
                raise
            return output, True
        return output, False

    def _stream(
        self, prompt: Prompt, options: GenerationOptions, draft: Draft, on_text: Callable[[str], None] | None
    ) -> tuple[RequestOutput, bool]:
        """The last state of the request, and whether Ctrl-C ended it; hands out what is sure to stay."""
        last: RequestOutput | None = None
        stream = cast("Generator[RequestOutput, None, None]", self.llm.stream(prompt.token_ids, self._params(options)))
        try:
            for last in stream:
                piece, enough = draft.advance(last.outputs[0].text)
                if on_text is not None and piece:
                    on_text(piece)
                if enough:
                    break
        except KeyboardInterrupt:
            if last is None or not last.outputs[0].text.strip():
                raise
            return last, True
        finally:
            stream.close()  # takes the request out of the engine
        assert last is not None, "a request ends with an output"
        return last, False

    def _params(self, options: GenerationOptions) -> Any:
        from medvllm.sampling_params import BeamSearchParams, SamplingParams

        force = options.in_force
        if force["strategy"] == "beam":
            return BeamSearchParams(
                beam_width=force["beam_width"],
                max_tokens=force["max_new_tokens"],
                n=force["n"],
                length_penalty=force["length_penalty"],
            )
        return SamplingParams(
            n=force["n"],
            temperature=force["temperature"],
            top_p=1.0 if force["top_p"] is None else force["top_p"],
            top_k=force["top_k"] or 0,
            min_p=force["min_p"] or 0.0,
            repetition_penalty=force["repetition_penalty"],
            presence_penalty=force["presence_penalty"],
            frequency_penalty=force["frequency_penalty"],
            stop=force["stop"],
            seed=options.seed,
            max_tokens=force["max_new_tokens"],
            json_schema=None if options.json_schema is None else dict(options.json_schema),
        )

    def _result(
        self,
        source: str,
        prompt: Prompt,
        output: RequestOutput,
        options: GenerationOptions,
        *,
        report: bool,
        interrupted: bool,
        elapsed_s: float | None = None,
    ) -> GenerationResult:
        texts = tuple(
            self._text(source, completion, options, report=report, interrupted=interrupted)
            for completion in output.outputs
        )
        metadata = {
            **describe_request(options, prompt, output, texts, elapsed_s=elapsed_s),
            "model": self.name,
            "load_s": round(self.load_s, 3),
            **describe_engine(self.llm.stats(), requested_attention=self.llm.engine.options.attention_impl),
            "constraints_report": texts[0].constraints_report,
            "factual_report": texts[0].factual_report,
        }
        if len(texts) > 1:
            metadata["outputs"] = [
                {
                    "finish_reason": text.finish_reason,
                    "output_tokens": text.num_tokens,
                    "constraints_report": text.constraints_report,
                    "factual_report": text.factual_report,
                }
                for text in texts
            ]
        return GenerationResult(texts, metadata)

    def _text(
        self, source: str, completion: CompletionOutput, options: GenerationOptions, *, report: bool, interrupted: bool
    ) -> GeneratedText:
        text, ending = finished_text(completion.text, completion.finish_reason, options, interrupted=interrupted)
        tokens = len(completion.token_ids)
        if not report:
            return GeneratedText(text, ending.reason, tokens)
        processor, unavailable = _mentions()
        return GeneratedText(
            text,
            ending.reason,
            tokens,
            constraints_report(source, text, options, ending),
            factual_report(source, text.removesuffix(DISCLAIMER), processor, unavailable=unavailable),
        )


@functools.cache
def _mentions() -> tuple[NERProcessor | None, str | None]:
    """What finds drugs and diseases in a text, or why there is none: the ontology store may not be built."""
    from medvllm.tasks.ner_processor import NERProcessor

    try:
        return NERProcessor(fast=True), None  # what the dictionary says of a term; notes' context misleads in prose
    except MedvllmError as error:
        return None, str(error)
