"""The options that several commands share, and the configuration keys that they set."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from llenergymeasure.config.choices import BACKENDS, PRECISIONS
from llenergymeasure.config.presets import PRESETS
from llenergymeasure.env import RESULTS_DIR
from medvllm_programs.commands import note

__all__ = [
    "backend_option",
    "config_overrides",
    "cycles_option",
    "dataset_option",
    "deprecated_options",
    "dry_run_option",
    "max_tokens_option",
    "model_option",
    "preset_option",
    "prompt_options",
    "results_dir_option",
    "results_folder",
    "sample_size_option",
    "seed_option",
    "streaming_options",
    "yes_option",
]

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
POSITIVE = click.IntRange(min=1)

# parameter → (the key it sets, the option as provenance names it)
_KEYS = {
    "dataset": ("dataset.name", "--dataset"),
    "prompts": ("prompts.path", "--prompts"),
    "sample_size": ("num_input_prompts", "--sample-size"),
    "split": ("dataset.split", "--split"),
    "column": ("dataset.column", "--column"),
    "model": ("model_name", "--model"),
    "backend": ("backend", "--backend"),
    "streaming": ("streaming", "--streaming"),
    "streaming_warmup": ("streaming_warmup_requests", "--streaming-warmup"),
    "max_tokens": ("max_output_tokens", "--max-tokens"),
    "seed": ("random_seed", "--seed"),
    "cycles": ("num_cycles", "--cycles"),
    "results_dir": ("io.results_dir", "--results-dir"),
    "batch_size": ("batching.batch_size", "--batch-size"),
    "precision": ("fp_precision", "--precision"),
    "num_processes": ("num_processes", "--num-processes"),
    "gpu_list": ("gpus", "--gpu-list"),
    "temperature": ("decoder.temperature", "--temperature"),
    "quantization": ("quantization.quantization", "--quantization"),
}


def config_overrides(params: Mapping[str, Any]) -> dict[str, tuple[object, str]]:
    """What `llenergymeasure.config.resolve` takes of a command's parameters; one that was not given is None.

    The key is that of the configuration, the value comes with its option: `{"random_seed": (0, "cli --seed")}`.
    """
    return {
        key: (params[name], f"cli {option}") for name, (key, option) in _KEYS.items() if params.get(name) is not None
    }


def results_folder(given: str | None) -> Path:
    """--results-dir, else $LLM_ENERGY_RESULTS_DIR, else `results`; for commands without a configuration."""
    return Path(given or os.environ.get(RESULTS_DIR) or "results").expanduser()


def _all(decorators: list[Decorator]) -> Decorator:
    def apply(command: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return apply


def dataset_option(*, short: bool = True) -> Decorator:
    """--dataset, with -d where the command has no other -d."""
    names = ["--dataset", "-d"] if short else ["--dataset"]
    text = "Data set: alpaca, sharegpt, gsm8k, mmlu, ai-energy-score, builtin, a local path, or a path on the hub."
    return click.option(*names, metavar="NAME", shell_complete=_complete_dataset, help=text)


def _complete_dataset(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[Any]:
    """The names of the data sets, else files."""
    from click.shell_completion import CompletionItem

    from llenergymeasure.prompts.aliases import ALIASES

    found = [CompletionItem(name) for name in ALIASES if name.startswith(incomplete)]
    return found or [CompletionItem(incomplete, type="file")]


sample_size_option: Decorator = click.option("--sample-size", "-n", type=POSITIVE, help="Limit the number of prompts.")
prompt_options: Decorator = _all(
    [
        dataset_option(),
        click.option("--prompts", "-p", metavar="FILE", type=click.Path(), help="File of prompts, one a line."),
        sample_size_option,
        click.option("--split", metavar="NAME", help="Split.  [default: the data set's own, else train]"),
        click.option("--column", metavar="NAME", help="Column to take prompts from.  [default: found by its name]"),
    ]
)
preset_option: Decorator = click.option("--preset", type=click.Choice(list(PRESETS)), help="Built-in preset.")
model_option: Decorator = click.option(
    "--model", "-m", metavar="NAME", help="Model: a folder or a name on the hub (required with --preset)."
)
backend_option: Decorator = click.option(
    "--backend", type=click.Choice(BACKENDS), help="Inference engine.  [default: pytorch]"
)
streaming_options: Decorator = _all(
    [
        click.option("--streaming/--no-streaming", default=None, help="Measure latency token by token: TTFT and ITL."),
        click.option(
            "--streaming-warmup",
            type=click.IntRange(min=0),
            help="Requests before streaming is measured.  [default: 5]",
        ),
    ]
)
max_tokens_option: Decorator = click.option("--max-tokens", type=POSITIVE, help="Override max_output_tokens.")
seed_option: Decorator = click.option("--seed", type=click.IntRange(min=0), help="Random seed.")
cycles_option: Decorator = click.option("--cycles", "-c", type=click.IntRange(1, 10), help="Number of cycles, 1 to 10.")
results_dir_option: Decorator = click.option(
    "--results-dir", "-o", metavar="DIR", type=click.Path(), help="Results directory."
)
yes_option: Decorator = click.option("--yes", "-y", is_flag=True, help="Ask nothing; accept warnings.")
dry_run_option: Decorator = click.option("--dry-run", is_flag=True, help="Show what would run, and stop.")


def _gpus(_ctx: click.Context, _param: click.Parameter, value: str | None) -> list[int] | None:
    if value is None:
        return None
    try:
        return [int(index) for index in value.split(",")]
    except ValueError as error:
        raise click.BadParameter(f"expected indices such as 0,1, got {value!r}") from error


def _deprecated(*names: str, replacement: str, read: Callable[..., Any] | None = None, **kwargs: Any) -> Decorator:
    option = names[0].split("/")[0]

    def warn(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
        if value is not None and not ctx.resilient_parsing:
            note(f"{option} is deprecated; set {replacement} in the configuration file", kind="Warning")
        return read(ctx, param, value) if read else value

    return click.option(*names, callback=warn, help=f"Deprecated: {replacement} in the configuration.", **kwargs)


deprecated_options: Decorator = _all(
    [
        _deprecated("--batch-size", "-b", replacement="batching.batch_size", type=POSITIVE),
        _deprecated("--precision", replacement="fp_precision", type=click.Choice(PRECISIONS)),
        _deprecated("--num-processes", replacement="num_processes", type=POSITIVE),
        _deprecated("--gpu-list", replacement="gpus", read=_gpus, metavar="N,N"),
        _deprecated("--temperature", replacement="decoder.temperature", type=click.FloatRange(0, 2)),
        _deprecated("--quantization/--no-quantization", replacement="quantization.quantization", default=None),
    ]
)
