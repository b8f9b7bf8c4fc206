"""The artifact classes: a folder, typed fields, and where both came from."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from nemotron.kit.artifacts.files import read_json, write_json_atomically
from nemotron.kit.errors import KitError

if TYPE_CHECKING:
    from nemotron.kit.artifacts.registry import ArtifactRegistry

__all__ = ["METADATA_FILE", "Artifact", "ModelArtifact", "PretrainBlendsArtifact", "Tracking"]

METADATA_FILE = "metadata.json"
_A = TypeVar("_A", bound="Artifact")


@dataclass(frozen=True, slots=True)
class Tracking:
    """Where a tracker such as W&B holds the artifact."""

    artifact_id: str
    artifact_type: str
    run_id: str | None = None
    url: str | None = None
    used_artifacts: list[str] = field(default_factory=list)


@dataclass
class Artifact:
    """A folder that a step made. A user's own kind is a dataclass over it, whose fields are its typed metadata:

    ```python
    @dataclass
    class CorpusArtifact(Artifact):
        documents: int
        languages: list[str]
    ```

    Attributes:
        path: the folder; after `resolve_artifact` it is on this machine.
        name: the name in the registry, set by `save`.
        type: the class's name.
        metadata: free facts, JSON values; `save` adds the typed fields.
        metrics: numbers to compare artifacts by; `save` adds the numeric typed fields.
        created_at: UTC, ISO 8601.
        producer: the job, command, code and machine that made it.
        tracking: where the tracker holds it; None without a tracker.
        version: the version in the registry; None before `save`.
    """

    path: Path
    name: str | None = field(default=None, kw_only=True)
    type: str = field(default="", kw_only=True)
    metadata: dict[str, Any] = field(default_factory=dict, kw_only=True)
    metrics: dict[str, float] = field(default_factory=dict, kw_only=True)
    created_at: str = field(default="", kw_only=True)
    producer: dict[str, Any] = field(default_factory=dict, kw_only=True)
    tracking: Tracking | None = field(default=None, kw_only=True)
    version: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        self.path = Path(self.path)
        self.type = self.type or type(self).__name__
        self.created_at = self.created_at or datetime.now(UTC).isoformat(timespec="microseconds")
        for name, annotation in _typed_fields(type(self)).items():
            setattr(self, name, _checked(type(self), name, getattr(self, name), annotation))

    @property
    def reference(self) -> str | None:
        """`Name:v3` once the artifact is in a registry, else None."""
        return f"{self.name}:v{self.version}" if self.name and self.version else None

    def value(self, key: str) -> Any:
        """A field or a key of the metadata: path, version, name and type first. The path is text, other types stay.

        Raises:
            KitError: the artifact has no such key; the ones it has are listed.
        """
        if key in ("path", "version", "name", "type"):
            found = getattr(self, key)
            return str(found) if isinstance(found, Path) else found
        known = {**self.typed_values(), **self.metadata}
        if key not in known:
            own = ", ".join(["path", "version", "name", "type", *sorted(known)])
            raise KitError(f"artifact {self.reference or self.path} has no field {key!r}; it has {own}")
        return known[key]

    def typed_values(self) -> dict[str, Any]:
        """The class's own fields as JSON values."""
        return {name: _jsonable(name, getattr(self, name)) for name in _typed_fields(type(self))}

    def save(
        self,
        name: str | None = None,
        *,
        aliases: tuple[str, ...] | list[str] = (),
        used: list[Artifact] | None = None,
        copy: bool = True,
        registry: ArtifactRegistry | None = None,
    ) -> Artifact:
        """Writes `<path>/metadata.json`, logs to the tracker where there is one, and publishes a new version.

        Args:
            name: the name in the registry; `<type>-default` without one.
            aliases: names that are to mean this version from now on.
            used: the artifacts this one was made from, beside those that this run resolved.
            copy: True: the registry holds its own copy. False: the version points at `path`, which must stay.
            registry: where to publish; the default registry without one.

        Returns:
            The artifact itself, with `name`, `version`, `producer` and `tracking` set.

        Raises:
            KitError: a name that can't be, `path` is a file, or a value that JSON can't hold.
        """
        from nemotron.kit.artifacts import lineage
        from nemotron.kit.artifacts.reference import check_alias, check_name
        from nemotron.kit.artifacts.registry import ArtifactRegistry
        from nemotron.kit.tracking import get_tracker

        self.name = check_name(name or self.name or f"{self.type}-default")
        for alias in aliases:
            check_alias(alias)
        if self.path.exists() and not self.path.is_dir():
            raise KitError(f"an artifact's path is a folder, got the file {self.path}; give the folder it lies in")
        self.version = None
        self.metadata = {**self.metadata, **self.typed_values()}
        self.metrics = {**self.metrics, **_numbers(self.typed_values())}
        self.producer = lineage.describe_producer(used or [])
        self.path.mkdir(parents=True, exist_ok=True)
        write_json_atomically(self.path / METADATA_FILE, self.to_dict())
        tracker = get_tracker()
        if tracker is not None:
            self.tracking = tracker.log_artifact(self, aliases=list(aliases))
        registry = registry or ArtifactRegistry()
        self.version = registry.publish(self, aliases=aliases, copy=copy)
        write_json_atomically(self.path / METADATA_FILE, self.to_dict())
        return self

    def to_dict(self) -> dict[str, Any]:
        """The artifact as metadata.json holds it."""
        return {
            "name": self.name,
            "version": self.version,
            "type": self.type,
            "path": str(self.path),
            "created_at": self.created_at,
            "metadata": _jsonable("metadata", {**self.metadata, **self.typed_values()}),
            "metrics": _jsonable("metrics", self.metrics),
            "producer": self.producer,
            "tracking": dataclasses.asdict(self.tracking) if self.tracking else None,
        }

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """The artifact whose metadata.json is in the folder `path`.

        Raises:
            KitError: there is no artifact, or it is of another class than asked for.
        """
        path = Path(path)
        try:
            data = read_json(path / METADATA_FILE)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise KitError(f"no artifact in {path}: it has no {METADATA_FILE}; a step's save() writes one") from error
        return cls.from_dict(data, path=path)

    @classmethod
    def from_dict(cls, data: dict[str, Any], *, path: Path) -> Self:
        """The artifact that `data` (of a metadata.json) describes, with its files at `path`."""
        kind = _class_named(cls, str(data.get("type", cls.__name__)))
        metadata = dict(data.get("metadata") or {})
        typed = {name: metadata[name] for name in _typed_fields(kind) if name in metadata}
        tracking = data.get("tracking")
        try:
            return kind(
                path,
                name=data.get("name"),
                type=str(data.get("type", "")),
                metadata=metadata,
                metrics=dict(data.get("metrics") or {}),
                created_at=str(data.get("created_at") or ""),
                producer=dict(data.get("producer") or {}),
                tracking=Tracking(**tracking) if tracking else None,
                version=data.get("version"),
                **typed,
            )
        except TypeError as error:
            raise KitError(f"the {METADATA_FILE} of {path} does not fit {kind.__name__}: {error}") from error


