"""`lem presets` and `lem datasets`."""

from __future__ import annotations

import click

from medvllm_programs.commands import CONTEXT

__all__ = ["datasets", "presets"]

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.command(context_settings=CONTEXT)
@json_option
def presets(as_json: bool) -> None:
    """List the built-in presets and what they set. Each needs a model: --preset NAME --model MODEL."""
    from llenergymeasure.cli._show import print_json, print_table
    from llenergymeasure.config.presets import PRESETS, PURPOSES

    if as_json:
        print_json({name: {"purpose": PURPOSES[name], "values": values} for name, values in PRESETS.items()})
        return
    rows = [(name, PURPOSES[name], _said(values)) for name, values in PRESETS.items()]
    print_table(None, ("Preset", "Purpose", "Sets"), rows)


def _said(values: dict[str, object], prefix: str = "") -> str:
    """`a=1, b.c=2` of nested values."""
    parts = [
        _said(value, f"{prefix}{name}.") if isinstance(value, dict) else f"{prefix}{name}={value}"
        for name, value in values.items()
    ]
    return ", ".join(parts)


@click.command(context_settings=CONTEXT)
@json_option
def datasets(as_json: bool) -> None:
    """List the built-in data sets. --dataset also takes a path on the hub, and a local file or folder."""
    from llenergymeasure.cli._show import print_json, print_table
    from llenergymeasure.prompts.aliases import ALIASES

    if as_json:
        listed = {
            name: {
                "source": alias.source,
                "path": alias.path or None,
                "subset": alias.subset,
                "split": alias.split,
                "column": alias.column,
                "notes": alias.notes or None,
            }
            for name, alias in ALIASES.items()
        }
        print_json(listed)
        return
    rows = [(name, alias.source, alias.column, alias.split, alias.notes) for name, alias in ALIASES.items()]
    print_table(None, ("Dataset", "Source", "Default Column", "Split", "Notes"), rows)
