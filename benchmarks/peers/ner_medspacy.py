"""medSpaCy over a JSONL file of notes, run by the peer's own interpreter.

    PYTHON benchmarks/peers/ner_medspacy.py TEXT.jsonl VOCABULARY.tsv KIND

The vocabulary (TSV: phrase, type, 1 where it counts only in capitals) becomes one TargetRule a phrase; ConText asserts.
KIND is `default`, medSpaCy's own pipeline, or `sentencizer`, in which spaCy's quicker sentence splitter stands in for
PyRuSH. It speaks the protocol of benchmarks/_worker.py and makes JSONL with what it knows; it gives no codes.
"""

from __future__ import annotations

import json
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

# Nothing but answers goes to standard output, whatever the libraries print there.
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

from loguru import logger  # type: ignore[import-not-found]  # noqa: E402

logger.remove()  # PyRuSH logs every token, which would be most of the time
logger.disable("PyRuSH")

import medspacy  # type: ignore[import-not-found]  # noqa: E402
from medspacy.target_matcher import TargetRule  # type: ignore[import-not-found]  # noqa: E402
from spacy.language import Language  # type: ignore[import-not-found]  # noqa: E402


def capitals_only(doc: Any) -> Any:
    """Drops matches of phrases that count only in capitals (a plural s aside), as the other side does."""
    doc.ents = [
        entity
        for entity in doc.ents
        if entity._.target_rule.metadata is None
        or entity.text.isupper()
        or (entity.text.endswith("s") and entity.text[:-1].isupper())
    ]
    return doc


def pipeline(vocabulary: Path, kind: str) -> Language:
    """medSpaCy with a rule for each phrase."""
    if kind == "default":
        nlp = medspacy.load()
    else:
        nlp = medspacy.load(medspacy_enable=["medspacy_tokenizer", "medspacy_target_matcher", "medspacy_context"])
        nlp.add_pipe("sentencizer", first=True)
    Language.component("capitals_only", func=capitals_only)
    nlp.add_pipe("capitals_only", after="medspacy_target_matcher")
    rules = []
    for line in vocabulary.read_text(encoding="utf-8").splitlines():
        phrase, category, cased = line.split("\t")
        rules.append(TargetRule(phrase, category, metadata={"capitals": True} if cased == "1" else None))
    nlp.get_pipe("medspacy_target_matcher").add(rules)
    return nlp


def note_line(nlp: Language, row: dict[str, str]) -> tuple[str, int]:
    """The JSONL line of a note, and its number of entities."""
    entities = [
        {
            "text": entity.text,
            "type": entity.label_,
            "start": entity.start_char,
            "end": entity.end_char,
            "is_negated": entity._.is_negated,
            "is_uncertain": entity._.is_uncertain,
            "is_historical": entity._.is_historical,
            "is_hypothetical": entity._.is_hypothetical,
            "is_family": entity._.is_family,
        }
        for entity in nlp(row["text"]).ents
    ]
    return json.dumps({"id": row["id"], "entities": entities}, ensure_ascii=False), len(entities)


def run_pass(nlp: Language, text: str) -> dict[str, Any]:
    """All notes once: read, process, serialise."""
    wall, cpu = time.perf_counter(), time.process_time()
    with open(text, encoding="utf-8") as stream:
        results = [note_line(nlp, json.loads(line)) for line in stream]
    return {
        "wall_s": time.perf_counter() - wall,
        "cpu_s": time.process_time() - cpu,
        "entities": sum(count for _, count in results),
        "output_bytes": sum(len(line.encode()) + 1 for line, _ in results),
        "errors": [],
        "peak_rss_mib": peak_rss_mib(),
    }


def peak_rss_mib() -> float | None:
    """Peak memory of this process; None where the system doesn't tell."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return round(int(line.split()[1]) / 1024, 1)


def main() -> None:
    """Loads, says so, and answers requests until the input ends."""
    text, vocabulary, kind = sys.argv[1:]
    begin = time.process_time()
    nlp = pipeline(Path(vocabulary), kind)
    ready = {
        "load_cpu_s": round(time.process_time() - begin, 1),
        "versions": {name: version(name) for name in ("medspacy", "spacy", "PyRuSH")},
        "pipeline": nlp.pipe_names,
    }
    print(json.dumps(ready), file=answers, flush=True)
    for _ in sys.stdin:
        print(json.dumps(run_pass(nlp, text)), file=answers, flush=True)


if __name__ == "__main__":
    main()
