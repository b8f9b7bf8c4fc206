"""Resolving a reference in any process: alone, or as one rank of a torchrun job."""

from __future__ import annotations

import itertools
import os
from datetime import timedelta
from typing import Any

from nemotron.kit.artifacts.artifact import Artifact
from nemotron.kit.artifacts.lineage import record_use
from nemotron.kit.artifacts.reference import Reference, parse_reference
from nemotron.kit.artifacts.registry import ArtifactRegistry
from nemotron.kit.errors import KitError

__all__ = ["TIMEOUT_VARIABLE", "resolve_artifact"]

TIMEOUT_VARIABLE = "NEMOTRON_RESOLVE_TIMEOUT_S"
_TIMEOUT_S = 600.0
_calls = itertools.count()
_stores: dict[str, Any] = {}


def resolve_artifact(
    reference: str,
    *,
    type_name: str | None = None,
    registry: ArtifactRegistry | None = None,
    timeout_s: float | None = None,
) -> Artifact:
    """The artifact that a reference means, with its files on this machine, noted as used by this run.

    Under torchrun rank 0 decides which version the reference means and the other ranks wait for that, so that a version
    published meanwhile does not split them; all ranks make the same calls in the same order.

    Args:
        reference: `Name`, `Name:v3`, `Name:alias`, `v3`, `3`, `latest`, `entity/project/Name:v3`, with `art://` or
            not; or the folder of a saved artifact, starting with `/`, `./`, `../` or `~`.
        type_name: the artifact's name where the reference is only a version; a reference is accepted, too.
        registry: where to look; the default registry without one.
        timeout_s: how long a rank waits for rank 0; $NEMOTRON_RESOLVE_TIMEOUT_S, else 600.

    Raises:
        KitError: there is no such artifact, or rank 0 did not answer in time.
    """
    if reference.startswith(("/", "./", "../", "~")) or reference in (".", ".."):
        artifact = Artifact.load(os.path.abspath(os.path.expanduser(reference)))
        record_use(artifact)
        return artifact
    parsed = parse_reference(reference, type_name=type_name)
    tracked = _from_tracker(parsed)
    if tracked is not None:
        return tracked
    registry = registry or ArtifactRegistry()
    if int(os.environ.get("WORLD_SIZE") or 1) > 1 and "MASTER_ADDR" in os.environ:
        parsed = _agreed(parsed, registry, _timeout(timeout_s))
    artifact = registry.resolve(parsed)
    record_use(artifact)
    return artifact


def _from_tracker(reference: Reference) -> Artifact | None:
    """The artifact from the tracker where the reference names the tracker's project and it can be asked."""
    from nemotron.kit.tracking import get_tracker

    tracker = get_tracker()
    if tracker is None or not reference.scope or not tracker.can_fetch:
        return None
    artifact = tracker.use_artifact(str(reference))
    record_use(artifact)
    return artifact


def _timeout(given: float | None) -> float:
    if given is not None:
        return given
    text = os.environ.get(TIMEOUT_VARIABLE) or str(_TIMEOUT_S)
    try:
        return float(text)
    except ValueError as error:
        raise KitError(f"{TIMEOUT_VARIABLE} must be seconds, got {text!r}") from error


def _agreed(reference: Reference, registry: ArtifactRegistry, timeout_s: float) -> Reference:
    """The version that rank 0 found, told to all ranks through torchrun's store; so is its error."""
    rank = int(os.environ["RANK"])
    key = f"nemotron/resolve/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}/{next(_calls)}/{reference}"
    store = _rendezvous(rank, timeout_s)
    if rank == 0:
        try:
            found = registry.find(reference)
        except KitError as error:
            store.set(key, f"error {error}")
            raise
        store.set(key, f"found {found}")
        return found
    try:
        store.wait([key], timedelta(seconds=timeout_s))
    except RuntimeError as error:  # torch's DistStoreError is one
        raise KitError(
            f"rank {rank} waited {timeout_s:g} s for rank 0 to resolve {reference}; see rank 0's log, or set "
            f"{TIMEOUT_VARIABLE}"
        ) from error
    kind, _, text = store.get(key).decode().partition(" ")
    if kind == "error":
        raise KitError(text)
    return parse_reference(text)


def _rendezvous(rank: int, timeout_s: float) -> Any:
    """A client of the TCPStore: torchrun's agent serves it; without one rank 0 does, and torch shares it later."""
    where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    if where not in _stores:
        from torch.distributed import TCPStore

        served = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        try:
            _stores[where] = TCPStore(
                os.environ["MASTER_ADDR"],
                int(os.environ["MASTER_PORT"]),
                is_master=rank == 0 and not served,
                timeout=timedelta(seconds=timeout_s),
                wait_for_workers=False,
                multi_tenant=not served,
            )
        except RuntimeError as error:
            raise KitError(f"rank {rank} can't reach the job's store at {where} within {timeout_s:g} s") from error
    return _stores[where]
