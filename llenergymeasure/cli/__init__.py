"""The `lem` command; each of its commands is imported when it is called, so that `--help` costs no library."""

from __future__ import annotations

import click

from llenergymeasure.cli._click import CONTEXT, LazyGroup, run

__all__ = ["cli", "main"]

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
    "completion": (f"{_HERE}._completion:completion", "Print the completion script of a shell."),
}


def _version(ctx: click.Context, _param: click.Parameter, asked: bool) -> None:
    if asked and not ctx.resilient_parsing:
        from importlib.metadata import PackageNotFoundError, version

        try:
            click.echo(f"lem, version {version('medvllm')}")
        except PackageNotFoundError:  # a checkout
            click.echo("lem, from a checkout")
        ctx.exit()


@click.group(cls=LazyGroup, commands=COMMANDS, context_settings=CONTEXT)
@click.option(
    "--version",
    "-v",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_version,
    help="Show the version and exit.",
)
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


def main() -> None:
    """Console entry point: runs the command and exits with its code."""
    run(cli, prog_name="lem")
