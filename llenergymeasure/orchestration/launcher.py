"""`accelerate launch --num_processes N -m llenergymeasure.orchestration.launcher --config FILE …`, or torchrun.

Takes the options of `lem experiment`, with --config for its file. The processes share out the prompts; process 0 makes
the experiment's id, aggregates when all are done, and prints the result. No questions are asked: warnings are accepted.
"""

from __future__ import annotations

import sys
from typing import NoReturn

__all__ = ["experiment_arguments", "main"]


def experiment_arguments(argv: list[str]) -> list[str]:
    """The command line of `lem` for the launcher's: `--config FILE` becomes the argument."""
    found = ["experiment", "--distributed", "--yes"]
    rest = list(argv)
    while rest:
        part = rest.pop(0)
        if part == "--config" and rest:
            found.append(rest.pop(0))
        elif part.startswith("--config="):
            found.append(part.removeprefix("--config="))
        else:
            found.append(part)
    return found


def main(argv: list[str] | None = None) -> NoReturn:
    """Runs this process's part and exits with its code."""
    from llenergymeasure.cli import main as lem

    arguments = experiment_arguments(sys.argv[1:] if argv is None else argv)
    lem(arguments, prog_name="llenergymeasure.orchestration.launcher")


if __name__ == "__main__":
    main()
