"""An encoder with a classification head: token ids in, logits out, batched by length on the CPU or a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import torch

from medvllm.errors import MedvllmError, first_line
from medvllm.tasks.encoder_cpu import NativeEncoder, pack_linears
from medvllm.tasks.encoder_files import EncoderFiles, load_tokenizer
from medvllm.tasks.model_ner_windows import frame_of
from medvllm.utils.device import resolve_device
from medvllm.utils.quiet import quiet_transformers

__all__ = ["DTYPES", "EncoderModel", "max_length"]

DTYPES = ("auto", "float32", "bfloat16", "float16", "int8")
_FORMATS: Final = {"float32": "fp32", "bfloat16": "bf16", "int8": "int8"}
# Of a batch. On the CPU more takes time and memory: 2900 rows of a layer leave the caches that 1024 stay in.
_CPU_TOKENS: Final = 1024
_GPU_TOKENS: Final = 4096


class EncoderModel:
    """A model of one task with its tokenizer.

    On the CPU, BERT, RoBERTa and DistilBERT run on the native kernels without padding, others through transformers with
    packed linear layers; on a GPU all run through transformers in batches of similar length.
    """

    def __init__(
        self, files: EncoderFiles, task: str, *, device: str = "auto", dtype: str = "auto", batch_size: int = 16
    ) -> None:
        """`dtype` is that of the weights; auto: float32 on the CPU, bfloat16 on a GPU. On the CPU bfloat16 is only a
        format in memory, no faster, and int8 is faster, but rounds what it multiplies.

        Raises:
            MedvllmError: the model is of another task, its files are broken, or device and dtype do not fit.
        """
        files.check_task(task)
        self.name, self.folder = files.name, files.folder
        self.device = resolve_device(device)
        self.dtype = _dtype(dtype, self.device)
        self.batch_size = batch_size
        self.tokenizer = load_tokenizer(files)
        self.frame = frame_of(self.tokenizer)
        model = _load(files, task)
        names = model.config.id2label
        if sorted(names) != list(range(len(names))):
            raise MedvllmError(f"id2label in {files.folder / 'config.json'} must number the labels from 0, got {names}")
        self.labels = [str(names[at]) for at in range(len(names))]
        self.config = model.config
        self.max_length = max_length(model)
        self._check_vocabulary(model)
        self._forward = self._prepare(model)

    def logits(self, sequences: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        """The float logits of each sequence of ids, special ones included: (tokens, labels), or (labels,) of a whole.

        Raises:
            MedvllmError: the model gives what is no number.
        """
        order = sorted(range(len(sequences)), key=lambda at: len(sequences[at]))
        found: list[torch.Tensor | None] = [None] * len(sequences)
        for chosen in self._batches(order, sequences):
            for at, rows in zip(chosen, self._forward([sequences[at] for at in chosen]), strict=True):
                found[at] = rows
        result = [rows for rows in found if rows is not None]
        if any(not bool(torch.isfinite(rows).all()) for rows in result):
            raise MedvllmError(
                f"model '{self.name}' gives what is no number; its weights are broken, or try --dtype float32"
            )
        return result

    def _batches(self, order: Sequence[int], sequences: Sequence[Sequence[int]]) -> Iterator[list[int]]:
        batch: list[int] = []
        tokens, most = 0, _CPU_TOKENS if self.device == "cpu" else _GPU_TOKENS
        for at in order:
            size = len(sequences[at])
            if batch and (len(batch) >= self.batch_size or tokens + size > most):
                yield batch
                batch, tokens = [], 0
            batch.append(at)
            tokens += size
        if batch:
            yield batch

    def _check_vocabulary(self, model: Any) -> None:
        rows = model.get_input_embeddings().weight.shape[0]
        size = 1 + max(self.tokenizer.get_vocab().values(), default=-1)  # numbers may have gaps
        if size > rows:
            raise MedvllmError(
                f"the tokenizer of '{self.name}' has {size} tokens, its model {rows}; they are not of one model"
            )

    def _prepare(self, model: Any) -> Callable[[Sequence[Sequence[int]]], list[torch.Tensor]]:
        if self.device == "cpu":
            if NativeEncoder.is_possible(model):
                return NativeEncoder(model, format=_FORMATS[self.dtype])
            if self.dtype != "float32":
                pack_linears(model, _FORMATS[self.dtype])
        else:
            model = model.to(self.device, getattr(torch, self.dtype))
        whole = type(model).__name__.endswith("ForSequenceClassification")
        return _Padded(model, device=self.device, whole=whole)


class _Padded:
    """The model through transformers, a batch padded to its longest sequence."""

    def __init__(self, model: Any, *, device: str, whole: bool) -> None:
        self._model, self._device, self._whole = model, device, whole
        self._pad = model.config.pad_token_id or 0

    @torch.inference_mode()
    def __call__(self, sequences: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        """As NativeEncoder."""
        longest = max(map(len, sequences))
        ids = torch.full((len(sequences), longest), self._pad)
        mask = torch.zeros((len(sequences), longest), dtype=torch.int64)
        for row, sequence in enumerate(sequences):
            ids[row, : len(sequence)] = torch.tensor(sequence)
            mask[row, : len(sequence)] = 1
        logits = self._model(input_ids=ids.to(self._device), attention_mask=mask.to(self._device)).logits.float().cpu()
        if self._whole:
            return list(logits)
        return [rows[: len(sequence)] for rows, sequence in zip(logits, sequences, strict=True)]


def _dtype(dtype: str, device: str) -> str:
    if dtype not in DTYPES:
        raise MedvllmError(f"--dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    if dtype == "auto":
        return "float32" if device == "cpu" else "bfloat16"
    if dtype == "int8" and device != "cpu":
        raise MedvllmError("--dtype int8 is for the CPU; use bfloat16 or float16 on a GPU")
    if dtype == "float16" and device == "cpu":
        raise MedvllmError("--dtype float16 is for a GPU; use float32, bfloat16 or int8 on the CPU")
    return dtype


def _load(files: EncoderFiles, task: str) -> Any:
    """The model in fp32, for evaluation."""
    import transformers

    auto: Any = {
        "ner": transformers.AutoModelForTokenClassification,
        "classification": transformers.AutoModelForSequenceClassification,
    }[task]
    with quiet_transformers(remarks=False):  # what is missing is told below
        try:
            model, info = auto.from_pretrained(
                str(files.folder),
                local_files_only=True,
                use_safetensors=None if files.allow_pickle else True,
                trust_remote_code=files.trust_remote_code,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,  # they are told below, by name
                output_loading_info=True,
            )
        except Exception as error:  # its own validation, safetensors and the model's code raise many kinds
            raise MedvllmError(
                f"can't load model '{files.name}' from {files.folder}: {first_line(error)}; "
                "its files are broken or do not belong together: get it again"
            ) from error
    problems = {
        "lack": sorted(info["missing_keys"]),
        "do not fit config.json at": sorted(str(key[0]) for key in info["mismatched_keys"]),
    }
    for what, names in problems.items():
        if names:
            raise MedvllmError(
                f"the weights of '{files.name}' {what} {', '.join(names[:3])} ({len(names)} in all); get it again"
            )
    return model.eval()


def max_length(model: Any) -> int:
    """Tokens that the model reads at once, at most 4096."""
    config = model.config
    longest = getattr(config, "max_position_embeddings", None)
    if not isinstance(longest, int) or longest <= 0:
        return 512
    if config.model_type in ("roberta", "xlm-roberta", "camembert", "longformer"):
        longest -= (config.pad_token_id or 0) + 1
    return min(longest, 4096)
