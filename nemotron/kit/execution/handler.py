"""Runs a handler in a job: `python -m nemotron.kit.execution.handler module:handler module:Class --config FILE`."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Builds the configuration and calls the handler with it."""
    from nemotron.kit.cli.recipe import imported
    from nemotron.kit.train_script import load_omegaconf_yaml, omegaconf_to_dataclass, parse_config_and_overrides

    handler, schema = sys.argv[1:3]
    path, _ = parse_config_and_overrides(argv=sys.argv[3:])
    imported(handler)(omegaconf_to_dataclass(load_omegaconf_yaml(path), imported(schema)))


if __name__ == "__main__":
    main()
