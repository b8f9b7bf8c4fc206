"""`App`: a recipe's commands as a tree, run as a program of its own or as `nemotron <app> …`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from nemotron.kit.errors import KitError

if TYPE_CHECKING:
    from nemotron.kit.cli.recipe import ArtifactInput, CommandSpec

__all__ = ["App", "Group"]


class Group:
    """A named set of commands and further groups."""

    def __init__(self, name: str, description: str = "", *, parent: Group | None = None) -> None:
        self.name = name
        self.description = description
        self.parent = parent
        self.children: dict[str, Group | CommandSpec] = {}
        _check_name(name)

    @property
    def path(self) -> tuple[str, ...]:
        """The names from the app down to this group."""
        return (*(self.parent.path if self.parent else ()), self.name)

    def group(self, name: str, description: str = "") -> Group:
        """Adds and returns a group below this one.

        Raises:
            KitError: the name is taken, or can't be typed.
        """
        made = Group(name, description, parent=self)
        self._add(name, made)
        return made

    def command(
        self,
        name: str,
        config_cls: type | str,
        handler: Callable[..., Any] | str,
        script_path: str | Path | None = None,
        description: str | None = None,
        artifacts: Mapping[str, ArtifactInput] | None = None,
    ) -> None:
        """Adds a command.

        Args:
            name: as it is typed.
            config_cls: the dataclass whose fields are the options; or "module:Class", imported when it is needed.
            handler: called with an instance of it; or "module:function".
            script_path: what a remote job runs with `--config train.yaml`; without it, the handler itself.
            description: the help; without it, the first paragraph of the handler's docstring.
            artifacts: name → input; each gets an option `--art.<name>`.

        Raises:
            KitError: the name is taken or can't be typed, or `config_cls` is no dataclass.
        """
        from nemotron.kit.cli.recipe import CommandSpec
        from nemotron.kit.config_schema import check_schema

        _check_name(name)
        if not isinstance(config_cls, str):
            check_schema(config_cls)
        spec = CommandSpec(
            path=(*self.path, name),
            config_cls=config_cls,
            handler=handler,
            script_path=Path(script_path) if script_path is not None else None,
            description=description,
            artifacts=dict(artifacts or {}),
            siblings=self._root().commands,
        )
        self._add(name, spec)

    def commands(self) -> list[CommandSpec]:
        """All commands at and below this group."""
        found: list[CommandSpec] = []
        for child in self.children.values():
            found += child.commands() if isinstance(child, Group) else [child]
        return found

    def click_group(self) -> click.Group:
        """The group as a click command, to be added to another program."""
        from nemotron.kit.cli.group import KitGroup

        return KitGroup(self)

    def _add(self, name: str, child: Group | CommandSpec) -> None:
        if name in self.children:
            raise KitError(f"{' '.join(self.path)} has a command or group {name!r} already; choose another name")
        self.children[name] = child

    def _root(self) -> Group:
        return self.parent._root() if self.parent else self


class App(Group):
    """A recipe's command line.

    app = App("myrecipe", description="My training recipe")
    app.group("data").command("prep", DataPrepConfig, data_prep_main)
    app.run()
    """

    def __init__(self, name: str, description: str = "") -> None:
        super().__init__(name, description)

    def run(self, argv: list[str] | None = None) -> NoReturn:
        """Runs the command line (`sys.argv`, or `argv`) and exits: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
        from medvllm_programs.commands import run

        run(self.click_group(), prog_name=self.name, argv=argv)


def _check_name(name: str) -> None:
    if not name or name.startswith("-") or any(char.isspace() or char in "=/" for char in name):
        raise KitError(f"a command's name is one word without = and /, got {name!r}")
