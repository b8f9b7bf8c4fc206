"""The options of `inference generate`, by group; nothing here imports the engine.

Each has the name of the field that it fills: of `GenerationOptions`, `Style`, `EngineFlags` or `GenerateCommand`.
"""

from __future__ import annotations

from pathlib import Path

import click

from medvllm.cli._click import all_of, complete_model, unless
from medvllm.tasks.generation.options import STRATEGIES
from medvllm.tasks.generation.styles import STYLES
from medvllm_programs.commands import Decorator

__all__ = ["engine_options", "generation_options", "input_options", "run_options"]


def _style(name: str, help: str) -> Decorator:
    return click.option(f"--{name}", type=click.Choice(STYLES[name]), metavar="NAME", help=help)


input_options = all_of(
    click.option(
        "--model",
        required=True,
        metavar="NAME",
        help="Registered name, folder, .gguf file, hub id or art:// reference of a causal language model.",
        shell_complete=complete_model,
    ),
    click.option("--text", help="The prompt, inline."),
    click.option(
        "--input", "source", type=click.Path(), metavar="FILE", help="A file with the prompt, or - for stdin."
    ),
    click.option("--encoding", help="Encoding of text input  [default: UTF-8, or by its byte order mark]"),
    click.option(
        "--prompts-file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help='Many prompts: JSONL, {"id", "text"} a line; a line of JSON comes out for each.',
    ),
    click.option(
        "--restart", is_flag=True, help="Many prompts: start again instead of going on after an interruption."
    ),
)

generation_options = all_of(
    click.option(
        "--strategy",
        type=click.Choice(STRATEGIES),
        help="How tokens are chosen  [default: greedy, or what the parameters given need]",
    ),
    click.option(
        "--max-length", type=int, metavar="N", help="New tokens at most  [default: what the targets need, or 256]"
    ),
    click.option("--temperature", type=float, help="Sampling: 0 is greedy  [default: 0.7]"),
    click.option("--top-p", type=float, help="Sampling: the likeliest tokens of this probability  [default: 0.9]"),
    click.option("--top-k", type=int, help="Sampling: the K likeliest tokens  [default: all]"),
    click.option("--min-p", type=float, help="Sampling: tokens at least this likely, relative to the likeliest."),
    click.option("--beam-width", type=int, help="Beam search: beams  [default: 4]"),
    click.option("--length-penalty", type=float, help="Beam search: above 0 favours longer texts  [default: 1]"),
    click.option(
        "--repetition-penalty", type=float, help="Above 1: tokens seen are less likely  [default: 1.1; 1 for JSON]"
    ),
    click.option("--presence-penalty", type=float, help="Taken once from tokens generated before  [default: 0]"),
    click.option("--frequency-penalty", type=float, help="Taken each time a token was generated  [default: 0]"),
    click.option(
        "--stop",
        multiple=True,
        metavar="TEXT",
        callback=lambda _ctx, _param, texts: texts or None,
        help="End before this text; may be repeated.",
    ),
    click.option("-n", "n", type=int, default=1, show_default=True, help="Texts to generate."),
    click.option("--seed", type=int, help="Of sampling; the same seed gives the same text."),
    click.option("--deterministic", is_flag=True, help="The same text whatever else is generated with it; slower."),
    _style("purpose", f"For whom: {', '.join(STYLES['purpose'])}."),
    _style("readability", f"How hard to read: {', '.join(STYLES['readability'])}."),
    _style("tone", f"One of {', '.join(STYLES['tone'])}."),
    _style("structure", f"One of {', '.join(STYLES['structure'])}."),
    _style("specialty", "Point of view, such as cardiology; an unknown one lists them all."),
    click.option("--target-words", type=int, metavar="N", help="About N words, ending at a sentence."),
    click.option("--target-chars", type=int, metavar="N", help="At most N characters, the disclaimer included."),
    click.option(
        "--json-schema", type=click.Path(path_type=Path), metavar="FILE", help="The text is JSON of this schema."
    ),
    unless("--no-disclaimer", "disclaimer", help="Leave out the disclaimer after the text."),
    unless(
        "--no-expand-abbreviations",
        "expand_abbreviations",
        help="Leave clinical abbreviations of the prompt, instead of HTN as hypertension (HTN).",
    ),
)

run_options = all_of(
    click.option("--json-meta", is_flag=True, help="Print metadata as JSON after the text."),
    click.option(
        "--output",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Write the text to FILE, and with --json-meta the metadata to FILE.meta.json.",
    ),
    click.option("--profile", is_flag=True, help="Time the operators; into the metadata, or a summary on stderr."),
    click.option("--profiler-device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True),
    click.option("--emit-trace", is_flag=True, help="With --profile: write a Chrome trace."),
    click.option(
        "--trace-dir",
        type=click.Path(path_type=Path),
        metavar="DIR",
        default=Path("./profiles/"),
        help="Where traces go  [default: ./profiles/]",
    ),
)

engine_options = all_of(
    click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True),
    click.option(
        "--dtype",
        type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
        default="auto",
        show_default=True,
        help="What weights are held and computed in.",
    ),
    click.option("--quantization", type=click.Choice(["int8", "int4"]), help="Hold weights in fewer bits."),
    click.option("--threads", type=click.IntRange(min=1), help="CPU threads  [default: one a core]"),
    click.option(
        "--max-model-len",
        type=click.IntRange(min=1),
        metavar="N",
        help="Tokens of prompt and text  [default: the model's]",
    ),
    click.option("--truncate", is_flag=True, help="Cut a prompt that is too long, instead of an error."),
    click.option("--kv-cache-bytes", type=click.IntRange(min=1), metavar="N", help="Memory for keys and values."),
    click.option(
        "--allow-pickle", is_flag=True, help="Take weights in pickle files: tensors are read from them, nothing else."
    ),
    click.option(
        "--attention-impl",
        type=click.Choice(["auto", "flash", "sdpa", "manual"]),
        default="auto",
        show_default=True,
        help="auto: FlashAttention, else SDPA, else manual.",
    ),
    click.option("--flash-attention/--no-flash-attention", default=None, help="Use FlashAttention where it can run."),
    click.option(
        "--memory-pooling/--no-memory-pooling",
        default=True,
        help="Reuse one allocation for intermediate tensors.",
    ),
    click.option(
        "--pool-max-bytes",
        type=click.IntRange(min=1),
        metavar="N",
        help="Most bytes of that pool  [default: unlimited]",
    ),
    click.option(
        "--pool-device", type=click.Choice(["auto", "cpu", "cuda"]), help="Where that pool is  [default: auto]"
    ),
    click.option("--compile/--no-compile", "compile_model", default=False, help="Compile with torch.compile."),
    click.option(
        "--compile-mode",
        type=click.Choice(["default", "reduce-overhead", "max-autotune"]),
        help="Of --compile  [default: default]",
    ),
)
