"""Data sets of the Hugging Face hub, or of its cache on this machine. No code of a data set is ever run."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llenergymeasure.errors import LemError, first_line
from llenergymeasure.prompts.tables import Table, choose_split, dataset_table

__all__ = ["open_hub"]

PROBE_S = 5.0  # for one answer; `datasets` itself tries for 24 s before it gives up
_INSTEAD = "give --prompts FILE, a local path as --dataset, or -d builtin"


def open_hub(path: str, *, subset: str | None, split: str | None, file: str | None = None) -> Table:
    """A split of a data set on the hub, downloaded or from the cache; its revision is recorded.

    Raises:
        LemError: the hub can't be reached and the cache has nothing, or there is no such data set, subset or split.
    """
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", path):
        raise LemError(f"{path!r} is no name of a data set and no path that is there; {_INSTEAD}")
    import datasets

    revision, reached = _revision(path)
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    try:
        if file is not None:
            local = _download(path, file, offline=not reached)
            found, revision = datasets.load_dataset("json", data_files=str(local)), local.parent.name
        else:
            with contextlib.nullcontext() if reached else _offline():
                found = datasets.load_dataset(path, name=subset, revision=revision)
    except (ConnectionError, FileNotFoundError) as error:
        folder = None if reached or file else _snapshot(path)
        if folder is None:
            why = "can't be read from the hub" if reached else "is not in the cache and the hub can't be reached"
            raise LemError(f"the data set {path} {why}; {_INSTEAD}") from error
        found, revision = _load_folder(folder, path, subset), folder.name
    except (datasets.exceptions.DatasetsError, ValueError, RuntimeError) as error:
        raise LemError(f"can't load the data set {path}: {first_line(error)}; {_INSTEAD}") from error
    chosen = choose_split(list(found), split, path)
    return dataset_table(path, found[chosen], split=chosen, revision=revision or _cached_revision(found[chosen]))


def _download(path: str, file: str, *, offline: bool) -> Path:
    """One file of a data set, of its newest revision or of that in the cache; its folder is the revision."""
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(path, file, repo_type="dataset", local_files_only=offline))


def _revision(path: str) -> tuple[str | None, bool]:
    """(commit of the data set, whether the hub answered).

    Raises:
        LemError: the hub answered that there is no such data set, or that it may not be read.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    try:
        return HfApi().dataset_info(path, timeout=PROBE_S).sha, True
    except GatedRepoError as error:
        raise LemError(f"the data set {path} is gated: accept its terms on the hub and set HF_TOKEN") from error
    except RepositoryNotFoundError as error:
        raise LemError(
            f"there is no data set {path} on the hub (or it is private: set HF_TOKEN); {_INSTEAD}"
        ) from error
    except HfHubHTTPError:  # it is there, but not well
        return None, False
    except OSError:  # offline mode
        return None, False
    except Exception as error:
        if not type(error).__module__.startswith(("httpx", "httpcore", "requests")):
            raise
        return None, False


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Has `datasets` look into its cache at once, instead of asking the hub again and again."""
    import datasets
    from huggingface_hub import constants

    before = datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before


def _snapshot(path: str) -> Path | None:
    """The files of the data set as `hf download` left them, or None."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(path, repo_type="dataset", local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def _load_folder(folder: Path, path: str, subset: str | None) -> Any:
    import datasets

    try:
        return datasets.load_dataset(str(folder), name=subset)
    except (datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError) as error:
        problem = first_line(error)
        raise LemError(f"the cached files of {path} make no data set: {problem}; {_INSTEAD}") from error


def _cached_revision(found: Any) -> str | None:
    """The commit that a cached data set was made of: its folder's name."""
    files = found.cache_files
    name = Path(files[0]["filename"]).parent.name if files else ""
    return name if re.fullmatch(r"[0-9a-f]{40}", name) else None
