"""Which recipes there are: built-in, installed (entry points `nemotron.recipes`), and of $NEMOTRON_RECIPES."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from medvllm_programs.commands import one_line
from nemotron.kit.errors import KitError

if TYPE_CHECKING:
    from nemotron.kit.app import App

__all__ = ["BUILT_IN", "ENTRY_POINTS", "VARIABLE", "load_recipe", "named_by_environment", "named_by_packages"]

BUILT_IN = {
    "nano3": ("nemotron.recipes.nano3.app:app", "From text files to a small chat model."),
    "med_ner": ("nemotron.recipes.med_ner.app:app", "A token classifier of medical entities."),
}
ENTRY_POINTS = "nemotron.recipes"
VARIABLE = "NEMOTRON_RECIPES"


def named_by_environment() -> dict[str, str]:
    """Name → "module:app" of $NEMOTRON_RECIPES, a list such as `myrecipe.__main__:app,other=pkg.cli:app`.

    A recipe without a name of its own (`name=`) goes by its app's name, so its module is imported; modules are looked
    for in the working folder, too.

    Raises:
        KitError: an entry is no module:app, or can't be imported.
    """
    found = {}
    for entry in filter(None, (part.strip() for part in os.environ.get(VARIABLE, "").split(","))):
        name, sign, reference = entry.rpartition("=")
        found[name if sign else _app(reference or entry).name] = reference or entry
    return found


def named_by_packages() -> dict[str, str]:
    """Name → "module:app" of the installed entry points."""
    if not any(map(_announces_recipes, filter(os.path.isdir, sys.path))):
        return {}  # the usual case, in a tenth of the time that importlib.metadata takes
    from importlib.metadata import entry_points

    return {point.name: point.value for point in entry_points(group=ENTRY_POINTS)}


def _announces_recipes(folder: str) -> bool:
    """Whether a package installed in a folder of the path has an entry point of ours."""
    for name in os.listdir(folder):
        if name.endswith((".dist-info", ".egg-info")):
            try:
                with open(os.path.join(folder, name, "entry_points.txt"), encoding="utf-8") as file:
                    if f"[{ENTRY_POINTS}]" in file.read():
                        return True
            except (OSError, ValueError):
                continue
    return False


def load_recipe(reference: str) -> click.Command:
    """The recipe's commands.

    Raises:
        KitError: there is no such module or name, or it is no App.
    """
    return _app(reference).click_group()


def _app(reference: str) -> App:
    from nemotron.kit.app import App
    from nemotron.kit.cli.recipe import imported

    here = os.getcwd()
    if os.environ.get(VARIABLE) and here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    app = imported(reference)
    if not isinstance(app, App):
        raise KitError(f"{one_line(reference)} must be an App of nemotron.kit, got {type(app).__name__}")
    return app
