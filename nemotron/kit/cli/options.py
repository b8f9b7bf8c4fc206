"""The options of a recipe's command: one for each field of its dataclass, and the global ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import click
from click.shell_completion import CompletionItem

from nemotron.kit.config import Assignment
from nemotron.kit.config_schema import (
    MISSING,
    FieldError,
    Leaf,
    choices,
    is_bool,
    is_many,
    leaves,
    parse_text,
    parse_texts,
    type_name,
)
from nemotron.kit.errors import KitError

__all__ = ["RESERVED", "FieldOption", "assignments", "field_options", "global_options"]

RESERVED = ("run", "batch", "dry_run", "config_file", "art", "help")
_METAVARS = {"an integer": "INT", "a number": "FLOAT", "text": "TEXT", "a path": "PATH"}


class FieldOption(click.Option):
    """The option of a field; its help is read from the dataclass's source when it is shown."""

    def __init__(self, leaf: Leaf) -> None:
        self.leaf = leaf
        flag = "--" + ".".join(leaf.key).replace("_", "-")
        settings: dict[str, Any] = {"type": click.UNPROCESSED, "metavar": _metavar(leaf.type)}
        if is_bool(leaf.type):
            *parents, last = flag.removeprefix("--").split(".")
            flag += f"/--{'.'.join([*parents, 'no-' + last])}"
            settings = {"default": None}
        settings["multiple"] = is_many(leaf.type)
        super().__init__(["field_" + "__".join(leaf.key), flag], **settings)

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """As click's, with the author's words and the default."""
        from nemotron.kit.cli.field_docs import field_docs

        record = super().get_help_record(ctx)
        if record is None:
            return None
        said = field_docs(self.leaf.owner).get(self.leaf.key[-1], "")
        default = self.leaf.default
        given = "required" if default is MISSING or default == "???" else f"default: {_shown(default)}"
        if self.multiple:
            given = "repeatable; " + given
        return record[0], f"{said}  [{given}]".strip()

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The values of a Literal or Enum, files for a path."""
        known = choices(self.leaf.type)
        if known:
            return [CompletionItem(value) for value in known if value.startswith(incomplete)]
        if _metavar(self.leaf.type) == "PATH":
            return [CompletionItem(incomplete, type="file")]
        return []


def _metavar(hint: Any) -> str:
    known = choices(hint)
    if known:
        return "[" + "|".join(known) + "]"
    name = type_name(hint).removesuffix(" or null")
    if name.startswith("a mapping"):
        return "KEY=VALUE"
    return _METAVARS.get(name, "VALUE")


def _shown(value: Any) -> str:
    from nemotron.kit.config import plain

    value = plain(value)
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | dict) and not value:
        return "empty"
    return str(value)


def field_options(cls: type) -> list[FieldOption]:
    """An option for each field.

    Raises:
        KitError: a field has the name of a global option.
    """
    for field in dataclasses.fields(cls):
        if field.name in RESERVED:
            raise KitError(
                f"{cls.__name__}.{field.name} has the name of the option --{field.name.replace('_', '-')} of every "
                "command; rename the field"
            )
    return [FieldOption(leaf) for leaf in leaves(cls)]


def assignments(options: Iterable[click.Parameter], params: dict[str, Any], ctx: click.Context) -> list[Assignment]:
    """What was given by field options, typed.

    Raises:
        click.BadParameter: a value is not of its field's type.
    """
    given = []
    for option in options:
        if not isinstance(option, FieldOption):
            continue
        value = params.pop(option.name or "", None)
        if value is None or value == ():
            continue
        leaf = option.leaf
        try:
            if option.multiple:
                value = parse_texts(list(value), leaf.type, leaf.key)
            elif isinstance(value, str) and "${" not in value:
                value = parse_text(value, leaf.type, leaf.key)
        except FieldError as error:
            raise click.BadParameter(error.problem, ctx, option) from error
        given.append(Assignment(leaf.key, value, option.opts[0]))
    return given


def global_options(
    complete_config: Callable[[str], list[str]],
    complete_profile: Callable[[str], list[str]],
    *,
    with_config_alias: bool,
) -> list[click.Option]:
    """-c, --run, --batch and --dry-run."""

    def completing(found: Callable[[str], list[str]]) -> Callable[..., list[CompletionItem]]:
        return lambda ctx, param, incomplete: [CompletionItem(name) for name in found(incomplete)]

    files = ["-c", "--config-file", *(["--config"] if with_config_alias else [])]
    return [
        click.Option(
            ["config_file", *files],
            metavar="FILE",
            help="Configuration: a name in the command's config/ folder, or a path (YAML, TOML, JSON).",
            shell_complete=completing(complete_config),
        ),
        click.Option(
            ["run_profile", "--run"],
            metavar="PROFILE",
            help="Run on this profile of env.toml, follow its log, and end with its exit code.",
            shell_complete=completing(complete_profile),
        ),
        click.Option(
            ["batch_profile", "--batch"],
            metavar="PROFILE",
            help="Submit to this profile of env.toml and return.",
            shell_complete=completing(complete_profile),
        ),
        click.Option(
            ["dry_run", "--dry-run"], is_flag=True, help="Show the configuration and the submission; run nothing."
        ),
    ]
