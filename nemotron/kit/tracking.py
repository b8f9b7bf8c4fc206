"""Trackers: optional sinks that artifacts and metrics are logged to beside the registry. W&B is one.

set_tracker(WandbTracker(project="nano3"))     # once, at the start of a run; rank 0 logs, the others do nothing
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from nemotron.kit.artifacts.artifact import Artifact, Tracking
from nemotron.kit.errors import KitError

__all__ = ["Tracker", "WandbTracker", "get_tracker", "set_tracker"]


class Tracker(Protocol):
    """What the kit asks of a tracker."""

    can_fetch: bool

    def log_artifact(self, artifact: Artifact, *, aliases: list[str]) -> Tracking | None:
        """Logs a saved artifact; None where this process logs nothing."""

    def use_artifact(self, reference: str) -> Artifact:
        """Fetches `entity/project/name:version` and notes its use."""

    def log_metrics(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Logs numbers of a training step."""

    def finish(self) -> None:
        """Sends what is left."""


_tracker: Tracker | None = None


def set_tracker(tracker: Tracker | None) -> None:
    """Makes this the tracker of the process; None takes it away."""
    global _tracker
    _tracker = tracker


def get_tracker() -> Tracker | None:
    """The process's tracker, or None."""
    return _tracker


class WandbTracker:
    """Weights & Biases. The files are logged by reference where they lie, the metadata is uploaded.

    `mode` is online, offline or disabled ($WANDB_MODE without one). Offline, W&B can't fetch artifacts (`use_artifact`
    raises there): references are resolved by the registry, and what was used is kept in our metadata.
    """

    def __init__(
        self, *, project: str, entity: str | None = None, mode: str | None = None, folder: Path | None = None
    ) -> None:
        self.can_fetch = False
        self._run: Any = None
        if os.environ.get("RANK", "0") != "0":
            return
        try:
            import wandb
        except ImportError as error:
            raise KitError(
                "tracking with W&B needs the package wandb; pip install wandb, or leave [wandb] out"
            ) from error
        self._wandb = wandb
        mode = mode or os.environ.get("WANDB_MODE") or "online"
        try:
            self._run = wandb.init(project=project, entity=entity, mode=mode, dir=folder)
        except wandb.errors.Error as error:
            raise KitError(f"W&B does not start: {error}; set WANDB_MODE=offline to log to files only") from error
        self.can_fetch = mode == "online"

    def log_artifact(self, artifact: Artifact, *, aliases: list[str]) -> Tracking | None:
        """See `Tracker`."""
        if self._run is None:
            return None
        # W&B allows a-z, A-Z, 0-9, -, _ and . in names, as ours do.
        logged = self._wandb.Artifact(artifact.name, type=artifact.type, metadata=artifact.to_dict())
        logged.add_reference(f"file://{artifact.path.absolute()}", checksum=False)
        logged = self._run.log_artifact(logged, aliases=["latest", *aliases])
        used = [each["reference"] for each in artifact.producer.get("used", [])]
        if not self.can_fetch:  # offline the server has not given it a version yet
            return Tracking(f"{self._run.project}/{artifact.name}", artifact.type, self._run.id, None, used)
        logged.wait()
        return Tracking(logged.qualified_name, artifact.type, self._run.id, self._run.url, used)

    def use_artifact(self, reference: str) -> Artifact:
        """See `Tracker`."""
        if not self.can_fetch or self._run is None:
            raise KitError(f"W&B is offline and can't fetch {reference}; name an artifact of the registry")
        try:
            used = self._run.use_artifact(reference)
        except self._wandb.errors.Error as error:
            raise KitError(f"W&B can't give {reference}: {error}") from error
        return Artifact.from_dict(dict(used.metadata), path=Path(used.metadata["path"]))

    def log_metrics(self, metrics: Mapping[str, float], *, step: int) -> None:
        """See `Tracker`."""
        if self._run is not None:
            self._run.log(dict(metrics), step=step)

    def finish(self) -> None:
        """See `Tracker`."""
        if self._run is not None:
            self._run.finish()
