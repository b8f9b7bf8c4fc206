"""From a model's name to its folder: a local one, or a hub id's snapshot in the hub's cache; safetensors only."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from llenergymeasure.errors import LemError, first_line

__all__ = ["downloads_allowed", "read_json", "resolve_folder", "weight_files"]

_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")
_INDEX = "model.safetensors.index.json"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_PATTERNS = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*.tiktoken"]


def downloads_allowed() -> bool:
    """Whether the hub may be asked: only where HF_HUB_OFFLINE is set to 0."""
    return os.environ.get("HF_HUB_OFFLINE", "").strip().lower() in ("0", "false", "no", "off")


def resolve_folder(name: str) -> Path:
    """The folder with a model's config.json, tokenizer and safetensors.

    Raises:
        LemError: there is no such model here, or its weights are not safetensors; says what was looked for.
    """
    try:
        local = Path(name).expanduser()
        exists = local.exists()
    except (RuntimeError, OSError, ValueError) as error:  # ~somebody unknown, too long, a null character
        raise LemError(f"expected a model's folder or hub id, got {name[:200]!r}, which can't be one") from error
    if exists:
        folder = local.resolve()
        if not folder.is_dir():
            raise LemError(f"{name} is a file; a model is a folder with config.json and safetensors")
    elif name.startswith((".", "/", "~")) or not _HUB_ID.fullmatch(name):
        raise LemError(f"there is no folder {name!r}, and it can't be a hub id; give a model's folder or hub id")
    else:
        folder = _snapshot(name)
    weight_files(folder)
    return folder


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model's folder.

    Raises:
        LemError: there is no config.json, there are none, or some are missing.
    """
    if not (folder / "config.json").is_file():
        raise LemError(f"there is no config.json in {folder}; a model's folder has it beside its safetensors")
    index = read_json(folder / _INDEX)
    if index is not None:
        mapping = index.get("weight_map")
        names = sorted(set(map(str, mapping.values()))) if isinstance(mapping, dict) else []
        outside = [each for each in names if Path(each).name != each or not each.endswith(".safetensors")]
        if not names or outside:
            raise LemError(f"{folder / _INDEX} does not name safetensors files beside it; get the file again")
        missing = [each for each in names if not (folder / each).is_file()]
        if missing:
            raise LemError(f"{len(missing)} of {len(names)} weight files are missing in {folder}, first {missing[0]}")
        return [folder / each for each in names]
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    if any(path.suffix in _PICKLES for path in folder.iterdir()):
        raise LemError(
            f"the weights in {folder} are pickle files, which can run code when read; convert to safetensors"
        )
    raise LemError(f"there are no weights in {folder}: expected model.safetensors or {_INDEX}")


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None if there is no such file.

    Raises:
        LemError: it can't be read, or is none.
    """
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LemError(f"can't read {path}: {error.strerror}") from error
    except ValueError as error:
        raise LemError(f"{path} is not JSON ({error}); get the file again") from error
    if not isinstance(value, dict):
        raise LemError(f"expected a JSON object in {path}, got {type(value).__name__}; get the file again")
    return value


def _snapshot(repo: str) -> Path:
    """The folder of a hub model's snapshot in the cache, downloaded first where that is allowed."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        pass
    if not downloads_allowed():
        raise LemError(
            f"there is no model {repo!r}: no local folder, and not in the hub's cache {constants.HF_HUB_CACHE}; "
            f"fetch it with 'hf download {repo}', or set HF_HUB_OFFLINE=0 to allow downloads"
        )
    try:
        return Path(snapshot_download(repo, allow_patterns=_PATTERNS))
    except (OSError, HfHubHTTPError, HFValidationError, ValueError) as error:
        reason = first_line(error)
        raise LemError(f"can't download {repo!r} from {constants.ENDPOINT}: {reason}") from error
