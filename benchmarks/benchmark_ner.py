"""Speed and memory of processor-only clinical NER in one process, and of medSpaCy with the same vocabulary beside it.

    python benchmarks/benchmark_ner.py [--text NOTES.jsonl] [--megabytes 2] [--pairs 5]
                                       [--peer medspacy=/path/to/python] [--output FILE]

Each configuration loads once in a process of its own (so its peak memory is its own), does one pass that is not
counted but reported as `first_pass`, and then a pass in every round, in turn with the others. Times are per megabyte
(10^6 bytes of UTF-8 text) of reading, processing and making JSONL. Without --text the notes are made up: see
_synthetic_notes.py. A peer's interpreter is made by `python tools/peers/make.py medspacy FOLDER`.

Goals: everything on at least 1 MB/s, --fast at least 4 MB/s.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import _repo_path  # noqa: F401
import _report
import _synthetic_notes
import _vocabulary
import _worker
from absl import app, flags

from medvllm.errors import MedvllmError
from medvllm.ontology.store import OntologyStore

FLAGS = flags.FLAGS
flags.DEFINE_string("text", None, 'JSONL of {"id", "text"} to use instead of made-up notes.')
flags.DEFINE_float("megabytes", 2.0, "Text, in 10^6 bytes, for the configurations with native code.", lower_bound=1e-4)
flags.DEFINE_float("small_megabytes", 0.1, "Text for those without, and for comparisons.", lower_bound=1e-4)
flags.DEFINE_integer("pairs", 5, "Counted rounds; a comparison needs 5.", lower_bound=1)
flags.DEFINE_bool("stages", False, "Also report how long each stage takes.")
flags.DEFINE_multi_string("peer", [], "medspacy=/path/to/python, an interpreter that has medSpaCy.")
flags.DEFINE_string("vocabulary", None, "TSV with the store's phrases for peers; made there when it doesn't exist.")
flags.DEFINE_string("wheels", None, "Folder with the vocabulary wheels to make it from, instead of downloading them.")
flags.DEFINE_string("output", None, "Also write the JSON to this file.")

HERE = Path(__file__).resolve().parent
GOALS_MB_PER_S = {"full": 1.0, "fast": 4.0}
PEERS = {
    "medspacy": {
        "medspacy": "default",
        "medspacy, spaCy's sentencizer": "sentencizer",
    }
}
TIE = 0.05  # within 5 % is a tie


class Text(NamedTuple):
    """A file of notes and what it holds."""

    path: str
    notes: int
    megabytes: float


def given_notes(path: str) -> Iterator[tuple[str, str]]:
    """(id, text) of each line of a JSONL file; raises MedvllmError naming a line that is something else."""
    try:
        with open(path, encoding="utf-8") as stream:
            for number, line in enumerate(stream, 1):
                row = json.loads(line)
                if not isinstance(row, dict) or not isinstance(row.get("text"), str):
                    raise ValueError("not an object with a text")
                yield str(row.get("id", number)), row["text"]
    except OSError as error:
        raise MedvllmError(f"--text {path}: {error.strerror}") from error
    except ValueError as error:
        raise MedvllmError(f'--text {path}:{number}: expected a line of {{"id", "text"}} ({error})') from error


def write_text(notes: Iterable[tuple[str, str]], megabytes: float, path: Path) -> Text:
    """Writes as many notes as make up `megabytes`, or all there are."""
    size = count = 0
    with open(path, "w", encoding="utf-8") as stream:
        for identifier, text in notes:
            stream.write(json.dumps({"id": identifier, "text": text}) + "\n")
            size += len(text.encode("utf-8", "replace"))
            count += 1
            if size >= megabytes * 1e6:
                break
    if not size:
        raise MedvllmError(f"--text {FLAGS.text} holds no text")
    return Text(str(path), count, size / 1e6)


def our_worker(name: str, text: Text) -> _worker.Worker:
    """`full` or `fast`, with ` without native code` after it or not."""
    mode, _, rest = name.partition(" ")
    environment = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    environment["MEDVLLM_DISABLE_NATIVE"] = "1" if rest else ""
    command = [sys.executable, str(HERE / "_ner_worker.py"), text.path, mode]
    return _worker.Worker(name, command, environment=environment)


def rounds(workers: Sequence[_worker.Worker], pairs: int) -> dict[str, list[dict[str, Any]]]:
    """The passes of each worker, the first of which is not to be counted; every other round goes backwards."""
    passes: dict[str, list[dict[str, Any]]] = {worker.name: [] for worker in workers}
    for number in range(pairs + 1):
        for worker in workers if number % 2 else reversed(workers):
            answer = worker.ask()
            if answer["errors"]:
                raise MedvllmError(f"{worker.name}: {answer['errors'][0]}")
            passes[worker.name].append(answer)
    return passes


def figures(worker: _worker.Worker, passes: Sequence[dict[str, Any]], text: Text) -> dict[str, Any]:
    """The report of one configuration; rates are those of the median pass."""
    first, *counted = passes
    per_megabyte = {
        clock: _report.summary([answer[f"{clock}_s"] / text.megabytes for answer in counted])
        for clock in ("wall", "cpu")
    }
    return {
        **worker.ready,
        "text_mb": round(text.megabytes, 6),
        "notes": text.notes,
        "entities": counted[-1]["entities"],
        "mb_per_s": rate(per_megabyte["wall"]["median"]),
        "mb_per_s_of_cpu": rate(per_megabyte["cpu"]["median"]),
        "first_pass_mb_per_s_of_cpu": rate(first["cpu_s"] / text.megabytes),
        "entities_per_s": round(counted[-1]["entities"] / text.megabytes / per_megabyte["wall"]["median"]),
        "wall_s_per_mb": per_megabyte["wall"],
        "cpu_s_per_mb": per_megabyte["cpu"],
        "peak_rss_mib": counted[-1]["peak_rss_mib"],
    }


def rate(seconds: float) -> float:
    """Megabytes a second, to three places that count."""
    return float(f"{1 / seconds:.3g}")


def measure(names: Sequence[str], text: Text) -> dict[str, Any]:
    """Our own configurations on a text, in turn."""
    with ExitStack() as stack:
        workers = [stack.enter_context(our_worker(name, text)) for name in names]
        passes = rounds(workers, FLAGS.pairs)
        report = {worker.name: figures(worker, passes[worker.name], text) for worker in workers}
        for worker in workers:
            if worker.name in GOALS_MB_PER_S:
                report[worker.name]["goal_mb_per_s"] = GOALS_MB_PER_S[worker.name]
                if FLAGS.stages:
                    report[worker.name]["stages_cpu_ms_per_mb"] = {
                        stage: round(1000 * seconds / text.megabytes, 1)
                        for stage, seconds in worker.ask("stages").items()
                    }
    return report


def vocabulary_in(folder: Path) -> tuple[Path, int]:
    """The file of the store's phrases, made where there is none, and how many it holds."""
    path = Path(FLAGS.vocabulary) if FLAGS.vocabulary else folder / "vocabulary.tsv"
    if not path.exists():
        print("collecting the vocabulary for the peer (a minute)", file=sys.stderr)
        _vocabulary.export(path, wheels=Path(FLAGS.wheels) if FLAGS.wheels else None)
    return path, _vocabulary.check(path, OntologyStore.open())


