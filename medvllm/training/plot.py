"""loss.png: the losses of a run over its steps, from metrics.jsonl."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from medvllm.training.checkpoint import writing
from medvllm.training.metrics import read_metrics

__all__ = ["plot_losses"]


def plot_losses(folder: Path) -> Path | None:
    """Draws `folder`/loss.png; None where matplotlib is not installed or nothing was measured."""
    rows = read_metrics(folder / "metrics.jsonl")
    trained = [(row["step"], row["loss"]) for row in rows if "loss" in row]
    evaluated = [(row["step"], row["eval_loss"]) for row in rows if "eval_loss" in row]
    if importlib.util.find_spec("matplotlib") is None or not (trained or evaluated):
        return None
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for points, label, style in ((trained, "training", "-"), (evaluated, "evaluation", "o-")):
        if points:
            axes.plot(*zip(*points, strict=True), style, label=label, markersize=4)
    axes.set(xlabel="step", ylabel="loss", title=folder.resolve().name)
    axes.grid(alpha=0.3)
    axes.legend()
    path = folder / "loss.png"
    partial = folder / ".loss.tmp.png"
    try:
        with writing("the plot", path):
            figure.savefig(partial, dpi=120)
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path
