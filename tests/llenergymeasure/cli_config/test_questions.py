"""`lem config new` in a terminal: the questions, answered by keys."""

from __future__ import annotations

import os
import pty
import select
import sys
import time
from pathlib import Path

from llenergymeasure.config import resolve

SECONDS = 40.0


def answered(arguments: list[str], keys: list[tuple[str, str]], end: str) -> str:
    """What the program showed, typing each answer when its question has come, up to the text `end`."""
    path = os.pathsep.join(sys.path)
    child, terminal = pty.fork()
    if child == 0:
        command = [sys.executable, "-m", "llenergymeasure", *arguments]
        os.execve(
            sys.executable, command, os.environ | {"PYTHONPATH": path, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"}
        )
    shown, deadline, waiting = "", time.monotonic() + SECONDS, [*keys, (end, "")]
    seen = 0
    while waiting and time.monotonic() < deadline:
        if not select.select([terminal], [], [], 0.5)[0]:
            continue
        try:
            shown += os.read(terminal, 4096).decode("utf-8", "replace")
        except OSError:  # the program has ended
            break
        while waiting and (found := shown.find(waiting[0][0], seen)) >= 0:
            text, typed = waiting.pop(0)
            seen = found + len(text)
            time.sleep(0.05)
            os.write(terminal, typed.encode())
    os.waitpid(child, 0)
    os.close(terminal)
    assert not waiting, f"never shown: {waiting[0][0]}; shown: {shown}"
    return shown


def test_a_configuration_made_of_answers() -> None:
    keys = [
        ("Start from", "\r"),
        ("Model", "\x15my/model\r"),
        ("Name of", "\r"),
        ("Backend", "\r"),
        ("Precision", "\x1b[B\r"),
        ("Batch size", "\x154\r"),
        ("Data set", "\x15builtin\r"),
        ("Number of prompts", "\x1520\r"),
        ("Cycles", "\x1599\x7f\x7f3\r"),
        ("streaming", "y"),
    ]
    answered(["config", "new", "-o", "x.yaml"], keys, "Wrote x.yaml")
    config = resolve(Path("x.yaml")).config
    assert (config.config_name, config.model_name) == ("model-quick-test", "my/model")
    assert (config.batching.batch_size, config.fp_precision, config.num_cycles) == (4, "float32", 3)
    assert config.dataset is not None
    assert (config.dataset.name, config.dataset.sample_size, config.streaming) == ("builtin", 20, True)
    assert config.max_output_tokens == 32
