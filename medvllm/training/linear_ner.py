"""Recipe: train the linear NER model that medvllm.tasks.detection uses.

    python -m medvllm.training.linear_ner --corpora DIR --output DIR

DIR holds the files of linear_ner_data.CORPORA. Written are linear_ner.bin (weights, calibration and lists in one file),
linear_ner.md (its card) and linear_ner_reliability.json, and with --plot a reliability diagram (needs matplotlib). The
features use phrases of the built-in ontology store, which knows nothing of the corpora. The same inputs give the same
bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medvllm_kernels.crf import KINDS, LinearModel

from medvllm.errors import MedvllmError
from medvllm.ontology.store import BUILTIN_PATH, OntologyStore
from medvllm.tasks.detection import MODEL_FILE, Detector, Mention
from medvllm.training.linear_ner_card import card, plot
from medvllm.training.linear_ner_data import CORPORA, Corpus, Scores, read_corpus, strict_scores
from medvllm.training.linear_ner_rules import CALIBRATED_TYPES, HeldOut, calibration_error, learn_rules, reliability
from medvllm.training.linear_ner_train import Settings, make_sequences, pack_weights, store_classes, train

__all__ = ["main", "score", "train_model"]

SETTINGS = {
    "chemical": Settings(c1=0.05, c2=0.1, iterations=80, min_frequency=2),
    "disease": Settings(c1=0.1, c2=0.3, iterations=100, min_frequency=1),
}
HELD_OUT_ITERATIONS = 50
MIN_WEIGHT = 0.005
FOLDS = 2


def train_model(folder: Path, corpora: Sequence[Corpus]) -> bytes:
    """The model file for these train corpora, with the phrases of the store in `folder`."""
    store = OntologyStore.open(folder)
    classes = store_classes(folder)
    _log("features")
    sequences = make_sequences(corpora, store.table, classes)
    documents = [(document, corpus.kinds) for corpus in corpora for document in corpus.documents]
    held_out = []
    for fold in range(FOLDS):
        _log(f"model without documents {fold + 1} of {FOLDS}")
        rest = [sequence for sequence in sequences if sequence.document % FOLDS != fold]
        weights = {kind: train(rest, kind, _shorter(SETTINGS[kind])) for kind in KINDS}
        model = LinearModel.from_bytes(pack_weights(weights, classes, {}, min_weight=MIN_WEIGHT))
        held_out.append(HeldOut([doc for number, doc in enumerate(documents) if number % FOLDS == fold], model))
    _log("rules")
    rules = learn_rules(store, held_out)
    _log("model of all documents")
    weights = {kind: train(sequences, kind, SETTINGS[kind]) for kind in KINDS}
    return pack_weights(weights, classes, rules, min_weight=MIN_WEIGHT)


def _shorter(settings: Settings) -> Settings:
    return Settings(
        c1=settings.c1,
        c2=settings.c2,
        iterations=min(settings.iterations, HELD_OUT_ITERATIONS),
        min_frequency=settings.min_frequency,
    )


def score(detector: Detector, corpus: Corpus) -> tuple[dict[str, Scores], list[tuple[Mention, bool]]]:
    """Strict scores on a corpus, and each mention of a kind annotated there with whether it is right."""
    found = []
    judged = []
    for document in corpus.documents:
        spans = set()
        for mention in detector.detect(document.text):
            kind = CALIBRATED_TYPES.get(mention.type)
            if kind in corpus.kinds:
                span = (mention.start, mention.end, kind)
                spans.add(span)
                judged.append((mention, span in document.spans))
        found.append(frozenset(spans))
    return strict_scores((document.spans for document in corpus.documents), found), judged


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m medvllm.training.linear_ner", description="Train the linear NER model."
    )
    parser.add_argument("--corpora", type=Path, required=True, metavar="DIR", help=f"folder with {', '.join(CORPORA)}")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder to write, made if need be")
    parser.add_argument(
        "--store", type=Path, default=BUILTIN_PATH, metavar="DIR", help="ontology store (default: built-in)"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write the reliability diagram as PNG")
    options = parser.parse_args(argv)
    try:
        _run(options.corpora, options.output, options.store, options.plot)
    except MedvllmError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _run(folder: Path, output: Path, phrases: Path, picture: Path | None) -> None:
    started = time.monotonic()
    corpora = [read_corpus(folder, name) for name in CORPORA]
    store = OntologyStore.open(phrases)
    data = train_model(phrases, [corpus for corpus in corpora if "_train" in corpus.name])
    seconds = time.monotonic() - started
    model = LinearModel.from_bytes(data)
    detector = Detector(store, model=model)
    scores: dict[str, dict[str, Scores]] = {}
    judged: list[tuple[Mention, bool]] = []
    for corpus in corpora:
        if "_dev" in corpus.name:
            scores[corpus.name], own = score(detector, corpus)
            judged += own
            _log(
                f"{corpus.name}: "
                + ", ".join(f"{kind} F1 {entry.f1:.4f}" for kind, entry in scores[corpus.name].items())
            )
    bins = reliability(judged)
    error = calibration_error(bins)
    _log(f"expected calibration error {error}, {len(data):,} bytes, {seconds:.0f} s")
    output.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {"expected_calibration_error": error, "bins": bins}
    _write(output / "linear_ner_reliability.json", (json.dumps(report, indent=1) + "\n").encode())
    _write(
        output / "linear_ner.md",
        card(corpora, store, scores, error, len(data), len(model.extra()["dropped"]), SETTINGS).encode(),
    )
    _write(output / MODEL_FILE, data)
    if picture is not None:
        _write(picture, plot(bins))


def _write(path: Path, data: bytes) -> None:
    """Replace a file as a whole."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.chmod(file.name, 0o644)
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def _log(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
