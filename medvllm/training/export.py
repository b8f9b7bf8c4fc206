"""A trained model for other programs: ONNX and TorchScript, each compared with PyTorch when it is written."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medvllm.errors import MedvllmError, first_line, missing
from medvllm.training.batches import example_batch
from medvllm.training.checkpoint import load_weights, whole_weights, writing
from medvllm.training.config import EXPORT_FORMATS
from medvllm.training.entrypoint import build_objects, load_entrypoint
from medvllm.training.model_folder import write_model
from medvllm.utils.files import write_atomically
from medvllm.utils.quiet import quiet_transformers

__all__ = ["Exported", "export_folder", "export_model"]

_TOLERANCE = 1e-4  # of outputs, relative to the greatest one above 1
_PROTOBUF_LIMIT_BYTES = 1_900_000_000  # an .onnx file holds at most 2 GiB; a larger model's weights go beside it
_OWN_ENTRYPOINT = "medvllm.training.toy:build"  # what trainer.json may name without the user's trust
_FILES = {"onnx": "model.onnx", "torchscript": "model.torchscript.pt", "safetensors": "model.safetensors"}


@dataclass(frozen=True, slots=True)
class Exported:
    """A file that was written, and how far its outputs are from PyTorch's; None: it could not be compared."""

    path: Path
    max_error: float | None
    note: str = ""


