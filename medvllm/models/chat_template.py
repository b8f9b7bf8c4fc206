"""Chat templates: Jinja from a model's files, rendered in a sandbox as transformers renders them.

A template comes with a model, so it is nobody's code: it sees plain strings, can change nothing of its surroundings and
reach no attribute that begins with an underscore. What it may call beyond Jinja is what model makers rely on:
`raise_exception`, `strftime_now`, a `tojson` that leaves HTML alone, and the loop controls.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

__all__ = ["render_chat_template"]


def render_chat_template(
    template: str,
    conversation: Sequence[Mapping[str, str]],
    *,
    special_tokens: Mapping[str, str],
    add_generation_prompt: bool,
) -> str:
    """The text of a conversation.

    Args:
        template: its Jinja source.
        conversation: `{"role": …, "content": …}` in order.
        special_tokens: `bos_token` and the like, which templates write by name.

    Raises:
        jinja2.TemplateError: the template is malformed, refuses the conversation, or does what is not allowed.
    """
    rendered: str = _compiled(template).render(
        messages=[dict(message) for message in conversation],
        tools=None,
        documents=None,
        add_generation_prompt=add_generation_prompt,
        **special_tokens,
    )
    return rendered


@functools.lru_cache(maxsize=8)
def _compiled(template: str) -> Any:
    """The template in its sandbox; blocks leave neither their newline nor the white space before them."""
    import jinja2.ext
    import jinja2.sandbox

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols, _generation_block()]
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {
        "raise_exception": _raise_exception,
        "strftime_now": lambda format: datetime.now().strftime(format),
        "dict": _Dict(),
        "namespace": _namespace_class(),
    }
    return environment.from_string(template)


def _generation_block() -> Any:
    """The extension for `{% generation %}…{% endgeneration %}`, which marks the model's turns for training."""
    import jinja2.ext
    from jinja2 import nodes

    class Generation(jinja2.ext.Extension):
        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            """What the block holds, in a scope of its own, as a call block has."""
            line = next(parser.stream).lineno
            return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)

    return Generation


@functools.cache
def _namespace_class() -> Any:
    """Jinja's `namespace`, without attributes that begin with an underscore."""
    import jinja2.exceptions
    from jinja2.utils import Namespace

    class PlainNamespace(Namespace):
        def __init__(*args: Any, **kwargs: Any) -> None:
            self, *given = args  # so that `self` can be the name of an attribute
            attributes = dict(*given, **kwargs)
            for name in attributes:
                _check_name(name)
            Namespace.__init__(self, attributes)

        def __setitem__(self, name: Any, value: Any) -> None:
            _check_name(name)
            super().__setitem__(name, value)

    def _check_name(name: object) -> None:
        if isinstance(name, str) and name.startswith("_"):
            raise jinja2.exceptions.SecurityError(f"a namespace can't hold {name!r}: it begins with an underscore")

    return PlainNamespace


class _Dict:
    """`dict` as templates use it, without the class behind it."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    @staticmethod
    def fromkeys(keys: Iterable[Any], value: Any = None) -> dict[Any, Any]:
        """`dict.fromkeys`."""
        return dict.fromkeys(keys, value)


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    from jinja2.exceptions import TemplateError

    raise TemplateError(message)
