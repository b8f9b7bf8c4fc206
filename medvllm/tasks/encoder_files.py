"""The files of an encoder model with a head: found by name, and checked before anything of them is run or read."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from medvllm.errors import MedvllmError, first_line
from medvllm.models.files import read_json
from medvllm.registry import ModelRegistry

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["HEADS", "EncoderFiles", "find_encoder", "load_tokenizer"]

# Task -> what the class in config.json ends with, and the recipe that makes such a model.
HEADS: Final = {
    "ner": ("ForTokenClassification", "medvllm.training.recipes:ner"),
    "classification": ("ForSequenceClassification", "medvllm.training.recipes:classification"),
}
NEEDED: Final = ("config.json", "model.safetensors", "tokenizer.json")
_PICKLES: Final = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_VOCABULARIES: Final = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model")
_SHARD: Final = re.compile(r"[\w.-]+\.safetensors")  # in the folder itself, and no pickle by another name
_HUB_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")


@dataclass(frozen=True, slots=True)
class EncoderFiles:
    """A model's folder, how it was named, and what may be done with what is in it."""

    name: str
    folder: Path
    config: dict[str, Any]
    allow_pickle: bool
    trust_remote_code: bool

    @property
    def architectures(self) -> list[str]:
        """The classes that config.json names."""
        value = self.config.get("architectures")
        return [str(one) for one in value] if isinstance(value, list) else []

    def check_task(self, task: str) -> None:
        """Raises MedvllmError where the model's class is of another task."""
        ending, recipe = HEADS[task]
        if any(name.endswith(ending) for name in self.architectures):
            return
        found = ", ".join(self.architectures) or "none"
        raise MedvllmError(
            f"model '{self.name}' has no head for {task}: expected an architecture …{ending} in "
            f"{self.folder / 'config.json'}, got {found}; train one on it with --entrypoint {recipe}"
        )


def find_encoder(name: str, *, allow_pickle: bool = False, trust_remote_code: bool = False) -> EncoderFiles:
    """The files of the model called `name`: a registered name, a folder, or a hub id whose snapshot is in the cache.

    A hub id is downloaded only where HF_HUB_OFFLINE=0 is set. Weights must be safetensors, unless `allow_pickle`; a
    model that needs Python code of its own is refused, unless `trust_remote_code`.

    Raises:
        MedvllmError: nothing has that name (the files looked for are named), or what has it can't be taken.
    """
    folder = _folder(name, allow_pickle=allow_pickle, trust_remote_code=trust_remote_code)
    config = read_json(folder / "config.json")
    if config is None:
        raise MedvllmError(f"there is no config.json in {folder}; a model's folder has {', '.join(NEEDED)}")
    files = EncoderFiles(name, folder, config, allow_pickle, trust_remote_code)
    _check_code(files)
    _check_weights(files)
    if not any((folder / one).is_file() for one in _VOCABULARIES):
        raise MedvllmError(f"there is no tokenizer in {folder}: expected tokenizer.json, or one of its older forms")
    return files


def _folder(name: str, *, allow_pickle: bool, trust_remote_code: bool) -> Path:
    entry = ModelRegistry().find(name)
    path = entry.path if entry is not None else name
    try:
        local = Path(path).expanduser()
        if path and local.is_dir():
            return local.resolve()
        exists = bool(path) and local.exists()
    except (RuntimeError, OSError, ValueError) as error:  # ~somebody unknown, a name too long, a null character
        raise MedvllmError(f"expected a model's name or folder, got {path[:200]!r}, which can't be one") from error
    if exists:
        raise MedvllmError(f"{path} is a file; name the model's folder, with {', '.join(NEEDED)} in it")
    if not _HUB_ID.fullmatch(path):
        if entry is not None:
            raise MedvllmError(f"model '{name}' is registered as {path}, which is no longer there; register it again")
        raise MedvllmError(f"there is no folder {name!r}, and it is neither a registered name nor a hub id")
    more = (["*.bin"] if allow_pickle else []) + (["*.py"] if trust_remote_code else [])
    return _snapshot(path, name, patterns=["*.json", "*.safetensors", "*.txt", "*.model", *more])


