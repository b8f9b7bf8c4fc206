"""The `lem` command; each of its commands is imported when it is called, so that `--help` costs no library."""

from __future__ import annotations

from typing import NoReturn

import click

from medvllm_programs.commands import CONTEXT, LazyGroup, run, version_option

__all__ = ["cli", "main"]

# What the extra `lem` brings, under the names that are imported.
_EXTRA = {"datasets", "dotenv", "huggingface_hub", "matplotlib", "numpy", "psutil", "pydantic", "questionary", "rich"}
_EXTRA |= {"filelock", "pyarrow", "scipy", "yaml"}
_HERE = "llenergymeasure.cli"
COMMANDS = {
    "experiment": (f"{_HERE}.experiment_commands:experiment", "Measure one configuration and aggregate its results."),
    "batch": (f"{_HERE}.batch_commands:batch", "Run every configuration that a pattern matches."),
    "campaign": (f"{_HERE}.campaign_commands:campaign", "Compare configurations over interleaved cycles."),
    "schedule": (f"{_HERE}.schedule_commands:schedule", "Repeat an experiment at an interval or time of day."),
    "aggregate": (f"{_HERE}.results_commands:aggregate", "Turn per-process results into final metrics."),
    "results": (f"{_HERE}.results_commands:results", "List and show results."),
    "compare": (f"{_HERE}.report_commands:compare", "Compare two results: effect, interval, p-value."),
    "report": (f"{_HERE}.report_commands:report", "Write an offline HTML page about results."),
    "verify": (f"{_HERE}.report_commands:verify", "Check a result's files against its manifest."),
    "config": (f"{_HERE}.config_commands:config", "Validate, show and make configurations."),
    "presets": (f"{_HERE}.list_commands:presets", "List the built-in presets."),
    "datasets": (f"{_HERE}.list_commands:datasets", "List the built-in data sets."),
    "gpus": (f"{_HERE}.gpu_commands:gpus", "Show the GPUs and their MIG instances."),
    "completion": ("medvllm_programs.completion:completion", "Print the completion script of a shell."),
}


@click.group(cls=LazyGroup, commands=COMMANDS, context_settings=CONTEXT)
@version_option("lem", "-v")
@click.option("--verbose", is_flag=True, help="Log what is done, on stderr.")
def cli(verbose: bool) -> None:
    """Measure energy, throughput and latency of language model inference."""
    from llenergymeasure.env import load_dotenv_file

    if verbose:
        import logging

        form = "%(asctime)s %(levelname)s %(name)s: %(message)s"
        logging.basicConfig(level=logging.INFO, format=form)  # of the libraries, what is told to users only
        logging.getLogger("llenergymeasure").setLevel(logging.DEBUG)
    load_dotenv_file()


def main(argv: list[str] | None = None, *, prog_name: str = "lem") -> NoReturn:
    """Console entry point: runs the command line (`sys.argv`, or `argv`) and exits with its code."""
    run(cli, prog_name=prog_name, argv=argv, explain=_explain)


def _explain(error: Exception) -> str | None:
    """The remedy for a package that is not installed; other exceptions are shown whole."""
    if isinstance(error, ModuleNotFoundError) and error.name is not None and error.name.split(".")[0] in _EXTRA:
        return f"{error.name} is not installed; pip install 'medvllm[lem]'"
    return None