class _Plain(nn.Module):
    """A model from tensors, in the order of `names`, to its logits; the name `x` is a sole input without a name."""

    def __init__(self, model: nn.Module, names: list[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs: Tensor) -> Tensor:
        named = dict(zip(self.names, inputs, strict=True))
        output = self.model(named["x"]) if "x" in named else self.model(**named)
        if isinstance(output, Tensor):
            return output
        logits: Tensor = output["logits"] if isinstance(output, Mapping) else output.logits
        return logits


def export_model(model: nn.Module, batch: Any, folder: Path, formats: tuple[str, ...]) -> list[Exported]:
    """Writes the model in each format and runs it on two shapes of the example batch.

    Args:
        model: what was trained; it is moved to the CPU.
        batch: a dict, whose labels are left out, or a pair whose first part is the input `x`.
        folder: where the files go.
        formats: of EXPORT_FORMATS.

    Raises:
        MedvllmError: the model can't be exported, or what was written computes something else.
    """
    for name in formats:
        if name not in EXPORT_FORMATS:
            raise MedvllmError(f"--format takes {', '.join(EXPORT_FORMATS)}, got {name!r}")
    inputs = _inputs(batch)
    plain = _Plain(model.cpu().float().eval(), list(inputs))
    try:
        with torch.no_grad():
            plain(*inputs.values())
    except (AttributeError, KeyError) as error:
        raise MedvllmError("only a model whose output is a tensor or has logits can be exported") from error
    writers = {"onnx": _onnx, "torchscript": _torchscript, "safetensors": _safetensors}
    with _quiet():
        return [writers[name](plain, inputs, folder / _FILES[name]) for name in formats]


def export_folder(
    run: Path, formats: tuple[str, ...], output: Path, *, trust_remote_code: bool = False
) -> list[Exported]:
    """As `export_model`, of the model in a run folder or in any folder of a transformers model.

    A model that is not of transformers is built by the entry point that the folder's trainer.json names: code, which
    runs only with `trust_remote_code`.

    Raises:
        MedvllmError: the folder holds no model that can be loaded, or needs code that is not trusted.
    """
    found = _hugging_face(run) if (run / "config.json").is_file() else None
    model, batch = found or _from_entrypoint(run, trust_remote_code=trust_remote_code)
    output.mkdir(parents=True, exist_ok=True)
    return export_model(model, batch, output, formats)


def _hugging_face(run: Path) -> tuple[nn.Module, Any] | None:
    """The model and a batch of tokens; None where the model takes something else."""
    if importlib.util.find_spec("transformers") is None:
        raise MedvllmError(f"transformers is not installed; {missing('torch')}")
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(run, local_files_only=True, trust_remote_code=False)
        kind: Any = getattr(transformers, (config.architectures or [""])[0], None)
        is_model = isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)
        if not is_model:
            raise MedvllmError(
                f"{run}: transformers has no model {config.architectures}; its code is not in the library"
            )
        with quiet_transformers():
            model, info = kind.from_pretrained(
                run, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
    except MedvllmError:
        raise
    except Exception as error:  # its own validation, safetensors and the model's code raise many kinds
        raise MedvllmError(f"{run} can't be loaded: {first_line(error)}") from error
    if lacking := sorted(info["missing_keys"]):
        raise MedvllmError(
            f"the weights in {run} lack {', '.join(lacking[:3])} ({len(lacking)} in all); train it first"
        )
    words = getattr(config, "vocab_size", None)
    if words is None:
        return None
    ids = torch.arange(24).reshape(2, 12) % words
    mask = torch.ones_like(ids)
    mask[1, 8:] = 0  # one row is shorter
    return model, {"input_ids": ids, "attention_mask": mask}


def _from_entrypoint(run: Path, *, trust_remote_code: bool) -> tuple[nn.Module, Any]:
    """The model that trainer.json says how to build, with the run's weights, and a batch of its data."""
    path = run / "trainer.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        reference, given = str(record["entrypoint"]), dict(record["config"])
    except FileNotFoundError as error:
        raise MedvllmError(f"{run} is no run folder: it has neither config.json nor trainer.json") from error
    except (ValueError, KeyError, TypeError) as error:
        raise MedvllmError(
            f"{path} does not say which --entrypoint made the model; use --export when training"
        ) from error
    if reference != _OWN_ENTRYPOINT and not trust_remote_code:
        raise MedvllmError(
            f"{path} names the entry point {reference}, Python code that would run with your rights; give "
            "--trust-remote-code if you trust this folder, or use --export when training"
        )
    model, train, evaluation = build_objects(load_entrypoint(reference), given, reference=reference)
    load_weights(run, model)
    return model, example_batch(train if evaluation is None else evaluation)


def _inputs(batch: Any) -> dict[str, Tensor]:
    if isinstance(batch, Mapping):
        return {name: value for name, value in batch.items() if isinstance(value, Tensor) and name != "labels"}
    return {"x": batch[0]}


def _onnx(plain: _Plain, inputs: dict[str, Tensor], path: Path) -> Exported:
    for package in ("onnx", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            raise MedvllmError(f"ONNX needs the package {package}; {missing('training')}")
    size = sum(value.nbytes for value in plain.state_dict().values())
    partial = path.with_name(f".{path.name}.tmp") if size < _PROTOBUF_LIMIT_BYTES else path
    try:
        program = torch.onnx.export(
            plain,
            tuple(inputs.values()),
            dynamo=True,
            dynamic_shapes={"inputs": tuple(_dynamic(name, value) for name, value in inputs.items())},
            input_names=list(inputs),
            output_names=["logits"],
            verbose=False,
        )
    except Exception as error:  # torch.export raises what it likes for what it can't trace
        raise MedvllmError(f"the model can't be exported to ONNX: {_reason(error)}") from error
    with writing("the ONNX model", path):
        try:
            program.save(str(partial), external_data=size >= _PROTOBUF_LIMIT_BYTES)
            partial.replace(path)
        finally:
            if partial != path:
                partial.unlink(missing_ok=True)
    if importlib.util.find_spec("onnxruntime") is None:
        return Exported(path, None, f"{path} was not compared with PyTorch: onnxruntime is not installed")
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    taken = {each.name for each in session.get_inputs()}  # an input that nothing depends on is not there

    def run(given: dict[str, Tensor]) -> Tensor:
        (logits,) = session.run(None, {name: value.numpy() for name, value in given.items() if name in taken})
        return torch.from_numpy(logits)

    return _compared(plain, run, inputs, path)


def _torchscript(plain: _Plain, inputs: dict[str, Tensor], path: Path) -> Exported:
    try:
        with torch.no_grad():
            traced = torch.jit.trace(plain, tuple(inputs.values()), check_trace=False)
    except Exception as error:  # as of tracing anything
        raise MedvllmError(f"the model can't be exported to TorchScript: {_reason(error)}") from error
    buffer = io.BytesIO()
    torch.jit.save(traced, buffer)
    with writing("the TorchScript model", path):
        write_atomically(path, buffer.getvalue())
    loaded = torch.jit.load(path)
    return _compared(plain, lambda given: loaded(*given.values()), inputs, path)


def _safetensors(plain: _Plain, inputs: dict[str, Tensor], path: Path) -> Exported:
    write_model(path.parent, plain.model, whole_weights(plain.model))
    return Exported(path, 0.0)


def _dynamic(name: str, value: Tensor) -> dict[int, str]:
    """The dimensions that may have another size: the batch, and of token tensors (batch, sequence) the second."""
    axes = {0: "batch"} if value.dim() else {}
    if name != "x" and value.dim() >= 2 and not value.is_floating_point():
        axes[1] = "sequence"
    return axes


def _compared(plain: _Plain, run: Any, inputs: dict[str, Tensor], path: Path) -> Exported:
    """Runs both on the example and on a batch of another size, of another length too where there are tokens."""
    worst = 0.0
    for given in (inputs, {name: _other_shape(name, value) for name, value in inputs.items()}):
        with torch.no_grad():
            expected = plain(*given.values())
        try:
            got = run(given)
        except Exception as error:  # of onnxruntime and TorchScript: a shape that was traced as fixed
            path.unlink()
            raise MedvllmError(f"{path} did not take inputs of another shape: {_reason(error)}") from error
        if got.shape != expected.shape:
            path.unlink()
            raise MedvllmError(f"{path} gives the shape {tuple(got.shape)}, PyTorch {tuple(expected.shape)}")
        error_here = float((got - expected).abs().max())
        worst = max(worst, error_here)
        if not error_here <= _TOLERANCE * max(1.0, float(expected.abs().max())):
            path.unlink()
            raise MedvllmError(f"{path} computes something else: its outputs differ from PyTorch's by {error_here:.2g}")
    return Exported(path, worst)


def _other_shape(name: str, value: Tensor) -> Tensor:
    other = torch.cat([value, value[:1]])
    return other[:, :-1] if 1 in _dynamic(name, value) and value.shape[1] > 2 else other


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' own chatter: deprecations and notes on how they trace."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _reason(error: BaseException) -> str:
    error = error.__cause__ or error  # the exporter wraps the reason in advice
    line, name = first_line(error), type(error).__name__
    return line if line == name else f"{name}: {line}"