@dataclass
class PretrainBlendsArtifact(Artifact):
    """Tokenized shards and their `blend.json`."""

    total_tokens: int
    source_datasets: list[str]


@dataclass
class ModelArtifact(Artifact):
    """A model's folder: configuration, safetensors and tokenizer. `loss` is in nats a token."""

    loss: float | None
    step: int


def _class_named(base: type[_A], name: str) -> type[_A]:
    if name == base.__name__:
        return base
    waiting = list(base.__subclasses__())
    while waiting:
        kind = waiting.pop()
        if kind.__name__ == name:
            return kind
        waiting.extend(kind.__subclasses__())
    if base is Artifact:
        return base  # a class that this process has not imported: its fields are in the metadata
    raise KitError(f"expected a {base.__name__}, got an artifact of type {name}")


def _typed_fields(kind: type[Artifact]) -> dict[str, Any]:
    base = {each.name for each in dataclasses.fields(Artifact)}
    names = [each.name for each in dataclasses.fields(kind) if each.name not in base]
    if not names:
        return {}
    try:
        hints = typing.get_type_hints(kind)
    except NameError:  # annotations of names that only a type checker imports: taken as they come
        hints = {}
    return {name: hints.get(name, Any) for name in names}


def _checked(kind: type[Artifact], name: str, value: Any, annotation: Any) -> Any:
    """The value, whole numbers made float where a float is meant; KitError where a simple type does not fit."""
    value = _scalar(value)
    allowed = typing.get_args(annotation) if _is_union(annotation) else (annotation,)
    simple = [typing.get_origin(each) or each for each in allowed]
    if not all(isinstance(each, type) for each in simple):
        return value
    if any(_fits(value, each) for each in simple):
        return value
    if float in simple and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if Path in simple and isinstance(value, str):
        return Path(value)
    if isinstance(value, tuple) and list in simple:
        return list(value)
    wanted = " or ".join("None" if each is type(None) else each.__name__ for each in simple)
    raise KitError(f"{kind.__name__}.{name} must be {wanted}, got {type(value).__name__} {value!r}")


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)


def _fits(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not (isinstance(value, bool) and kind in (int, float))


def _scalar(value: Any) -> Any:
    """A number of NumPy or torch as Python's own; anything else as it is."""
    if isinstance(value, (bool, int, float, str, Path)) or getattr(value, "shape", None) != ():
        return value
    return value.item()


def _jsonable(name: str, value: Any) -> Any:
    """The value in JSON's types. A float that is no number (a diverged loss) becomes None."""
    value = _scalar(value)
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, dict):
        return {str(key): _jsonable(f"{name}.{key}", each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(f"{name}[{index}]", each) for index, each in enumerate(value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _jsonable(name, dataclasses.asdict(value))
    raise KitError(f"{name} holds a {type(value).__name__}, which JSON can't hold; save text, numbers, lists or dicts")


def _numbers(values: dict[str, Any]) -> dict[str, float]:
    return {
        name: value for name, value in values.items() if isinstance(value, (int, float)) and not isinstance(value, bool)
    }
