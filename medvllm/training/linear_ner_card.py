"""The card that goes with the linear NER model, and its reliability diagram."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

from medvllm.errors import MedvllmError
from medvllm.ontology.store import OntologyStore
from medvllm.training.linear_ner_data import Corpus, Scores
from medvllm.training.linear_ner_train import Settings

__all__ = ["card", "plot"]

_CARD = """\
# linear_ner.bin

A linear-chain model (CRF) over hashed features that marks diseases and chemicals in English biomedical text,
with integer weights; {size:,} bytes. It is one part of `medvllm.tasks.detection`: the ontology store, the
lexicon of findings and the document's own abbreviations are others. The file also holds the calibration of
confidences and a list of {dropped} store phrases that the train documents show to be something else.

Made by

    python -m medvllm.training.linear_ner --corpora DIR --output medvllm/tasks/data

from these files (documents; SHA-256):

{files}

and from the phrases of the built-in ontology store (content {store}) as features. The store holds no phrase
learned from the corpora. Weights, calibration and the list come from the two train files alone; the calibration
from two models, each trained on one half of the documents and applied to the other. Settings: {settings}.

## Scores of the whole detector, exact span and type

{scores}

Expected calibration error on the development files, ten bins: {error}. The development files were used to
choose among features and settings, so scores on them are a little optimistic.

## Licence of the data

BC5CDR (BioCreative V chemical-disease relation corpus; Li et al., Database 2016, baw068): Public Domain Mark.
NCBI disease corpus (Doğan, Leaman, Lu, Journal of Biomedical Informatics 2014): US Government work, public
domain. The abstracts are from PubMed. The file holds weights of hashed features, no text of the corpora but the
list of phrases.

## For and not for

For finding mentions of diseases, symptoms, medications and chemicals for search, coding suggestions and
research. Trained on abstracts: on clinical notes the store and the lexicon of findings carry much of the work,
and the confidences, being estimated on abstracts, are only a guide. Not for decisions about a patient without a
person who checks them, nor as a de-identification tool. English only.
"""


def card(
    corpora: Sequence[Corpus],
    store: OntologyStore,
    scores: Mapping[str, Mapping[str, Scores]],
    error: float | None,
    size: int,
    dropped: int,
    settings: Mapping[str, Settings],
) -> str:
    """The card as Markdown."""
    files = "\n".join(f"- {corpus.name}: {len(corpus.documents)}; {corpus.sha256}" for corpus in corpora)
    rows = ["| file | kind | precision | recall | F1 | mentions |", "| --- | --- | --- | --- | --- | --- |"]
    for name, kinds in scores.items():
        rows += [
            f"| {name} | {kind} | {s.precision:.4f} | {s.recall:.4f} | {s.f1:.4f} | {s.gold} |"
            for kind, s in kinds.items()
        ]
    used = "; ".join(
        f"{kind} c1 {s.c1}, c2 {s.c2}, {s.iterations} iterations, features seen {s.min_frequency} times or more"
        for kind, s in settings.items()
    )
    content = store.info()[0].get("content_sha256", "unknown")
    return _CARD.format(
        size=size, dropped=dropped, files=files, store=content, settings=used, scores="\n".join(rows), error=error
    )


def plot(bins: Sequence[Mapping[str, float]]) -> bytes:
    """The reliability diagram as PNG. Raises MedvllmError where matplotlib is not installed."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MedvllmError("the diagram needs matplotlib: pip install matplotlib, or leave out --plot") from error
    figure = Figure(figsize=(4.2, 4.2), dpi=100)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    largest = max((entry["mentions"] for entry in bins), default=1)
    axes.scatter(
        [entry["confidence"] for entry in bins],
        [entry["right"] for entry in bins],
        s=[10 + 150 * entry["mentions"] / largest for entry in bins],
        color="#20639b",
    )
    axes.set(xlabel="confidence", ylabel="share of mentions that are right", xlim=(0, 1), ylim=(0, 1))
    figure.tight_layout()
    target = io.BytesIO()
    figure.savefig(target, format="png", metadata={"Software": None})
    return target.getvalue()
