"""Training of the linear NER model's weights with CRFsuite, from hashed features to packed integer weights."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvllm_kernels.crf import KINDS, LABELS, pack_model
from medvllm_kernels.crf_features import Document, PhraseClasses, Profile, topic_key, word_key
from medvllm_kernels.text import PhraseTable, tokenize

from medvllm.errors import MedvllmError
from medvllm.ontology.store import CASED, TERM_ID_MASK
from medvllm.tasks.abbreviations import find_definitions
from medvllm.tasks.entities import ENTITY_TYPES
from medvllm.training.linear_ner_data import Corpus, token_labels

if TYPE_CHECKING:
    import pycrfsuite

__all__ = ["Sequence_", "Settings", "Weights", "make_sequences", "pack_weights", "store_classes", "train"]


_WORD_SEEN = 3
_GENETICS = (
    "gene genes mutation mutations mutant mutants allele alleles locus loci linkage chromosome chromosomal "
    "inherited familial hereditary carrier carriers exon exons intron codon genotype genotypes germline deletion "
    "deletions missense nonsense recessive dominant homozygous heterozygous heterozygosity polymorphism "
    "polymorphisms haplotype pedigree kindred"
)
_WORD_SHARE = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Of the training: c1 and c2 are the weights of the L1 and L2 penalties."""

    c1: float
    c2: float
    iterations: int
    min_frequency: int


@dataclass(frozen=True, slots=True)
class Sequence_:
    """One sequence of tokens: its features as CRFsuite holds them, and the labels of each kind annotated in it."""

    document: int  # its document's number, over all corpora
    items: pycrfsuite.ItemSequence
    labels: Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class Weights:
    """Of one kind: {feature hash: {label: weight}}, and {(from, to): weight}."""

    features: dict[int, dict[str, float]]
    transitions: dict[tuple[str, str], float]


def import_crfsuite() -> Any:
    """The trainer; raises MedvllmError where it is not installed."""
    try:
        import pycrfsuite
    except ImportError as error:
        raise MedvllmError("training needs the package python-crfsuite: pip install python-crfsuite") from error
    return pycrfsuite


def store_classes(folder: Path) -> PhraseClasses:
    """Classes of the phrases of a store that name conditions and symptoms, and of the words of its concepts' names."""
    with contextlib.closing(
        sqlite3.connect((folder / "concepts.sqlite").resolve().as_uri() + "?mode=ro", uri=True)
    ) as database:
        return PhraseClasses.build([*_phrase_classes(folder, database), *_word_classes(database), *_topic_words()])


def _phrase_classes(folder: Path, database: sqlite3.Connection) -> Iterator[tuple[int, int]]:
    names = [name for (name,) in database.execute("SELECT name FROM vocabulary ORDER BY id")]
    ontologies = {names.index("MONDO"), names.index("DOID")}
    own = dict(database.execute("SELECT id, vocabulary FROM concept"))
    known = {concept for concept, vocabulary in own.items() if vocabulary in ontologies}
    query = "SELECT concept FROM code WHERE score = 1000 AND vocabulary IN (?, ?)"
    known.update(concept for (concept,) in database.execute(query, sorted(ontologies)))
    wanted = {1 + ENTITY_TYPES.index("condition"), 1 + ENTITY_TYPES.index("symptom")}
    query = "SELECT s.term, s.concept, c.type FROM sense s JOIN concept c ON c.id = s.concept WHERE s.rank = 0"
    classes = {term: 1 if concept in known else 2 for term, concept, kind in database.execute(query) if kind in wanted}
    for name in ("terms.bin", "lookup.bin"):
        table = PhraseTable.open(folder / name)
        nodes = zip(table._hashes, table._values, strict=True)  # the hash of a phrase's last node is the phrase's
        for value, payload in nodes:
            number = classes.get(payload & TERM_ID_MASK)
            if number is not None:
                yield value, 3 if payload & CASED else number


