"""The shipped recipes: what they read and refuse, what they learn, and that a run folder is a model."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from medvllm.errors import MedvllmError
from medvllm.tasks.classification import TextClassifier
from medvllm.tasks.model_ner import TokenClassifier
from medvllm.training.config import TrainerConfig
from medvllm.training.recipes import classification, ner
from medvllm.training.trainer import MedicalModelTrainer

DRUGS, ILLS = ("metformin", "naloxone", "aspirin"), ("stroke", "fever", "chest pain")


def _sentence(generator: random.Random) -> dict[str, Any]:
    text, entities = "Patient", []
    for _ in range(generator.randrange(1, 4)):
        kind, words = generator.choice([("drug", DRUGS), ("disease", ILLS), ("", ("today", "at home", "of note"))])
        word = generator.choice(words)
        text += generator.choice([" has ", ", with ", " and "])
        if kind:
            entities.append({"start": len(text), "end": len(text) + len(word), "type": kind, "text": word})
        text += word
    return {"text": text + ".", "entities": entities}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT without a head, with a WordPiece tokenizer."""
    folder = tmp_path_factory.mktemp("base")
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    generator = random.Random(0)
    texts = [_sentence(generator)["text"] for _ in range(50)]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(texts, trainers.WordPieceTrainer(vocab_size=150, special_tokens=special))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    torch.manual_seed(0)
    transformers.BertModel(config).save_pretrained(folder)
    return folder


def _write(path: Path, rows: list[Any]) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def notes(tmp_path: Path) -> dict[str, Any]:
    """The data of the `ner` recipe."""
    generator = random.Random(1)
    rows = [_sentence(generator) for _ in range(160)]
    return {"train": _write(tmp_path / "train.jsonl", rows[:120]), "eval": _write(tmp_path / "eval.jsonl", rows[120:])}


def _fit(made: tuple[Any, Any, Any], output: Path, **settings: Any) -> Any:
    config = TrainerConfig(output=output, device="cpu", progress=False, plot=False, **settings)
    return MedicalModelTrainer(config).fit(*made)


