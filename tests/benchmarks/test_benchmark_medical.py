"""benchmark_medical.py: the NER processor's speed and scores, and scores of classification against scikit-learn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

FAST = ("--device=cpu", "--iters=1", "--warmup=1", "--fast")


def test_report_on_the_samples(run_benchmark: Any) -> None:
    done = run_benchmark("medical", "--device=cpu", "--iters=2", "--warmup=1", "--emit-trace")
    assert done.code == 0, done.stderr
    (adapter,) = done.report["adapters"]
    assert adapter["case"] == "ner_processor"
    assert adapter["time_ms"]["n"] == 16
    assert adapter["texts_per_s"] > 1
    assert adapter["entities"] >= 10
    assert adapter["memory"]["peak_rss_mib"] > 10
    assert Path(adapter["trace_path"]).stat().st_size > 100
    ner = done.report["ner"]
    assert ner["file"] == "ner.jsonl"
    assert ner["texts"] == 8
    assert ner["exact"]["micro"]["f1"] > 0.7
    assert ner["overlap"]["micro"]["matched"] >= ner["exact"]["micro"]["matched"]
    assert set(ner["exact"]["per_type"]) <= set(ner["types"])
    found = done.report["classification"]
    assert list(found) == ["urgency_sample.csv", "pubmed_sample.jsonl", "mimic_notes_sample.jsonl"]
    urgency = found["urgency_sample.csv"]
    assert urgency["classifier"] == "majority (no)"
    assert urgency["accuracy"] == 15 / 25
    assert urgency["macro"] == {"precision": 0.3, "recall": 0.5, "f1": 0.375}
    assert urgency["auc"] == {"degenerate": True, "macro_ovr": 0.5, "micro_ovr": 0.6}


def test_own_files_and_predictions(run_benchmark: Any, tmp_path: Path) -> None:
    (tmp_path / "ner.jsonl").write_text(
        json.dumps({"text": "Patient with HTN.", "entities": [{"start": 13, "end": 16, "type": "condition"}]}) + "\n"
    )
    rows = [("a", "a", 0.9), ("a", "b", 0.4), ("b", "b", 0.3), ("b", "b", 0.1)]
    (tmp_path / "own.jsonl").write_text(
        "".join(
            json.dumps({"text": "x", "label": label, "prediction": predicted, "scores": {"a": p, "b": 1 - p}}) + "\n"
            for label, predicted, p in rows
        )
    )
    (tmp_path / "own.csv").write_text("text,label\nx,1\ny,2\n")
    done = run_benchmark("medical", *FAST, "--ner=ner.jsonl", "--csv=own.csv", "--jsonl=own.jsonl")
    assert done.code == 0, done.stderr
    assert done.report["ner"]["exact"]["micro"]["support"] == 1
    own = done.report["classification"]["own.jsonl"]
    assert own["accuracy"] == 0.75
    assert own["macro"]["recall"] == 0.75
    assert own["auc"] == {"degenerate": False, "macro_ovr": 1.0, "micro_ovr": pytest.approx(15 / 16)}
    assert done.report["classification"]["own.csv"]["classifier"] == "majority (1)"


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("--csv", "a,b\n1,2\n", "expected columns text and label"),
        ("--csv", "text,label\n", "got none"),
        ("--jsonl", '{"text": "x"}\n', "bad:1: expected a line"),
        ("--jsonl", '{"text": "x", "label": 1, "prediction": 1}\n{"text": "x", "label": 1}\n', "give all or none"),
        ("--ner", '{"text": "HTN", "entities": [{"start": 0, "end": 9, "type": "x"}]}\n', "bad:1: the span 0–9"),
    ],
)
def test_files_that_are_none(run_benchmark: Any, tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / "bad").write_text(text)
    done = run_benchmark("medical", *FAST, f"{name}=bad")
    assert done.code == 1
    assert words in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_the_hub_offline_is_one_line(program: Any) -> None:
    done = program("medical", *FAST, "--hub-dataset=nobody/nothing", HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")
    assert done.code == 1
    assert done.stderr.splitlines()[-1].startswith("error: --hub-dataset")
    assert "Traceback" not in done.stderr


def test_a_model_beside_transformers(run_benchmark: Any, tmp_path: Path) -> None:
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["[PAD]", "[UNK]", "Patient", "with", "HTN", "."]
    tokenizer = Tokenizer(models.WordPiece({word: at for at, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(tmp_path / "model")
    config = transformers.BertConfig(
        vocab_size=6,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        id2label={0: "O", 1: "B-condition"},
        label2id={"O": 0, "B-condition": 1},
        initializer_range=0.5,
    )
    transformers.BertForTokenClassification(config).save_pretrained(tmp_path / "model")
    text = {"text": "Patient with HTN.", "entities": [{"start": 13, "end": 16, "type": "condition"}]}
    (tmp_path / "ner.jsonl").write_text(json.dumps(text) + "\n")
    done = run_benchmark("medical", *FAST, "--ner=ner.jsonl", "--ner-model=model", "--ner-batch=2")
    assert done.code == 0, done.stderr
    found = done.report["model_ner"]
    providers = [row["provider"] for row in found["rows"]]
    assert providers == ["medvllm-bf16", "transformers-bf16", "medvllm-fp32", "transformers-fp32", "medvllm-int8"]
    assert found["times_faster"].keys() == {"bf16", "fp32"}
    assert found["shared_entities"]["fp32"] == found["shared_entities_one_window"]["fp32"] == 1
    assert {(row["tokens"], row["padded_tokens"]) for row in found["rows"]} == {(4, 4)}
    assert found["fastest"]["medvllm"] == "medvllm-fp32"
