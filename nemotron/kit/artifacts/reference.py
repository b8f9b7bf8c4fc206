"""How artifacts are named: `Name`, `Name:v3`, `Name:latest`, `v3`, `3`, `entity/project/Name:v3`, `art://Name:alias`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from nemotron.kit.errors import KitError

__all__ = ["LATEST", "Reference", "check_alias", "check_name", "parse_reference", "qualified", "version_number"]

LATEST = "latest"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9._-]{0,127}")
_VERSION = re.compile(r"v?([0-9]{1,9})")
_PREFIX = "art://"


@dataclass(frozen=True, slots=True)
class Reference:
    """A parsed reference. `selector` is `v<number>` or an alias; `scope` is `entity/project` of a tracker, or empty."""

    name: str
    selector: str = LATEST
    scope: str = ""

    @property
    def version(self) -> int | None:
        """The version number where the selector is one, else None."""
        return version_number(self.selector)

    def __str__(self) -> str:
        return f"{self.scope}/{self.name}:{self.selector}" if self.scope else f"{self.name}:{self.selector}"


def version_number(selector: str) -> int | None:
    """3 for `v3` and `3`; None for an alias."""
    match = _VERSION.fullmatch(selector)
    return int(match[1]) if match else None


def check_name(name: str) -> str:
    """The name itself, where an artifact may be called so.

    Raises:
        KitError: it may not: letters, digits, `.`, `_` and `-`, not starting with a digit, and no version or `latest`.
    """
    if not _NAME.fullmatch(name) or name == LATEST or version_number(name) is not None:
        raise KitError(
            f"an artifact's name is made of letters, digits, '.', '_' and '-', starts with a letter, and is neither "
            f"'latest' nor a version; got {name!r}"
        )
    return name


def check_alias(alias: str) -> str:
    """The alias itself, where a version may be called so.

    Raises:
        KitError: it may not; `latest` moves by itself.
    """
    if alias == LATEST:
        raise KitError("the alias 'latest' always means the highest version; choose another one")
    if not _NAME.fullmatch(alias) or version_number(alias) is not None:
        raise KitError(f"an alias is made of letters, digits, '.', '_' and '-' and is no version; got {alias!r}")
    return alias


def parse_reference(text: str, *, type_name: str | None = None) -> Reference:
    """Reads a reference.

    Args:
        text: any of the forms above, `art://` before it or not.
        type_name: the artifact's name where `text` is only a version or `latest`; a reference is accepted, too
            (its version is left away).

    Raises:
        KitError: the text has none of these forms, or is a bare version while no name is known.
    """
    body = text.strip().removeprefix(_PREFIX)
    path, _, selector = body.partition(":")
    if _is_bare(body):
        if type_name is None:
            raise KitError(f"{text!r} is a version of no named artifact; write NAME:{path}")
        base = parse_reference(type_name)
        return Reference(base.name, _selector(path, text), base.scope)
    *scope, name = path.split("/")
    if body.endswith(":") or len(scope) not in (0, 2) or not all(scope) or not _NAME.fullmatch(name):
        raise KitError(
            f"can't read the artifact reference {text!r}; write NAME, NAME:v3, NAME:ALIAS, v3, latest, "
            f"ENTITY/PROJECT/NAME:v3, or any of them after art://"
        )
    return Reference(check_name(name), _selector(selector or LATEST, text), "/".join(scope))


def qualified(text: str, type_name: str | None) -> str:
    """A bare version (`v3`, `3`, `latest`) as `Name:v3` of the artifact `type_name`; any other text as it is."""
    if type_name is None or not _is_bare(text.strip().removeprefix(_PREFIX)):
        return text
    return str(parse_reference(text, type_name=type_name))


def _is_bare(body: str) -> bool:
    return body == LATEST or version_number(body) is not None


def _selector(selector: str, text: str) -> str:
    number = version_number(selector)
    if number is not None:
        return f"v{number}"
    if not _NAME.fullmatch(selector):
        raise KitError(
            f"can't read the version {selector!r} of the artifact reference {text!r}; write v3, 3 or an alias"
        )
    return selector
