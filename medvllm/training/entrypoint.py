"""`--entrypoint module:function` or `/path.py:function`: where model and data of a run come from."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medvllm.errors import MedvllmError

__all__ = ["build_objects", "load_entrypoint", "read_config"]


def load_entrypoint(reference: str) -> Callable[[dict[str, Any]], Any]:
    """The function that `reference` names.

    Raises:
        MedvllmError: there is no such module, file or function, or importing it fails.
    """
    place, _, name = reference.rpartition(":")
    if not place or not name:
        raise MedvllmError(
            f"--entrypoint must be module:function or /path/to/file.py:function, got {reference!r}; add the function"
        )
    module = _import_file(place, reference) if place.endswith(".py") or os.sep in place else _import(place, reference)
    function = module
    for part in name.split("."):
        if not hasattr(function, part):
            known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
            raise MedvllmError(f"{place} has no {name!r}; it has {', '.join(sorted(known)[:8]) or 'no function'}")
        function = getattr(function, part)
    if not callable(function):
        raise MedvllmError(f"--entrypoint {reference}: {name} is no function but {type(function).__name__}")
    found: Callable[[dict[str, Any]], Any] = function
    return found


def _import(name: str, reference: str) -> Any:
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())  # modules beside the user, as with `python -m`
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise MedvllmError(
                f"--entrypoint {reference}: there is no module {error.name!r}; install it, run in its folder, or give "
                "/path/to/file.py:function"
            ) from error
        raise _failed(reference, "importing it", error) from error
    except (Exception, SystemExit) as error:  # the user's code: anything may come
        raise _failed(reference, "importing it", error) from error


def _import_file(place: str, reference: str) -> Any:
    path = Path(place).expanduser()
    if not path.is_file():
        raise MedvllmError(f"--entrypoint {reference}: there is no file {path}")
    name = f"medvllm_entrypoint_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path.absolute())  # errors name it as the user does
    if spec is None or spec.loader is None:
        raise MedvllmError(f"--entrypoint {reference}: {path} is no Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and worker processes look there
    sys.path.insert(
        0, str(path.resolve().parent)
    )  # what lies beside the file can be imported, as with `python file.py`
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # the user's code: anything may come
        raise _failed(reference, "importing it", error) from error
    return module


def build_objects(
    function: Callable[[dict[str, Any]], Any], config: dict[str, Any], *, reference: str
) -> tuple[Any, Any, Any]:
    """Calls an entrypoint: (model, train_dataset, eval_dataset or None).

    Raises:
        MedvllmError: it raised, or returned something else; says where, or what came.
    """
    from torch import nn

    try:
        made = function(copy.deepcopy(config))  # trainer.json is to say what was given, whatever becomes of it
    except MedvllmError:
        raise
    except (Exception, SystemExit) as error:  # the user's code: anything may come
        raise _failed(reference, "it", error) from error
    expected = f"--entrypoint {reference} must return (model, train_dataset, eval_dataset_or_none)"
    if not isinstance(made, tuple):
        raise MedvllmError(f"{expected}, got {type(made).__name__}")
    if len(made) != 3:
        raise MedvllmError(f"{expected}, got {len(made)} values: {', '.join(type(value).__name__ for value in made)}")
    model, train, evaluation = made
    if not isinstance(model, nn.Module):
        raise MedvllmError(f"{expected}; the first must be a torch.nn.Module, got {type(model).__name__}")
    return model, train, evaluation


def _failed(reference: str, what: str, error: BaseException) -> MedvllmError:
    """One line: the error, and the line of the user's code that it came from."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename != __file__ and "importlib" not in frame.filename]
    where = f" at {own[-1].filename}:{own[-1].lineno}" if own else ""
    if isinstance(error, SyntaxError):
        where = f" at {error.filename}:{error.lineno}"
    subject = f"{what} raised" if what == "it" else f"{what} failed with"
    return MedvllmError(f"--entrypoint {reference}: {subject} {type(error).__name__}: {error}{where}")


def read_config(path: Path) -> dict[str, Any]:
    """The JSON object of `--config`.

    Raises:
        MedvllmError: the file is missing or holds something else; says the line.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MedvllmError(f"--config {path}: there is no such file") from error
    except UnicodeDecodeError as error:
        raise MedvllmError(f"--config {path} is not UTF-8 text (byte {error.start})") from error
    except OSError as error:
        raise MedvllmError(f"--config {path} can't be read: {error.strerror}") from error
    except RecursionError as error:
        raise MedvllmError(f"--config {path} is nested too deeply") from error
    except json.JSONDecodeError as error:
        raise MedvllmError(
            f"--config {path} is not JSON at line {error.lineno}, column {error.colno}: {error.msg}"
        ) from error
    if not isinstance(value, dict):
        raise MedvllmError(f"--config {path} must hold a JSON object, got {type(value).__name__}")
    return value
