"""Conversations for SFT, and prompts whose answers can be checked, from a JSONL file or made from Python sources.

From a source file each documented function gives "write it" with its code as the answer; for RL it gives questions that
the parser answers: how many parameters it has, what it is called.
"""

from __future__ import annotations

import ast
import hashlib
import json
import textwrap
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nemotron.kit.errors import KitError

__all__ = ["conversations_of_code", "prompts_of_code", "read_conversations", "read_prompts"]

Messages = list[dict[str, str]]
_ROLES = ("system", "user", "assistant")
_LONGEST_CODE = 2_000  # characters; a longer function teaches a small model little and does not fit its window


def conversations_of_code(text: str) -> Iterator[Messages]:
    """For each documented function of a Python source: the request and the function's code."""
    for function, code in _functions(text):
        line = (ast.get_docstring(function) or "").strip().partition("\n")[0]
        if line:
            request = f"Write the Python function `{function.name}`. {line}"
            yield [{"role": "user", "content": request}, {"role": "assistant", "content": code}]


def prompts_of_code(text: str) -> Iterator[dict[str, Any]]:
    """For each function of a Python source: two prompts, with the verifier of each (see `stage2_rl/rewards.py`)."""
    for function, code in _functions(text):
        arguments = function.args
        count = len(arguments.posonlyargs) + len(arguments.args) + len(arguments.kwonlyargs)
        count += (arguments.vararg is not None) + (arguments.kwarg is not None)
        ask = "How many parameters does this function have? Answer with a number.\n\n"
        yield _prompt(ask + code, {"type": "integer", "answer": count})
        hidden = code.replace(function.name, "_", 1)
        ask = "The name of this function is left out as `_`. Answer with a name that Python accepts.\n\n"
        yield _prompt(ask + hidden, {"type": "identifier", "answer": function.name})


def _prompt(content: str, verifier: dict[str, Any]) -> dict[str, Any]:
    identity = hashlib.sha256(f"{content}\0{verifier}".encode()).hexdigest()[:16]
    return {"id": identity, "prompt": [{"role": "user", "content": content}], "verifier": verifier}


def _functions(text: str) -> Iterator[tuple[ast.FunctionDef, str]]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old escapes in the sources read
            tree = ast.parse(text)
    except (SyntaxError, ValueError):  # the standard library's tests hold files that are wrong on purpose
        return
    lines = text.replace("\r\n", "\n").split("\n")
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            # ast.get_source_segment would split the whole text again for each function.
            code = textwrap.dedent("\n".join(lines[node.lineno - 1 : node.end_lineno]))
            if len(code) <= _LONGEST_CODE:
                yield node, code


def read_conversations(path: Path) -> list[Messages]:
    """The conversations of a JSONL file: `{"messages": [{"role": "user", "content": "…"}, …]}` a line.

    Raises:
        KitError: a line is no conversation; its number is named.
    """
    found = []
    for number, value in _lines(path):
        messages = value.get("messages")
        if not isinstance(messages, list) or not messages or not all(_is_message(each) for each in messages):
            raise KitError(
                f'{path}:{number}: expected {{"messages": [{{"role": …, "content": …}}]}} with text and a role of '
                f"{', '.join(_ROLES)}"
            )
        found.append([{"role": each["role"], "content": each["content"]} for each in messages])
    return found


def read_prompts(path: Path) -> list[dict[str, Any]]:
    """The prompts of a JSONL file: `{"prompt": "…" or messages, "verifier": {"type": …, "answer": …}}` a line.

    Raises:
        KitError: a line is no prompt; its number is named.
    """
    from nemotron.recipes.nano3.stage2_rl.rewards import check_verifier

    found = []
    for number, value in _lines(path):
        prompt, verifier = value.get("prompt"), value.get("verifier")
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        if not isinstance(messages, list) or not messages or not all(_is_message(each) for each in messages):
            raise KitError(f"{path}:{number}: `prompt` must be text or messages with role and content")
        try:
            check_verifier(verifier)
        except KitError as error:
            raise KitError(f"{path}:{number}: {error}") from error
        identity = hashlib.sha256(json.dumps([messages, verifier], sort_keys=True).encode()).hexdigest()[:16]
        found.append({"id": str(value.get("id") or identity), "prompt": messages, "verifier": verifier})
    return found


def _is_message(value: object) -> bool:
    return isinstance(value, dict) and value.get("role") in _ROLES and isinstance(value.get("content"), str)


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError) as error:
        raise KitError(f"no file {path}; give a JSONL file, or leave the option out for the default data") from error
    except UnicodeDecodeError as error:
        raise KitError(f"{path} is not UTF-8 ({error}); convert it") from error
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            raise KitError(f"{path}:{number}: not JSON ({error})") from error
        if not isinstance(value, dict):
            raise KitError(f"{path}:{number}: expected a JSON object, got {type(value).__name__}")
        yield number, value