def _word_classes(database: sqlite3.Connection) -> Iterator[tuple[int, int]]:
    """Of the words of three letters or more that stand in _WORD_SEEN names or more, nearly all of one class."""
    number = {"condition": 1, "symptom": 1, "medication": 2, "chemical": 2}
    counts: dict[int, Counter[int]] = defaultdict(Counter)
    for name, kind in database.execute("SELECT name, type FROM concept WHERE type > 0"):
        tokens = tokenize(name)
        for start, end, value in zip(tokens.starts, tokens.ends, tokens.hashes, strict=True):
            if end - start >= 3:
                counts[value][number.get(ENTITY_TYPES[kind - 1], 3)] += 1
    for value, seen in counts.items():
        best, count = seen.most_common(1)[0]
        if seen.total() >= _WORD_SEEN and count >= _WORD_SHARE * seen.total():
            yield word_key(value), best


def _topic_words() -> Iterator[tuple[int, int]]:
    for value in tokenize(_GENETICS).hashes:
        yield topic_key(value), 1


def make_sequences(corpora: Iterable[Corpus], table: PhraseTable, classes: PhraseClasses) -> list[Sequence_]:
    """The sequences of all documents, with their features."""
    crfsuite = import_crfsuite()
    profiles: dict[str, Profile] = {}
    names: dict[int, str] = {}
    sequences: list[Sequence_] = []
    number = 0
    for corpus in corpora:
        for source in corpus.documents:
            document = Document(source.text, table, profiles, find_definitions(source.text), classes)
            tokens = document.tokens
            labels = {kind: token_labels(tokens.starts, tokens.ends, source.spans, kind) for kind in corpus.kinds}
            for first, last in document.sequences():
                items = [
                    [names.setdefault(value, f"{value:x}") for value in document.features(at, first, last)]
                    for at in range(first, last)
                ]
                own = {kind: row[first:last] for kind, row in labels.items()}
                sequences.append(Sequence_(number, crfsuite.ItemSequence(items), own))
            number += 1
    return sequences


def train(sequences: Iterable[Sequence_], kind: str, settings: Settings) -> Weights:
    """Weights for one kind, from the sequences in which it is annotated. Deterministic."""
    crfsuite = import_crfsuite()
    trainer = crfsuite.Trainer(algorithm="lbfgs", verbose=False)
    for sequence in sequences:
        if kind in sequence.labels:
            trainer.append(sequence.items, sequence.labels[kind])
    trainer.set_params(
        {
            "c1": settings.c1,
            "c2": settings.c2,
            "max_iterations": settings.iterations,
            "feature.minfreq": settings.min_frequency,
        }
    )
    handle, path = tempfile.mkstemp(suffix=".crfsuite")
    os.close(handle)
    try:
        trainer.train(path)
        tagger = crfsuite.Tagger()
        tagger.open(path)
        info = tagger.info()
        tagger.close()
    finally:
        os.unlink(path)
    features: dict[int, dict[str, float]] = {}
    for (name, label), weight in info.state_features.items():
        features.setdefault(int(name, 16), {})[label] = weight
    return Weights(features, dict(info.transitions))


def pack_weights(
    weights: Mapping[str, Weights], classes: PhraseClasses, extra: Mapping[str, Any], *, min_weight: float
) -> bytes:
    """The model file of the weights of KINDS, without those smaller than `min_weight`."""
    size = len(LABELS)
    features: dict[int, dict[int, float]] = {}
    transitions = []
    for index, kind in enumerate(KINDS):
        for value, row in weights[kind].features.items():
            for label, weight in row.items():
                if abs(weight) >= min_weight:
                    features.setdefault(value, {})[index * size + LABELS.index(label)] = weight
        steps = weights[kind].transitions
        transitions.append([[steps.get((a, b), 0.0) for b in LABELS] for a in LABELS])
    return pack_model(features, transitions, classes, extra)