def test_ner_learns_and_its_run_folder_is_a_model(base: Path, notes: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = {**notes, "model": str(base), "types": {"drug": "chemical", "disease": "condition"}, "max_length": 32}
    made = ner({**config, "stride": 8, "mask": 0.05, "head_lr": 2.0, "class_weights": {"O": 0.5}, "dropout": 0.0})
    model, train, evaluation = made
    assert model.config.id2label[1] == "B-chemical"
    assert evaluation is not None
    assert train.lost_spans == evaluation.lost_spans == 0
    result = _fit(made, tmp_path / "run", epochs=8, batch_size=8, lr=3e-3, metric="f1")
    assert result.metrics["f1"] > 0.95
    settings = json.loads((tmp_path / "run" / "medvllm_ner.json").read_text())
    assert (settings["aggregation"], settings["max_length"], settings["decoding"]) == ("first", 32, "viterbi")
    assert settings["temperature"] != 1.0, "fitted on the evaluation texts"
    classifier = TokenClassifier(str(tmp_path / "run"))
    found = classifier.spans(["Patient has chest pain and metformin, with fever."])[0]
    assert [(one.text, one.type) for one in found] == [
        ("chest pain", "condition"),
        ("metformin", "chemical"),
        ("fever", "condition"),
    ]
    texts, predicted = evaluation.texts, classifier.spans([text.text for text in evaluation.texts])
    right = sum(
        len({(one.start, one.end, one.type) for one in spans} & set(text.spans))
        for text, spans in zip(texts, predicted, strict=True)
    )
    total = sum(len(text.spans) for text in texts) + sum(map(len, predicted))
    assert 2 * right / total == pytest.approx(result.metrics["f1"]), "the trainer scores what the adapter finds"


@pytest.mark.parametrize("several", [False, True])
def test_classification_learns_and_its_run_folder_is_a_model(base: Path, tmp_path: Path, several: bool) -> None:
    generator = random.Random(2)
    rows: list[tuple[str, Any]] = []
    for _ in range(100):
        row = _sentence(generator)
        kinds = sorted({entity["type"] for entity in row["entities"]})
        if several or len(kinds) == 1:
            rows.append((row["text"], kinds if several else kinds[0]))
    if several:
        train = _write(tmp_path / "train.jsonl", [{"text": text, "label": label} for text, label in rows])
    else:
        train = _write(tmp_path / "train.csv", ["label,text", *(f'{label},"{text}"' for text, label in rows)])
    torch.manual_seed(0)
    made = classification({"train": train, "eval": train, "model": str(base), "max_length": 32, "dropout": 0.0})
    result = _fit(made, tmp_path / "run", epochs=10, batch_size=8, lr=2e-3, metric="macro_f1")
    assert result.metrics["accuracy"] > (0.6 if several else 0.95)
    assert result.metrics["macro_f1"] > (0.8 if several else 0.95)
    found = TextClassifier(str(tmp_path / "run")).classify(["Patient has aspirin.", "Patient has fever."])
    assert [one.label for one in found] == ["drug", "disease"]
    assert (sum(score for _, score in found[0].scores) == pytest.approx(1, abs=1e-3)) != several


def test_what_is_frozen_stays_and_rates_follow_the_depth(base: Path, notes: dict[str, Any], tmp_path: Path) -> None:
    config = {**notes, "model": str(base), "max_length": 32, "stride": 0}
    model, train, _ = ner({**config, "freeze_layers": 1, "head_lr": 3.0, "layer_decay": 0.5})
    rates = {name: getattr(weight, "lr_scale", None) for name, weight in model.named_parameters()}
    assert rates["classifier.weight"] == 3.0
    assert rates["bert.encoder.layer.1.output.dense.weight"] == 1.0
    assert rates["bert.encoder.layer.0.output.dense.weight"] == 0.5
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    _fit((model, train, None), tmp_path / "run", max_steps=2, batch_size=4, lr=1e-2)
    changed = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    assert changed == {name for name in before if "layer.1" in name or "classifier" in name}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "data.jsonl:2: not JSON"),
        ("[1]", "data.jsonl:2: expected an object"),
        ({"entities": []}, "data.jsonl:2: field 'text' must be a string that is not empty, got None"),
        ({"text": "abc"}, "data.jsonl:2: field 'entities' must be a list of spans, got None"),
        ({"text": "abc", "spans": [3]}, r"data.jsonl:2: field 'spans\[0\]' must be an object"),
        (
            {"text": "abc", "entities": [{"start": "0", "end": 1, "type": "x"}]},
            r"'entities\[0\].start' must be a number",
        ),
        (
            {"text": "abc", "entities": [{"start": 0, "end": 4, "type": "x"}]},
            r"'entities\[0\].end': the span 0–4 is not",
        ),
        ({"text": "abc", "entities": [{"start": 0, "end": 2}]}, r"'entities\[0\].label' must be the name of a type"),
        ({"text": "abc", "entities": [{"start": 0, "end": 2, "type": "x", "text": "bc"}]}, r"text' says 'bc', but 0–2"),
        (
            {"text": "abc", "entities": [{"start": n, "end": n + 1, "type": f"{tag}-x"} for n, tag in enumerate("BI")]},
            r"data.jsonl are tags of words \(B-x, I-x\); give each entity one span with its type alone, 'x'",
        ),
    ],
)
def test_a_broken_line_of_spans_is_named(tmp_path: Path, line: Any, message: str) -> None:
    data = _write(tmp_path / "data.jsonl", [{"text": "ab", "entities": []}, line])
    with pytest.raises(MedvllmError, match=message):
        ner({"train": data, "model": "none"})


