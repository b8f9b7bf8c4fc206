"""`inference ner --model` and `inference classification`, as a user types them."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parent.parent.parent.parent / "docs" / "CLI.md"
NOTE = "Patient with Hypertension denies chest pain; on metformin 500 mg."
NER = ("inference", "ner")
CLASSIFY = ("inference", "classification")


def _entities(out: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(out)["entities"]
    return found


def test_entities_of_a_model_are_in_the_schema(run: Any, ner_model: Path) -> None:
    done = run(*NER, "--text", NOTE, "--model", str(ner_model), "--json-out")
    assert done.code == 0, done.err
    assert f"Warning: Model '{ner_model}' is not registered; skipping task validation" in done.err
    assert "labels without a type here are left out: Dosage; --label-map FILE.json gives them one" in done.err
    found = _entities(done.out)
    assert found
    for one in found:
        assert NOTE[one["start"] : one["end"]] == one["text"]
        assert one["type"] in ("condition", "symptom", "medication", "chemical")
        assert 0 < one["confidence"] <= 1
        assert {"ontology_links", "negation", "temporality", "experiencer"} <= one.keys()
    unlinked = _entities(run(*NER, "--text", NOTE, "--model", str(ner_model), "--no-link", "--json-out").out)
    assert [one["start"] for one in unlinked] == [one["start"] for one in found]
    assert not any("ontology_links" in one for one in unlinked)


def test_the_registry_says_what_a_model_can_do(run: Any, ner_model: Path, classifier: Path) -> None:
    run("model", "register", "my-ner", str(ner_model))  # what it does is in its config.json
    run("model", "register", "my-classifier", str(classifier), "--type", "sequence-classification")
    done = run(*NER, "--text", NOTE, "--model", "my-classifier")
    assert (done.code, done.err) == (1, "Error: Model 'my-classifier' does not support task 'ner'\n")
    done = run(*CLASSIFY, "--text", NOTE, "--model", "my-ner")
    assert (done.code, done.err) == (1, "Error: Model 'my-ner' does not support task 'classification'\n")
    done = run(*NER, "--text", NOTE, "--model", "my-ner", "--json-out")
    assert done.code == 0
    assert "not registered" not in done.err
    assert json.loads(run("model", "list-capabilities", "--json").out)["my-ner"] == {"tasks": ["ner"]}


def test_a_registered_model_whose_files_do_another_task(run: Any, classifier: Path) -> None:
    run("model", "register", "wrong", str(classifier), "--type", "token-classification")
    done = run(*NER, "--text", NOTE, "--model", "wrong")
    assert done.code == 1
    assert "Error: model 'wrong' has no head for ner" in done.err
    assert "DistilBertForSequenceClassification" in done.err


def test_own_labels(run: Any, ner_model: Path) -> None:
    (run.work / "map.json").write_text('{"Dosage": "lab_value", "Disease": "procedure", "Drug": null}')
    done = run(*NER, "--text", NOTE, "--model", str(ner_model), "--label-map", "map.json", "--json-out")
    assert "left out" not in done.err
    assert {one["type"] for one in _entities(done.out)} <= {"lab_value", "procedure"}
    (run.work / "map.json").write_text('{"Disase": "condition"}')
    done = run(*NER, "--text", NOTE, "--model", str(ner_model), "--label-map", "map.json")
    assert done.code == 1
    assert "the label map names 'Disase', but the labels of" in done.err
    assert run(*NER, "--text", NOTE, "--model", str(ner_model), "--label-map", "no.json").code == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--ensemble",), "--ensemble is for model-backed NER; give --model too"),
        (("--dtype", "int8"), "--dtype is for model-backed NER; give --model too"),
        (("--model", "x", "--fast"), "--fast and --nested are of the processor-only mode"),
        (("--model", "x", "--dtype", "int4"), "'int4' is not one of"),
    ],
)
def test_options_that_do_not_go_together(run: Any, arguments: tuple[str, ...], message: str) -> None:
    done = run(*NER, "--text", NOTE, *arguments)
    assert done.code == 2
    assert message in done.err


def test_many_notes_are_each_as_one_alone(run: Any, ner_model: Path) -> None:
    notes = [NOTE, "fever", "No stroke. " * 40, NOTE * 3]
    rows = "".join(json.dumps({"id": str(at), "text": text}) + "\n" for at, text in enumerate(notes))
    (run.work / "notes.jsonl").write_text(rows + "{broken\n")
    model = ("--model", str(ner_model))
    done = run(*NER, "--input", "notes.jsonl", *model, "--output", "found.jsonl")
    assert done.code == 1
    assert "1 of 5 notes could not be read" in done.err
    lines = [json.loads(line) for line in (run.work / "found.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines[:4]] == ["0", "1", "2", "3"]
    assert "error" in lines[4]
    for line, text in zip(lines, notes, strict=False):
        assert line["entities"] == _entities(run(*NER, "--text", text, *model, "--json-out").out)
    (run.work / "notes").mkdir()
    for at, text in enumerate(notes):
        (run.work / "notes" / f"{at}.txt").write_text(text)
    folder = [json.loads(line) for line in run(*NER, "--input", "notes", *model).out.splitlines()]
    assert [line["entities"] for line in folder] == [line["entities"] for line in lines[:4]]


def test_an_ensemble_finds_more_than_a_model_of_chance(run: Any, ner_model: Path) -> None:
    done = run(*NER, "--text", NOTE, "--model", str(ner_model), "--ensemble", "--json-out")
    found = {(one["text"], one["type"]) for one in _entities(done.out)}
    assert found >= {("Hypertension", "condition"), ("metformin", "medication")}


def test_classification(run: Any, classifier: Path) -> None:
    text = "The medication worked well."
    model = ("--model", str(classifier))
    done = run(*CLASSIFY, "--text", text, *model, "--json-out")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found.keys() == {"label", "score"}
    assert found["label"] in ("NEGATIVE", "POSITIVE")
    assert run(*CLASSIFY, "--text", text, *model).out == f"{found['label']}  {found['score']:.4f}\n"
    every = json.loads(run(*CLASSIFY, *model, "--json-out", "--all-scores", input=text).out)
    assert {key: every[key] for key in found} == found
    assert [one["label"] for one in every["scores"]] == sorted(
        ["NEGATIVE", "POSITIVE"], key=lambda x: x != found["label"]
    )
    assert sum(one["score"] for one in every["scores"]) == pytest.approx(1, abs=1e-3)
    (run.work / "note.txt").write_text(text)
    done = run(*CLASSIFY, "--input", "note.txt", *model, "--top-k", "1", "--output", "out.json")
    assert (done.code, done.out) == (0, "")
    assert json.loads((run.work / "out.json").read_text()) == {**found, "scores": [found]}
    for dtype in ("bfloat16", "int8"):
        other = json.loads(run(*CLASSIFY, "--text", text, *model, "--json-out", "--dtype", dtype).out)
        assert other["label"] == found["label"]
        assert other["score"] == pytest.approx(found["score"], abs=0.05)
    assert run(*CLASSIFY, "--text", text, *model, "--top-k", "1", "--all-scores").code == 2
    assert run(*CLASSIFY, "--text", " ", *model).code == 1


def test_what_is_missing_is_said(run: Any, monkeypatch: pytest.MonkeyPatch, ner_model: Path) -> None:
    done = run(*NER, "--text", NOTE, "--model", "art://nothing:1")
    assert done.code == 1
    assert "art://nothing:1" in done.err
    installed = importlib.util.find_spec

    def without(name: str, package: str | None = None) -> Any:
        return None if name == "transformers" else installed(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    done = run(*CLASSIFY, "--text", NOTE)
    assert (done.code, done.out) == (1, "")
    assert "classification needs transformers, which is not installed; pip install 'medvllm[torch]'" in done.err
    done = run(*NER, "--text", NOTE, "--model", str(ner_model))
    assert "model-backed NER needs transformers, which is not installed" in done.err


def _documented() -> list[list[str]]:
    """The words of the page's commands about encoder models."""
    blocks = re.findall(r"^```zsh\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    text = "".join(blocks).replace("\\\n", " ")
    return [shlex.split(line) for line in text.splitlines() if line and not line.startswith("#")]


def test_every_documented_command(run: Any, ner_model: Path, classifier: Path) -> None:
    """With a hub's name each says which files were looked for; with a local model in its place it runs."""
    (run.work / "note.txt").write_text(NOTE)
    (run.work / "notes.jsonl").write_text(json.dumps({"id": "a", "text": NOTE}) + "\n")
    commands = _documented()
    assert len(commands) == 7
    hub = 0
    for words in commands:
        piped = ""
        if "|" in words:
            piped, words = NOTE, words[words.index("|") + 1 :]
        assert words[:3] == ["python", "-m", "medvllm.cli"]
        local = [str(ner_model) if word in ("biobert-base-cased-v1.2", "./runs/ner") else word for word in words[3:]]
        if "classification" in words:
            local = [word for word in local if not word.startswith("distilbert-base-uncased")]
            local = [*[word for word in local if word != "--model"], "--model", str(classifier)]
        if "my-ner" not in words:
            hub += 1
            done = run(*words[3:], input=piped)
            assert done.code == 1
            assert (
                "looked for a folder of that name, and for config.json, model.safetensors, tokenizer.json" in done.err
            )
            assert "hf download" in done.err
            assert "not registered" not in done.err
        done = run(*local, input=piped)
        assert done.code == 0, done.err
        assert done.out or "--output" in words
    assert hub == 4
    assert json.loads((run.work / "cls.json").read_text()).keys() == {"label", "score"}
    assert (run.work / "found.jsonl").read_text().count("\n") == 1
