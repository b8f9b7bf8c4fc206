"""The help of a dataclass's fields, from where authors write it.

In this order: `field(metadata={"help": …})`, a string below the field, a comment on its line, comment lines above it,
and the class docstring (`Attributes:`, `Args:`, `:param name:`).
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import re
import sys
import textwrap
from pathlib import Path

__all__ = ["field_docs"]


@functools.lru_cache(maxsize=256)
def field_docs(cls: type) -> dict[str, str]:
    """Field name → one line of help, for the fields that have any; base classes included."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if dataclasses.is_dataclass(base):
            docs |= _of_docstring(base.__doc__ or "") | _of_source(base)
            docs |= {
                field.name: " ".join(str(field.metadata["help"]).split())
                for field in dataclasses.fields(base)
                if field.metadata.get("help")
            }
    return docs


def _of_docstring(text: str) -> dict[str, str]:
    docs = {name: " ".join(said.split()) for name, said in re.findall(r":param (\w+):\s*([^\n]+)", text)}
    section = re.search(r"^(\s*)(?:Attributes|Args|Parameters):\s*\n((?:\1\s+.*\n?|\s*\n)+)", text, re.M)
    if not section:
        return docs
    entry = None
    for line in textwrap.dedent(section.group(2)).splitlines():
        found = re.match(r"(\w+)\s*(?:\([^)]*\))?:\s*(.*)", line)
        if found:
            entry = found.group(1)
            docs[entry] = found.group(2)
        elif entry and line.strip():
            docs[entry] = f"{docs[entry]} {line.strip()}".strip()
    return docs


def _of_source(cls: type) -> dict[str, str]:
    """From the class's text. Not by inspect and tokenize: they took three times as long as this on `--help`."""
    source = _source(cls.__module__)
    if source is None:
        return {}
    lines, classes = source
    body = classes.get(cls.__qualname__)
    if body is None:
        return {}
    docs = {}
    for statement, after in zip(body.body, [*body.body[1:], None], strict=True):
        if not (isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)):
            continue
        said = _literal(after) or _beside(statement, lines) or _above(statement.lineno, lines)
        if said:
            docs[statement.target.id] = " ".join(said.split())
    return docs


@functools.lru_cache(maxsize=64)
def _source(module: str) -> tuple[list[str], dict[str, ast.ClassDef]] | None:
    """(lines, qualified name → class) of a module; None where it was not loaded from a file."""
    path = getattr(sys.modules.get(module), "__file__", None)
    try:
        text = Path(path).read_text("utf-8") if path else ""
        tree = ast.parse(text)
    except (OSError, ValueError, SyntaxError):  # compiled only, or changed since it was loaded
        return None
    classes: dict[str, ast.ClassDef] = {}

    def visit(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef):
                classes[prefix + child.name] = child
                visit(child, f"{prefix}{child.name}.")
            elif isinstance(child, ast.FunctionDef):
                visit(child, f"{prefix}{child.name}.<locals>.")

    visit(tree, "")
    return text.splitlines(), classes


def _beside(statement: ast.stmt, lines: list[str]) -> str:
    """The comment after a statement on its last line."""
    rest = lines[(statement.end_lineno or 1) - 1].encode()[statement.end_col_offset or 0 :].decode()
    return _comment(rest)


def _comment(text: str) -> str:
    """A comment's words; directives to tools are left out."""
    text = text.strip()
    return re.sub(r"#\s*(?:noqa|type:|pragma|fmt:).*$", "", text).lstrip("#").strip() if text.startswith("#") else ""


def _literal(statement: ast.stmt | None) -> str | None:
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        value = statement.value.value
        return value if isinstance(value, str) else None
    return None


def _above(line: int, lines: list[str]) -> str:
    """The comment lines right above a line (counted from 1)."""
    said: list[str] = []
    while (line := line - 1) > 0 and lines[line - 1].lstrip().startswith("#"):
        said.insert(0, _comment(lines[line - 1]))
    return " ".join(said)
