"""Scores of text classification: read rows, predict the majority where a row has no prediction, score.

A row is {"text", "label"}; in JSONL it may also hold "prediction", a label, and "scores", {label: probability}. Rows
with predictions are scored as they are, with scores also by AUC. Rows without get the majority baseline: the most
frequent label for all, with 1 for it and 0 for the others as degenerate scores, so its macro AUC is 0.5.
"""

from __future__ import annotations

import csv
import importlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medvllm.errors import MedvllmError

__all__ = ["evaluate", "read_csv", "read_hub", "read_jsonl"]

Row = dict[str, Any]


def read_csv(path: Path) -> list[Row]:
    """Rows of a CSV file with the columns text and label; raises MedvllmError where it has not."""
    try:
        with open(path, encoding="utf-8", newline="") as stream:
            reader = csv.DictReader(stream)
            if not {"text", "label"} <= set(reader.fieldnames or ()):
                raise MedvllmError(f"{path}: expected columns text and label, got {reader.fieldnames}")
            rows: list[Row] = [{"text": row["text"], "label": row["label"]} for row in reader]
    except (OSError, UnicodeDecodeError) as error:
        raise MedvllmError(f"{path}: {error}") from error
    return _checked(rows, str(path))


def read_jsonl(path: Path) -> list[Row]:
    """Rows of a JSONL file; raises MedvllmError naming a line that is none."""
    rows, number = [], 0
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            number += 1
            if line.strip():
                row = json.loads(line)
                if not isinstance(row, dict) or not isinstance(row.get("text"), str) or "label" not in row:
                    raise ValueError("not an object with text and label")
                rows.append(row | {"label": str(row["label"])})
    except (OSError, UnicodeDecodeError) as error:
        raise MedvllmError(f"{path}: {error}") from error
    except ValueError as error:
        raise MedvllmError(f'{path}:{number}: expected a line of {{"text", "label"}} ({error})') from error
    return _checked(rows, str(path))


def read_hub(name: str, *, config: str | None, split: str, rows: int, text: str, label: str) -> list[Row]:
    """The first rows of a data set of the hub, by the `datasets` package.

    Raises:
        MedvllmError: the package is missing, the hub can't be reached and no copy is here, or a field is missing.
    """
    try:
        load_dataset = importlib.import_module("datasets").load_dataset
    except (ImportError, AttributeError) as error:  # without the package, the folder of our samples has its name
        raise MedvllmError("--hub-dataset needs the package datasets; install it: pip install datasets") from error
    try:
        slice_ = load_dataset(name, config, split=f"{split}[:{rows}]")
    except Exception as error:  # the hub's clients raise what they like; the user gets one line
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise MedvllmError(f"--hub-dataset {name} can't be loaded: {reason}; or give files by --jsonl") from error
    missing = {text, label} - set(slice_.column_names)
    if missing:
        raise MedvllmError(
            f"--hub-dataset {name} has no field {missing.pop()}; it has {', '.join(slice_.column_names)}"
        )
    return _checked([{"text": str(row[text]), "label": str(row[label])} for row in slice_], name)


def _checked(rows: list[Row], name: str) -> list[Row]:
    if not rows:
        raise MedvllmError(f"{name}: expected rows of text and label, got none")
    given = sum("prediction" in row for row in rows)
    if given not in (0, len(rows)):
        raise MedvllmError(f"{name}: {given} of {len(rows)} rows have a prediction; give all or none")
    return rows


def majority(labels: Sequence[str]) -> str:
    """The most frequent label; of several the first in the alphabet."""
    counts = Counter(labels)
    return min(counts, key=lambda label: (-counts[label], label))


def evaluate(rows: Sequence[Row]) -> dict[str, Any]:
    """Accuracy, precision, recall, F1 and OVR AUC of the rows' predictions, or of the majority baseline."""
    truth = [row["label"] for row in rows]
    baseline = "prediction" not in rows[0]
    if baseline:
        most = majority(truth)
        predicted: list[str] = [most] * len(rows)
        scores: list[dict[str, float]] | None = [{most: 1.0}] * len(rows)
    else:
        predicted = [str(row["prediction"]) for row in rows]
        scores = [row["scores"] for row in rows] if all("scores" in row for row in rows) else None
    labels = sorted({*truth, *predicted})
    return {
        "classifier": f"majority ({predicted[0]})" if baseline else "predictions of the file",
        "rows": len(rows),
        "labels": {label: truth.count(label) for label in labels},
        **_scores(truth, predicted, labels),
        "auc": None if scores is None else {"degenerate": baseline, **_auc(truth, scores)},
    }


def _scores(truth: list[str], predicted: list[str], labels: list[str]) -> dict[str, Any]:
    from sklearn.metrics import accuracy_score, precision_recall_fscore_support

    result: dict[str, Any] = {"accuracy": float(accuracy_score(truth, predicted))}
    for average in ("macro", "micro"):
        precision, recall, f1, _ = precision_recall_fscore_support(
            truth, predicted, labels=labels, average=average, zero_division=0
        )
        result[average] = {"precision": float(precision), "recall": float(recall), "f1": float(f1)}
    return result


def _auc(truth: list[str], scores: Sequence[dict[str, float]]) -> dict[str, float | None]:
    """One label against the rest, averaged over labels and over all decisions; None with fewer than two labels."""
    import numpy
    from sklearn.metrics import roc_auc_score

    labels = sorted(set(truth))
    if len(labels) < 2:
        return {"macro_ovr": None, "micro_ovr": None}
    wanted = numpy.array([[label == each for each in labels] for label in truth], dtype=int)
    given = numpy.array([[float(row.get(label, 0.0)) for label in labels] for row in scores])
    return {
        f"{average}_ovr": float(roc_auc_score(wanted, given, average=average, multi_class="ovr"))
        for average in ("macro", "micro")
    }