def compare(peer: str, python: str, text: Text, vocabulary: Path, phrases: int) -> dict[str, Any]:
    """Ours and a peer's configurations on one text with one vocabulary, a pass each in every round."""
    with ExitStack() as stack:
        ours = [stack.enter_context(our_worker(name, text)) for name in ("full", "fast")]
        theirs = []
        for name, kind in PEERS[peer].items():
            print(f"loading {phrases:,} phrases into {name} (minutes)", file=sys.stderr)
            command = [python, str(HERE / "peers" / f"ner_{peer}.py"), text.path, str(vocabulary), kind]
            theirs.append(stack.enter_context(_worker.Worker(name, command)))
        passes = rounds([*ours, *theirs], FLAGS.pairs)
        return {
            "phrases": phrases,
            "configurations": {worker.name: figures(worker, passes[worker.name], text) for worker in (*ours, *theirs)},
            "ratios": [ratios(us, them, passes) for us in ours for them in theirs],
        }


def ratios(us: _worker.Worker, them: _worker.Worker, passes: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """How many times as long the peer takes as we do, pair by pair."""
    pairs = list(zip(passes[us.name][1:], passes[them.name][1:], strict=True))
    by_clock = {
        clock: _report.summary([theirs[f"{clock}_s"] / ours[f"{clock}_s"] for ours, theirs in pairs])
        for clock in ("wall", "cpu")
    }
    median = by_clock["cpu"]["median"]
    verdict = "tie" if abs(median - 1) <= TIE else "faster" if median > 1 else "slower"
    return {
        "of": us.name,
        "to": them.name,
        "times_as_fast_wall": by_clock["wall"],
        "times_as_fast_cpu": by_clock["cpu"],
        "verdict": verdict if len(pairs) >= 5 else f"none: {len(pairs)} pairs, 5 needed",
    }


def peers() -> dict[str, str]:
    """--peer as name -> interpreter; raises MedvllmError for one that is unknown or can't import its library."""
    given = {}
    for value in FLAGS.peer:
        name, equals, python = value.partition("=")
        if not equals or name not in PEERS:
            raise MedvllmError(f"--peer {value}: expected NAME=/path/to/python with NAME one of {', '.join(PEERS)}")
        try:
            found = subprocess.run([python, "-c", f"import {name}"], capture_output=True, text=True)
        except OSError as error:
            raise MedvllmError(f"--peer {value}: {error.strerror}") from error
        if found.returncode:
            reason = found.stderr.strip().splitlines()[-1:] or ["it failed"]
            raise MedvllmError(f"--peer {value}: {reason[0]}; make one with python tools/peers/make.py {name} FOLDER")
        given[name] = python
    return given


def run() -> dict[str, Any]:
    """The whole report."""
    given = peers()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        vocabulary = vocabulary_in(folder) if given else None
        texts: list[Text] = []
        for size in (FLAGS.megabytes, min(FLAGS.small_megabytes, FLAGS.megabytes)):
            notes = given_notes(FLAGS.text) if FLAGS.text else _synthetic_notes.notes(size)
            texts.append(write_text(notes, size, folder / f"text-{len(texts)}.jsonl"))
        text, small = texts
        report: dict[str, Any] = {
            "benchmark": "ner",
            "machine": {**_report.machine(), "load_1min": round(os.getloadavg()[0], 2)},
            "text": Path(FLAGS.text).name if FLAGS.text else "made-up notes, seed 0",
            "pairs": FLAGS.pairs,
            "configurations": measure(["full", "fast"], text),
        }
        own = ["full without native code", "fast without native code"]
        report["configurations"] |= measure(own, small)
        for peer in PEERS:
            if vocabulary is not None and peer in given:
                report[peer] = compare(peer, given[peer], small, *vocabulary)
            else:
                report[peer] = f"skipped: no --peer {peer}=/path/to/python"
        report["machine"]["load_1min_after"] = round(os.getloadavg()[0], 2)
        return report


def main(_argv: list[str]) -> None:
    """Entry point: an error of the user's is one line."""
    try:
        report = run()
    except MedvllmError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    _report.write(report, FLAGS.output)


def parse(argv: list[str]) -> list[str]:
    """The flags; a bad one ends the program with one line."""
    try:
        rest = FLAGS(argv)
    except flags.Error as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    if rest[1:]:
        print(f"error: unexpected argument {rest[1]}; all options start with --", file=sys.stderr)
        sys.exit(2)
    return rest


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
