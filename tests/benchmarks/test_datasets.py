"""The sample files beside the benchmarks: offsets are right, types are ours, labels are several."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from medvllm.tasks.entities import ENTITY_TYPES
from medvllm.utils.ner_metrics import read_annotated

FOLDER = Path(__file__).parents[2] / "benchmarks" / "datasets"
FIXTURE = Path(__file__).parent / "fixtures" / "ner.jsonl"


@pytest.mark.parametrize("path", [FOLDER / "i2b2_ner_sample.jsonl", FIXTURE], ids=lambda path: path.name)
def test_annotations_are_the_text_they_name(path: Path) -> None:
    texts = read_annotated(path)  # raises where an offset is off
    assert len({text.id for text in texts}) == len({text.text for text in texts}) == len(texts) >= 8
    assert {span[2] for text in texts for span in text.spans} <= set(ENTITY_TYPES)
    assert path.read_text().count('"text": ') == len(texts) + sum(len(text.spans) for text in texts), "all name theirs"


@pytest.mark.parametrize("name", ["pubmed_sample.jsonl", "mimic_notes_sample.jsonl", "urgency_sample.csv"])
def test_rows_are_a_few_dozen_of_several_labels(name: str) -> None:
    import csv
    import json

    with open(FOLDER / name, encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream)) if name.endswith(".csv") else [json.loads(line) for line in stream]
    assert len({row["text"] for row in rows}) == len(rows) >= 24
    counts = Counter(row["label"] for row in rows)
    assert len(counts) >= 2
    assert min(counts.values()) >= 5
