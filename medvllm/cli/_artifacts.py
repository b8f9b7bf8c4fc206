"""`art://NAME:VERSION` as a model: what a recipe has published, found through the recipe framework's registry."""

from __future__ import annotations

from medvllm.errors import MedvllmError, missing

__all__ = ["local_model"]

_PREFIX = "art://"


def local_model(name: str) -> str:
    """The folder of the artifact that `name` refers to; any other name as it is.

    Raises:
        MedvllmError: there is no such artifact (its near names are listed), or the recipe framework is not installed.
    """
    if not name.startswith(_PREFIX):
        return name
    try:
        from nemotron.kit.artifacts import resolve_artifact
        from nemotron.kit.errors import KitError
    except ImportError as error:
        raise MedvllmError(
            f"{name} needs the recipe framework, which is not there ({error}); install it: {missing('kit')}"
        ) from error
    try:
        return str(resolve_artifact(name).path)
    except KitError as error:
        raise MedvllmError(f"{name}: {error}") from error