def _snapshot(repo: str, name: str, *, patterns: list[str]) -> Path:
    """The folder of a hub model in the hub's cache; files of these patterns are downloaded where that is allowed."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        pass
    called = f"'{name}'" if name == repo else f"'{name}' ({repo} on the hub)"
    place = Path(constants.HF_HUB_CACHE, "models--" + repo.replace("/", "--"))
    if os.environ.get("HF_HUB_OFFLINE", "").strip().lower() not in ("0", "false", "no", "off"):
        raise MedvllmError(
            f"there is no model {called} here: looked for a folder of that name, and for {', '.join(NEEDED)} in the "
            f"hub's cache {place}; fetch it with 'hf download {repo}', or set HF_HUB_OFFLINE=0 to allow downloads"
        )
    try:
        return Path(snapshot_download(repo, allow_patterns=patterns))
    except (OSError, HfHubHTTPError, HFValidationError, ValueError) as error:
        raise MedvllmError(f"can't download {called} from {constants.ENDPOINT}: {first_line(error)}") from error


def _check_code(files: EncoderFiles) -> None:
    """Refuses a model that only code of its own can compute."""
    from transformers import CONFIG_MAPPING

    kind = files.config.get("model_type")
    if isinstance(kind, str) and kind in CONFIG_MAPPING:
        return
    if "auto_map" not in files.config:
        raise MedvllmError(
            f"{files.folder / 'config.json'} has the model_type {kind!r}, which transformers does not know"
        )
    if not files.trust_remote_code:
        raise MedvllmError(
            f"model '{files.name}' comes with Python code of its own, which would run with your rights, so it is "
            "refused; read the code in its folder, and give --trust-remote-code if you trust it"
        )


def _check_weights(files: EncoderFiles) -> None:
    folder = files.folder
    if (folder / "adapter_config.json").is_file():  # transformers would read another model's weights for it
        raise MedvllmError(f"{folder} holds an adapter of another model; merge it into that model, and save the whole")
    if (folder / "model.safetensors").is_file():
        return
    index = read_json(folder / "model.safetensors.index.json")
    if index is not None:
        shards = index.get("weight_map")
        names = set(shards.values()) if isinstance(shards, dict) else set()
        strange = [one for one in names if not (isinstance(one, str) and _SHARD.fullmatch(one))]
        if not names or strange:
            raise MedvllmError(
                f"{folder}/model.safetensors.index.json must name files such as model-00001-of-00002.safetensors, got "
                f"{strange[0] if strange else 'none'!r}; get it again"
            )
        return
    pickles = [one for one in _PICKLES if (folder / one).is_file()]
    if not pickles:
        raise MedvllmError(f"there are no weights in {folder}: expected model.safetensors")
    if not files.allow_pickle:
        raise MedvllmError(
            f"the weights of '{files.name}' are a pickle file ({pickles[0]}), which can run code when it is read, so "
            "they are refused; convert them to safetensors, or give --allow-pickle if you trust where they come from"
        )


def load_tokenizer(files: EncoderFiles) -> Tokenizer:
    """The tokenizer in a model's folder, without its limits of length.

    Raises:
        MedvllmError: it can't be read, or gives no character offsets.
    """
    from transformers import AutoTokenizer

    try:
        found = AutoTokenizer.from_pretrained(
            str(files.folder), local_files_only=True, trust_remote_code=files.trust_remote_code
        )
    except Exception as error:  # the tokenizers library raises bare Exception for what it can't parse
        raise MedvllmError(f"can't read the tokenizer in {files.folder}: {first_line(error)}; get it again") from error
    tokenizer: Tokenizer | None = getattr(found, "backend_tokenizer", None)
    if tokenizer is None or not hasattr(tokenizer, "no_truncation"):
        raise MedvllmError(f"the tokenizer in {files.folder} gives no character offsets; a tokenizer.json is needed")
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