@pytest.mark.parametrize(
    ("name", "lines", "message"),
    [
        ("data.csv", ["text,lable", "a,b"], "data.csv:1: no column 'label'; the header is text, lable"),
        ("data.csv", ["text,label", "a,b", ",c"], "data.csv:3: field 'text' must be a text that is not empty"),
        ("data.csv", ["text,label", "a,b", "a,"], "data.csv:3: field 'label' must be a label that is not empty"),
        ("data.csv", ["text,label", "a,b,c"], "data.csv:2: more fields than the header's 2"),
        ("data.csv", ["text,label", '"a,b', "c,d"], "data.csv:2: not CSV"),
        ("data.jsonl", ["{}"], "data.jsonl:1: field 'text'"),
        ("data.jsonl", [{"text": "a", "label": [1]}], "data.jsonl:1: field 'label' must be a list of names"),
        ("data.jsonl", [{"text": "a", "label": "b"}], "has one label"),
        ("data.jsonl", [{"text": "a", "label": "b"}, {"text": "a", "label": ["b"]}], "is a list in some lines"),
        ("data.jsonl", [], "has no row"),
    ],
)
def test_a_broken_row_of_labels_is_named(tmp_path: Path, name: str, lines: list[Any], message: str) -> None:
    with pytest.raises(MedvllmError, match=message):
        classification({"train": _write(tmp_path / name, lines), "model": "none"})


def test_evaluation_rows_are_of_the_same_form(tmp_path: Path) -> None:
    lists = _write(tmp_path / "lists.jsonl", [{"text": "a", "label": ["x", "y"]}])
    single = _write(tmp_path / "single.csv", ["text,label", "a,x", "b,y"])
    with pytest.raises(MedvllmError, match=r"lists.jsonl are lists, those of .*single.csv one a text; choose one"):
        classification({"train": lists, "eval": single, "model": "none"})
    with pytest.raises(MedvllmError, match=r"single.csv are one a text, those of .*lists.jsonl lists; choose one"):
        classification({"train": single, "eval": lists, "model": "none"})
    (tmp_path / "latin.csv").write_bytes("text,label\nfever,a\nfièvre,b\n".encode("latin-1"))
    with pytest.raises(MedvllmError, match=r"latin.csv:3: not UTF-8 text"):
        classification({"train": str(tmp_path / "latin.csv"), "model": "none"})


