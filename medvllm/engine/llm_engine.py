"""The loop: schedule → run → postprocess."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Sequence as Many
from typing import Any

import torch

from medvllm.engine.beam_search import BeamSearch
from medvllm.engine.block_manager import BlockManager
from medvllm.engine.config import EngineConfig
from medvllm.engine.executor import Executor
from medvllm.engine.output import needs_text, new_detokenizer, request_output
from medvllm.engine.reporting import engine_stats
from medvllm.engine.sampling import PenaltyState, adjust, beam_candidates, choose, new_generator, top_logprobs
from medvllm.engine.scheduler import Scheduler
from medvllm.engine.sequence import Request, Sequence
from medvllm.engine.stats import Clock, EngineStats
from medvllm.engine.step_input import build_step_input
from medvllm.engine.structured import GrammarCompiler
from medvllm.errors import MedvllmError
from medvllm.models.configuration import stop_token_ids
from medvllm.models.files import resolve_model
from medvllm.models.tokenizer import load_text_tokenizer, load_tokenizer
from medvllm.outputs import RequestOutput
from medvllm.sampling_params import BeamSearchParams, SamplingParams
from medvllm.utils.device import resolve_device

__all__ = ["LLMEngine"]


class LLMEngine:
    """Takes requests in, and with each `step` brings all that run one token further."""

    def __init__(self, options: EngineConfig) -> None:
        self.options, self.device = options, resolve_device(options.device)
        files = resolve_model(
            options.model, trust_remote_code=options.trust_remote_code, allow_pickle=options.allow_pickle
        )
        named = options.tokenizer
        self._tokenizer_files = files if named is None else resolve_model(named)
        self.tokenizer = load_text_tokenizer(self._tokenizer_files)
        self.executor = Executor(options, files, self.device)
        self.runner = self.executor.runner
        self.eos_token_ids = frozenset(stop_token_ids(files, self.runner.config))
        self.block_manager = BlockManager(
            self.runner.num_blocks, options.block_size, enable_prefix_caching=options.enable_prefix_caching
        )
        self.scheduler = Scheduler(
            self.block_manager,
            max_num_seqs=options.max_num_seqs,
            max_num_batched_tokens=options.max_num_batched_tokens,
            enable_chunked_prefill=options.enable_chunked_prefill,
        )
        if not options.enable_chunked_prefill and options.max_num_batched_tokens < self.runner.max_model_len:
            raise MedvllmError(
                "without chunked prefill max_num_batched_tokens must be at least "
                f"max_model_len={self.runner.max_model_len}, got {options.max_num_batched_tokens}"
            )
        self.grammars = GrammarCompiler(self.tokenizer, self.runner.config.vocab_size, self.eos_token_ids)
        self.requests: dict[int, Request] = {}
        self.clock = Clock()
        self._ids = itertools.count()

    @functools.cached_property
    def full_tokenizer(self) -> Any:
        """The tokenizer as transformers' object, of the same token ids as `tokenizer`."""
        return load_tokenizer(self._tokenizer_files)

    def add_request(
        self,
        prompt: str | None,
        token_ids: Many[int],
        params: SamplingParams | BeamSearchParams,
        *,
        truncate: bool = False,
    ) -> Request:
        """Queues a prompt. `truncate` drops the head of a prompt that is too long.

        Raises:
            MedvllmError: an empty prompt, one longer than the context, a token that is none, or more completions than
                max_num_seqs.
        """
        ids = self._checked_prompt(list(token_ids), params, truncate=truncate)
        room = self.runner.max_model_len - len(ids)
        eos = frozenset() if params.ignore_eos else self.eos_token_ids
        request = Request(
            request_id=next(self._ids),
            prompt=prompt,
            prompt_token_ids=ids,
            params=params,
            max_tokens=room if params.max_tokens is None else min(params.max_tokens, room),
            eos_token_ids=eos | frozenset(params.stop_token_ids),
            arrival_s=time.perf_counter(),
        )
        if request.width > self.options.max_num_seqs:
            what = "beam_width" if isinstance(params, BeamSearchParams) else "n"
            raise MedvllmError(f"{what} must be at most max_num_seqs={self.options.max_num_seqs}, got {request.width}")
        seq = Sequence(request, ids.copy(), len(ids))
        self._prepare_choice(seq, request)
        request.sequences = [seq]
        self.requests[request.request_id] = request
        self.scheduler.add(seq)
        return request

    def _checked_prompt(self, ids: list[int], params: Any, *, truncate: bool) -> list[int]:
        limit, vocab = self.runner.max_model_len - 1, self.runner.config.vocab_size  # one token at least is generated
        if not ids:
            raise MedvllmError("a prompt must have at least one token, got an empty one")
        if len(ids) > limit:
            if not truncate:
                raise MedvllmError(
                    f"the prompt has {len(ids)} tokens, the context holds {self.runner.max_model_len} with at least "
                    "one generated; shorten it, or truncate it (truncate=True, --truncate)"
                )
            ids = ids[-max(1, limit + 1 - min(params.max_tokens or 1, limit)) :]
        if not 0 <= min(ids) <= max(ids) < vocab:
            raise MedvllmError(f"token ids must be in [0, {vocab}), got {min(ids)} to {max(ids)}")
        return ids

    def _prepare_choice(self, seq: Sequence, request: Request) -> None:
        """Gives the first sequence of a request what choosing its tokens needs."""
        params = request.params
        if isinstance(params, BeamSearchParams):
            request.beam_search = BeamSearch(params, eos_token_ids=request.eos_token_ids, max_tokens=request.max_tokens)
            return
        if params.prompt_logprobs is not None:
            request.prompt_logprobs = [None] * len(seq.token_ids)
        if params.penalised:
            seq.penalties = PenaltyState(params, seq, self.runner.config.vocab_size, self.runner.device)
        if params.json_schema is not None:
            seq.grammar = self.grammars.compile(str(params.json_schema))
        seq.generator = self._generator(request, 0)
        seq.detokenizer = needs_text(self.tokenizer, seq)

    def _generator(self, request: Request, index: int) -> Any:
        seed = getattr(request.params, "seed", None)
        return new_generator(f"{self.options.seed}/{request.request_id}" if seed is None else str(seed), index)

    @torch.inference_mode()
    def step(self) -> list[Request]:
        """Brings every scheduled sequence further; returns the requests that got tokens."""
        began = time.perf_counter()
        try:  # from here on blocks are entered in the prefix cache that the model has yet to fill
            seqs = self.scheduler.schedule()
            if not seqs:
                return []
            scheduled = time.perf_counter()
            step = build_step_input(seqs, self.block_manager.take_copies(), self.options.block_size)
            prepared = time.perf_counter()
            logits = self.executor.run(step)
            ran = time.perf_counter()
            chosen = self._choose(seqs, logits)
            sampled = time.perf_counter()
        except BaseException:
            self.scheduler.preempt_all()
            raise
        changed = self._postprocess(chosen)
        self._count(seqs, began, scheduled, prepared, ran, sampled)
        return changed

    def _choose(self, seqs: list[Sequence], logits: Any) -> list[tuple[Sequence, int | None]]:
        """The sequences whose last token was computed, those forked just now included, with their next tokens.

        A beam gets candidates instead of a token.
        """
        logits = self._take_prompt_logprobs(seqs, logits)
        rows: list[int] = []
        ready: list[Sequence] = []
        sampling = [seq for seq in seqs if seq.samples]
        for seq in seqs:
            seq.num_computed_tokens += seq.num_scheduled_tokens
        for row, seq in enumerate(sampling):
            forks = self._fork_samples(seq)
            ready += [seq, *forks]
            rows += [row] * (1 + len(forks))
        if len(rows) > len(sampling):
            logits = logits[rows]
        beams = [i for i, seq in enumerate(ready) if seq.request.beam_search is not None]
        for place in beams:
            search = ready[place].request.beam_search
            (ready[place].candidates,) = beam_candidates(logits[place : place + 1], search.num_candidates)
        if len(beams) == len(ready):
            return [(seq, None) for seq in ready]
        raw = [self._raw_logits(logits, i, seq) for i, seq in enumerate(ready)]
        adjust(logits, ready)
        tokens = choose(logits, ready)
        for seq, token, row_logits in zip(ready, tokens, raw, strict=True):
            if row_logits is not None:
                (entry,) = top_logprobs(row_logits, [token], seq.request.params.logprobs)
                seq.logprobs.append(entry)
                seq.cumulative_logprob += entry[token].logprob
        waits = set(beams)
        return [(seq, None if i in waits else token) for i, (seq, token) in enumerate(zip(ready, tokens, strict=True))]

    @staticmethod
    def _raw_logits(logits: Any, row: int, seq: Sequence) -> Any:
        """A copy of the row whose log-probabilities are asked for, before anything changes it."""
        wanted = getattr(seq.request.params, "logprobs", None) is not None
        return logits[row : row + 1].clone() if wanted else None

    def _fork_samples(self, seq: Sequence) -> list[Sequence]:
        """The other completions of a prompt that has just been computed; they share its blocks."""
        request = seq.request
        if request.beam_search is not None or len(request.sequences) == request.width:
            return []
        forks = [seq.fork(index) for index in range(1, request.width)]
        for fork in forks:
            fork.generator = self._generator(request, fork.index)
            fork.grammar = None if seq.grammar is None else seq.grammar.fork()
            if seq.penalties is not None:
                fork.penalties = PenaltyState(request.params, fork, self.runner.config.vocab_size, self.runner.device)
            fork.detokenizer = needs_text(self.tokenizer, fork)
            self.scheduler.fork(seq, fork)
        request.sequences += forks
        return forks

    def _take_prompt_logprobs(self, seqs: list[Sequence], logits: Any) -> Any:
        """Notes the log-probabilities of prompt tokens; the rows of `logits` that choose tokens."""
        if not any(seq.wants_prompt_logprobs for seq in seqs):
            return logits
        keep, row = [], 0
        for seq in seqs:
            count = seq.num_scheduled_tokens if seq.wants_prompt_logprobs else int(seq.samples)
            if seq.wants_prompt_logprobs:
                first = seq.num_computed_tokens + 1  # the token that the first row predicts
                targets = seq.token_ids[first : first + count]
                part = logits[row : row + len(targets)]
                entries = top_logprobs(part, targets, seq.request.params.prompt_logprobs) if targets else []
                known = seq.request.prompt_logprobs or []  # a list, for they are wanted
                known[first : first + len(targets)] = entries
            row += count
            if seq.samples:
                keep.append(row - 1)
        return logits[keep]

    def _postprocess(self, chosen: list[tuple[Sequence, int | None]]) -> list[Request]:
        """Appends the tokens, ends what is finished, and advances beam searches whose beams are all there."""
        now = time.perf_counter()
        changed: dict[int, Request] = {}
        for seq, token in chosen:
            request = seq.request
            if token is not None:
                self._append(seq, token)
            elif all(beam.candidates is not None for beam in request.sequences):
                self._advance_beams(request)
            else:
                continue
            if request.first_token_s is None:
                request.first_token_s = now
            changed[request.request_id] = request
        for request in changed.values():
            if all(seq.finish_reason is not None for seq in request.sequences):
                self._finish(request)
        return list(changed.values())

    def _append(self, seq: Sequence, token: int) -> None:
        """Adds a token to a sequence and sees whether it ends there."""
        request, params = seq.request, seq.request.params
        seq.token_ids.append(token)
        if seq.penalties is not None:
            seq.penalties.add(token)
        ends = token in request.eos_token_ids
        if seq.detokenizer is not None and not ends:
            seq.detokenizer.add(token, include_stop=params.include_stop_str_in_output)
        if seq.grammar is not None:
            seq.grammar.accept(token)
        if ends:
            seq.finish_reason, seq.stop_reason = "stop", token if token in params.stop_token_ids else None
        elif seq.detokenizer is not None and seq.detokenizer.stopped_by is not None:
            seq.finish_reason, seq.stop_reason = "stop", seq.detokenizer.stopped_by
        elif seq.grammar is not None and seq.grammar.finished:
            seq.finish_reason = "stop"
        elif seq.num_output_tokens >= request.max_tokens:
            seq.finish_reason = "length"
        if seq.finish_reason is not None:
            self.scheduler.remove(seq)

    def _advance_beams(self, request: Request) -> None:
        """Takes the best continuations of all beams; a beam continued twice is forked, one not continued is dropped."""
        old = request.sequences
        chosen = request.beam_search.advance([seq.output_token_ids for seq in old], [seq.candidates for seq in old])
        new: list[Sequence] = []
        for index, continuation in enumerate(chosen):
            parent = old[continuation.parent]
            if parent in new:
                child = parent.fork(index)
                self.scheduler.fork(parent, child)
                parent = child
            new.append(parent)
        for seq in old:
            if seq not in new:
                self.scheduler.remove(seq)
        for index, (seq, continuation) in enumerate(zip(new, chosen, strict=True)):
            seq.token_ids.append(continuation.token)
            seq.index, seq.candidates = index, None
            self.scheduler.resume(seq)
        request.sequences = new or self._finished_beams(request)

    def _finished_beams(self, request: Request) -> list[Sequence]:
        """The best finished beams as sequences."""
        found = []
        for index, beam in enumerate(request.beam_search.finished[: request.params.n]):
            seq = Sequence(request, request.prompt_token_ids + beam.token_ids, len(request.prompt_token_ids), index)
            seq.cumulative_logprob = beam.score
            seq.finish_reason = "length" if beam.by_length else "stop"
            found.append(seq)
        return found

    def _finish(self, request: Request) -> None:
        request.finished_s = time.perf_counter()
        del self.requests[request.request_id]
        clock = self.clock
        clock.requests_finished += 1
        clock.prompt_tokens += len(request.prompt_token_ids)
        clock.output_tokens += sum(seq.num_output_tokens for seq in request.sequences)
        clock.ttft_total_s += (request.first_token_s or request.finished_s) - request.arrival_s

    def follow(self, request: Request) -> None:
        """Keeps the text of a request up to date at each token, for streaming."""
        for seq in request.sequences:
            if seq.detokenizer is None and request.beam_search is None:
                seq.detokenizer = new_detokenizer(self.tokenizer, seq)
        request.followed = True

    def abort(self, request: Request) -> None:
        """Drops a request; what it has so far stays in its output, with finish_reason "abort"."""
        self.requests.pop(request.request_id, None)
        for seq in request.sequences:
            self.scheduler.remove(seq)
            seq.finish_reason = seq.finish_reason or "abort"

    def output(self, request: Request) -> RequestOutput:
        """What a request has so far."""
        return request_output(request, self.tokenizer)

    def stats(self) -> EngineStats:
        """Counters, times and choices so far."""
        return engine_stats(self)

    def shutdown(self) -> None:
        """Ends the processes of the other ranks."""
        self.executor.shutdown()

    def _count(
        self, seqs: list[Sequence], began: float, scheduled: float, prepared: float, ran: float, sampled: float
    ) -> None:
        now, clock = time.perf_counter(), self.clock
        clock.steps += 1
        clock.schedule_s += scheduled - began
        clock.prepare_s += prepared - scheduled
        clock.model_s += ran - prepared
        clock.sample_s += sampled - ran
        clock.postprocess_s += now - sampled
        if all(seq.num_scheduled_tokens == 1 for seq in seqs):
            clock.decode_steps += 1
            clock.decode_s += now - began
        clock.kv_blocks_peak = max(clock.kv_blocks_peak, self.block_manager.num_used)