def test_a_long_text_in_csv_is_read_and_an_open_quote_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import csv

    from medvllm.training.recipes import class_data
    from medvllm.training.recipes.class_data import read_labelled

    monkeypatch.setattr(class_data, "_LONGEST", 400_000)
    limit = csv.field_size_limit()
    long = "fever, " * 50_000
    good = _write(tmp_path / "good.csv", ["text,label", f'"{long}",a', "short,b"])
    assert [text.text for text in read_labelled(Path(good))] == [long, "short"]
    lines = ["text,label", "x,b", '"never', *["line"] * 100_000]
    for name, count in (("short", 10), ("long", None)):
        broken = _write(tmp_path / f"{name}.csv", lines[:count])
        with pytest.raises(MedvllmError, match=rf"{name}.csv:3: not CSV \(a field has no end within 400,000"):
            read_labelled(Path(broken))
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize("recipe", ["ner", "classification"])
def test_accumulated_batches_weigh_classes_as_one_batch(
    base: Path, notes: dict[str, Any], tmp_path: Path, recipe: str
) -> None:
    """Their weighted counts differ from batch to batch. SGD, whose steps are proportional to the gradients."""
    if recipe == "ner":
        config = {**notes, "stride": 8, "class_weights": {"O": 0.05, "drug": 4.0}}
    else:
        rows = [(sentence, kind) for kind, words in (("a", DRUGS), ("b", ILLS)) for sentence in words]
        data = _write(tmp_path / "rows.csv", ["text,label", *(f"{text},{kind}" for text, kind in rows * 9), "x,a"])
        config = {"train": data, "eval": data, "class_weights": {"a": 0.02, "b": 0.3}}
    weights, losses = {}, {}
    for size, times in ((8, 1), (2, 4), (4, 2), (5, 1)):
        torch.manual_seed(0)
        model, *data_sets = {"ner": ner, "classification": classification}[recipe](
            {**config, "model": str(base), "max_length": 32, "dropout": 0.0, "attention_dropout": 0.0}
        )
        settings = {"optimizer": "sgd", "lr": 0.5, "max_steps": 7, "eval_batch_size": 3 * size}
        result = _fit((model, *data_sets), tmp_path / f"{size}", batch_size=size, grad_accum=times, **settings)
        weights[size] = torch.cat([weight.detach().flatten() for weight in model.parameters()])
        losses[size] = result.metrics["loss"]
    for size in (2, 4):
        torch.testing.assert_close(weights[size], weights[8], atol=2e-6, rtol=0)
        assert losses[size] == pytest.approx(losses[8], abs=1e-5), "the loss of the evaluation is weighted alike"
    assert (weights[5] - weights[8]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trian": "x"}, "the ner recipe has no option 'trian'; did you mean 'train'"),
        ({"train": 3}, "the option 'train' of the ner recipe must be a string, got 3"),
        ({"train": "x"}, "the ner recipe needs the option 'model'"),
        ({"train": "x", "model": "m", "max_length": True}, "'max_length' of the ner recipe must be an integer"),
        ({"train": "x", "model": "m", "scheme": "IO"}, "'scheme' must be one of BIO, BIOES"),
        (
            {"train": "x", "model": "m", "types": {"a": 3}},
            "'types' of the ner recipe must have a string for 'a', got 3",
        ),
        ({"train": "nowhere.jsonl", "model": "m"}, "can't read the training data nowhere.jsonl"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(MedvllmError, match=message):
        ner(options)


def test_a_base_and_windows_that_do_not_fit(base: Path, notes: dict[str, Any]) -> None:
    with pytest.raises(MedvllmError, match="max_length is 256, but the base reads at most 64 tokens"):
        ner({**notes, "model": str(base)})
    with pytest.raises(MedvllmError, match="freeze_layers is 9, but the base has 2 layers"):
        ner({**notes, "model": str(base), "max_length": 32, "stride": 8, "freeze_layers": 9})
    with pytest.raises(MedvllmError, match="class_weights names 'Drug'; the names are O, disease, drug"):
        ner({**notes, "model": str(base), "max_length": 32, "stride": 8, "class_weights": {"Drug": 2.0}})
    with pytest.raises(MedvllmError, match="has no span of the 'types' given"):
        ner({**notes, "model": str(base), "types": {"finding": "condition"}})


def test_spans_that_nothing_can_learn_are_told(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def span(start: int, end: int, kind: str) -> dict[str, Any]:
        return {"start": start, "end": end, "type": kind}

    overlapping = {"text": "chest pain today", "entities": [span(0, 10, "disease"), span(6, 10, "site")]}
    train = _write(tmp_path / "train.jsonl", [{**overlapping, "entities": [span(0, 10, "disease")]}, overlapping])
    other = _write(tmp_path / "eval.jsonl", [{**overlapping, "entities": [span(11, 16, "time")]}])
    made = ner({"train": train, "eval": other, "model": str(base), "max_length": 32, "stride": 8})
    _fit(made, tmp_path / "run", max_steps=1)
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("Warning: 1 of the 3 spans of the training data have no label: longer ones overlap them")
    assert said[1] == "Warning: the evaluation data have spans of time, which the training data lack"


def test_labels_of_words() -> None:
    from medvllm.training.recipes.ner_data import word_labels

    starts, ends = [0, 5, 10, 15], [4, 9, 14, 19]
    assert word_labels(starts, ends, [(5, 14, "x"), (5, 9, "y")], scheme="BIO") == (["O", "B-x", "I-x", "O"], 1)
    assert word_labels(starts, ends, [(0, 4, "x"), (5, 19, "x")], scheme="BIOES")[0] == ["S-x", "B-x", "I-x", "E-x"]
    assert word_labels(starts, ends, [(6, 8, "x"), (4, 5, "y")], scheme="BIO") == (["O", "B-x", "O", "O"], 1)
