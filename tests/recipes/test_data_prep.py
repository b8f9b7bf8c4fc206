"""Data prep of pretraining, SFT and RL: what is made, from what, once, and the same after a kill."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nemotron.kit import ArtifactRegistry, KitError, resolve_artifact
from nemotron.recipes.nano3.data.blend import ConversationSource, TextSource, read_blend
from nemotron.recipes.nano3.data.chat import encode_conversation
from nemotron.recipes.nano3.data.megatron_shards import Shard
from nemotron.recipes.nano3.data.sources import corpora, documents, split_of
from nemotron.recipes.nano3.data.tokenizer import END_OF_TEXT, copy_tokenizer, load_tokenizer, train_tokenizer
from nemotron.recipes.nano3.stage0_pretrain.data_prep.prepare import DataPrepConfig, prepare
from nemotron.recipes.nano3.stage1_sft.data_prep.prepare import SFTConfig
from nemotron.recipes.nano3.stage1_sft.data_prep.prepare import prepare as prepare_sft
from nemotron.recipes.nano3.stage2_rl.data_prep.prepare import RLConfig
from nemotron.recipes.nano3.stage2_rl.data_prep.prepare import prepare as prepare_rl
from nemotron.recipes.nano3.stage2_rl.rewards import reward


def config(corpus: Path, output: Path, **more: object) -> DataPrepConfig:
    settings = {"vocab_size": 320, "num_shards": 3, "valid_fraction": 0.1, "test_fraction": 0.1} | more
    return DataPrepConfig(output_dir=output, blend_path=corpus, **settings)  # type: ignore[arg-type]


def contents(folder: Path) -> dict[str, str]:
    """Relative path → SHA-256 of every file that stays."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".tmp"))
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.name != "metadata.json"
    }


def test_every_document_is_in_one_split(corpus: Path, tmp_path: Path) -> None:
    artifact = prepare(config(corpus, tmp_path / "out"))
    tokenizer = load_tokenizer(artifact.path / "tokenizer")
    end = tokenizer.token_to_id(END_OF_TEXT)
    texts = []
    blend = read_blend(artifact.path / "blend.json")
    for split in ("train", "valid", "test"):
        for _, prefix in blend[split]:
            shard = Shard(prefix)
            for document in (shard[index].tolist() for index in range(len(shard))):
                assert document[-1] == end
                texts.append(tokenizer.decode(document[:-1]))
    originals = [path.read_text() for folder in ("notes", "code") for path in (tmp_path / folder).iterdir()]
    assert sorted(texts) == sorted(originals)
    assert artifact.metadata["documents"] == 80
    assert artifact.total_tokens == sum(artifact.metadata["tokens"].values())
    assert sum(weight for weight, _ in blend["train"]) == pytest.approx(1)
    assert sum(weight for weight, prefix in blend["train"] if prefix.parent.name == "notes") == pytest.approx(0.75)


def test_the_plan_decides(corpus: Path, tmp_path: Path) -> None:
    first = prepare(config(corpus, tmp_path / "out", publish="copy"))
    before = contents(first.path)
    assert prepare(config(corpus, tmp_path / "out", publish="copy", workers=2)).path == first.path
    elsewhere = prepare(config(corpus, tmp_path / "elsewhere", publish="copy", workers=2))
    assert contents(elsewhere.path) == before  # made by two processes, the same bytes
    assert prepare(config(corpus, tmp_path / "out", num_shards=2)).path != first.path
    (tmp_path / "notes" / "note00.txt").write_text("changed")
    assert prepare(config(corpus, tmp_path / "out", publish="copy")).path != first.path
    assert contents(first.path) == before  # the earlier run stays as it is


def test_force_makes_it_anew(corpus: Path, tmp_path: Path) -> None:
    first = prepare(config(corpus, tmp_path / "out"))
    (first.path / "notes" / "train_00000.bin").write_bytes(b"damaged")
    prepare(config(corpus, tmp_path / "out", force=True))
    assert len(Shard(first.path / "notes" / "train_00000"))


def test_copies_and_unreadable_files_are_left_out(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "notes" / "copy.txt").write_bytes((tmp_path / "notes" / "note01.txt").read_bytes())
    (tmp_path / "notes" / "latin.txt").write_bytes("é".encode("latin-1"))
    (tmp_path / "notes" / "empty.txt").write_text(" \n")
    notes, _ = corpora(corpus)
    assert len(documents(notes, sample=None)) == 40
    assert len(documents(notes, sample=7)) == 7
    splits = {split_of(each, valid_fraction=0.3, test_fraction=0.3) for each in documents(notes, sample=20)}
    assert splits == {"train", "valid", "test"}  # a sample holds something of each


def test_killed_it_goes_on_to_the_same_result(
    corpus: Path, tmp_path: Path, stage: Callable[..., subprocess.Popen[str]]
) -> None:
    settings = ["vocab_size=320", "num_shards=40", f"blend_path={corpus}", "publish=copy"]
    command = ["data", "prep", "pretrain", *settings]
    process = stage(*command, f"output_dir={tmp_path / 'killed'}")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and len(list(tmp_path.glob("killed/runs/*/receipts/*.json"))) < 5:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    made = list(tmp_path.glob("killed/runs/*/receipts/*.json"))
    assert 5 <= len(made) < 84, "the kill came too late to say anything"
    when = {path: path.stat().st_mtime_ns for path in made}
    again = stage(*command, f"output_dir={tmp_path / 'killed'}")
    whole = stage(*command, f"output_dir={tmp_path / 'whole'}")
    for each in (again, whole):
        _, err = each.communicate(timeout=120)
        assert each.returncode == 0, err
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert {path: path.stat().st_mtime_ns for path in made} == when  # what was finished was not made again


def test_the_command_publishes_and_pipes(
    corpus: Path, tmp_path: Path, stage: Callable[..., subprocess.Popen[str]]
) -> None:
    process = stage(
        "data", "prep", "pretrain", "vocab_size=320", f"blend_path={corpus}", f"output_dir={tmp_path / 'out'}"
    )
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    artifact = resolve_artifact("PretrainBlendsArtifact-default")
    assert json.loads(out) == {"data": {"path": str(artifact.path), "type": "PretrainBlendsArtifact"}}
    assert artifact.value("source_datasets") == [f"notes: {tmp_path / 'notes'}", f"code: {tmp_path / 'code'}"]
    assert artifact.producer["command"] == "nano3 data prep pretrain"
    assert ArtifactRegistry().verify("PretrainBlendsArtifact-default") == []
    assert "shards" in err


@pytest.mark.parametrize(
    ("blend", "message"),
    [
        ("{", "must look like"),
        ('{"datasets": []}', "at least one dataset"),
        ('{"datasets": [{"name": "a"}]}', "KeyError: 'path'"),
        ('{"datasets": [{"name": "a", "path": "nowhere"}]}', "has no folder"),
        ('{"datasets": [{"name": "a", "path": "notes"}, {"name": "a", "path": "notes"}]}', "by another name"),
        (
            '{"datasets": [{"name": "a", "path": "notes", "weight": 1}, {"name": "b", "path": "code"}]}',
            "to all or to none",
        ),
        ('{"datasets": [{"name": "a", "path": "notes", "pattern": "*.md"}]}', "no text in"),
    ],
)
def test_wrong_blends(corpus: Path, tmp_path: Path, blend: str, message: str) -> None:
    corpus.write_text(blend)
    with pytest.raises(KitError, match=message):
        prepare(config(corpus, tmp_path / "out"))


def test_a_tokenizer_can_be_given(corpus: Path, tmp_path: Path) -> None:
    train_tokenizer(["some text of another kind"], tmp_path / "tokenizer", vocab_size=260)
    artifact = prepare(config(corpus, tmp_path / "out", tokenizer_model=tmp_path / "tokenizer"))
    given, used = tmp_path / "tokenizer" / "tokenizer.json", artifact.path / "tokenizer" / "tokenizer.json"
    assert used.read_bytes() == given.read_bytes()
    with pytest.raises(KitError, match="at least 259"):
        prepare(config(corpus, tmp_path / "out", vocab_size=100))
    with pytest.raises(KitError, match="no tokenizer in"):
        prepare(config(corpus, tmp_path / "out", tokenizer_model=tmp_path))


def test_batches_are_the_same_by_number_and_cover_a_pass(corpus: Path, tmp_path: Path) -> None:
    artifact = prepare(config(corpus, tmp_path / "out", num_shards=1))
    (only,) = [
        prefix for _, prefix in read_blend(artifact.path / "blend.json")["train"] if prefix.parent.name == "notes"
    ]
    source = TextSource([(1.0, only)], seq_length=16, samples=500, seed=5)
    count = source.windows[0]
    tokens, targets, mask = source.batch(range(count))
    assert (tokens[:, 1:] == targets[:, :-1]).all()
    assert mask.all()
    stream = Shard(only).tokens
    windows = {tuple(stream[at * 16 : at * 16 + 16].tolist()) for at in range(count)}
    assert {tuple(row) for row in tokens.tolist()} == windows  # each window once in a pass
    longer = TextSource([(1.0, only)], seq_length=16, samples=5000, seed=5)
    assert (longer.batch([3, 77])[0] == source.batch([3, 77])[0]).all()  # more iterations do not change the first ones
    assert not (TextSource([(1.0, only)], seq_length=16, samples=500, seed=6).batch(range(count))[0] == tokens).all()
    with pytest.raises(KitError, match="less than one window"):
        TextSource([(1.0, only)], seq_length=10**6, samples=1, seed=1)


def test_blends_are_drawn_by_weight(corpus: Path, tmp_path: Path) -> None:
    artifact = prepare(config(corpus, tmp_path / "out", num_shards=1))
    blend = read_blend(artifact.path / "blend.json")["train"]
    source = TextSource(blend, seq_length=8, samples=4000, seed=5)
    of_notes = {
        tuple(row) for row in TextSource(blend[:1], seq_length=8, samples=4000, seed=1).batch(range(4000))[0].tolist()
    }
    share = sum(tuple(row) in of_notes for row in source.batch(range(4000))[0].tolist()) / 4000
    assert share == pytest.approx(0.75, abs=0.03)


CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is <|im_end|> for?"},
    {"role": "assistant", "content": "It ends a turn."},
]


def test_only_answers_count(tmp_path: Path) -> None:
    train_tokenizer(["It ends a turn.", "What is it for? Be brief."], tmp_path, vocab_size=300)
    tokenizer = load_tokenizer(tmp_path)
    tokens, mask = encode_conversation(tokenizer, CHAT)
    learned = [token for token, counts in zip(tokens, mask, strict=True) if counts]
    assert tokenizer.decode(learned, skip_special_tokens=False) == "It ends a turn.<|im_end|>"
    marks = [tokenizer.token_to_id(mark) for mark in ("<|im_start|>", "<|im_end|>")]
    assert [tokens.count(mark) for mark in marks] == [3, 3]  # the one inside the message is text


def test_the_template_of_transformers_gives_the_same_tokens(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    train_tokenizer(["It ends a turn.", "What is it for? Be brief."], tmp_path, vocab_size=300)
    plain = [CHAT[0], {"role": "user", "content": "What is it for?"}, CHAT[2]]
    copy_tokenizer(tmp_path, tmp_path / "chat", chat=True)
    theirs = AutoTokenizer.from_pretrained(tmp_path / "chat").apply_chat_template(
        plain, tokenize=True, return_dict=True
    )
    assert list(theirs["input_ids"]) == encode_conversation(load_tokenizer(tmp_path), plain)[0]


def test_sft_data(corpus: Path, tmp_path: Path) -> None:
    blend = prepare(config(corpus, tmp_path / "out"))
    settings = {"blend_path": corpus, "seq_length": 192, "valid_fraction": 0.1, "test_fraction": 0.1}
    artifact = prepare_sft(SFTConfig(blend.path / "tokenizer", tmp_path / "sft", **settings))  # type: ignore[arg-type]
    source = ConversationSource([artifact.path / "train"], seed=1)
    tokens, targets, mask = source.batch(range(len(source)))
    assert tokens.shape == (len(source), 192)
    assert mask.sum() + Shard(artifact.path / "valid_mask").tokens.sum() == artifact.answer_tokens
    tokenizer = load_tokenizer(blend.path / "tokenizer")
    text = tokenizer.decode(targets[0][mask[0] > 0].tolist(), skip_special_tokens=False)
    assert text.startswith("def add_")
    # The functions of documents that pretraining keeps for its test are in no split.
    _, code = corpora(corpus)
    kept = [
        each for each in documents(code, sample=None) if split_of(each, valid_fraction=0.1, test_fraction=0.1) == "test"
    ]
    assert kept
    assert artifact.conversations == 40 - len(kept)


def test_own_conversations(corpus: Path, tmp_path: Path) -> None:
    blend = prepare(config(corpus, tmp_path / "out"))
    lines = [json.dumps({"messages": [CHAT[0], {"role": "user", "content": str(at)}, CHAT[2]]}) for at in range(50)]
    file = tmp_path / "chat.jsonl"
    file.write_text("\n".join(lines))
    settings = SFTConfig(blend.path / "tokenizer", tmp_path / "sft", conversations_path=file, valid_fraction=0.2)
    assert prepare_sft(settings).conversations == 50
    for line, message in [("{", "not JSON"), ('{"messages": []}', "expected"), ("[]", "expected a JSON object")]:
        file.write_text("\n".join([*lines, line]))
        with pytest.raises(KitError, match=rf"chat\.jsonl:51: {message}"):
            prepare_sft(settings)


def test_rl_prompts_can_be_checked(corpus: Path, tmp_path: Path) -> None:
    artifact = prepare_rl(RLConfig(tmp_path / "rl", blend_path=corpus, valid_fraction=0.1, test_fraction=0.1))
    rows = [json.loads(line) for name in ("train", "valid") for line in (artifact.path / f"{name}.jsonl").open()]
    assert len(rows) == artifact.prompts
    assert len({row["id"] for row in rows}) == len(rows)
    counted = next(row for row in rows if row["verifier"]["type"] == "integer")
    assert reward(counted["verifier"], "It has 3 parameters, so: 3") == 1.0
    assert reward(counted["verifier"], "4") == 0.0
    named = next(row for row in rows if row["verifier"]["type"] == "identifier")
    assert named["verifier"]["answer"] not in named["prompt"][0]["content"].replace("Add", "")
    assert reward(named["verifier"], f" {named['verifier']['answer']}\n") == 1.0


def test_own_prompts(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "Dose?", "verifier": {"type": "regex", "answer": "[0-9]+ ?mg"}}\n')
    artifact = prepare_rl(RLConfig(tmp_path / "rl", prompts_path=file, valid_fraction=0))
    row = json.loads((artifact.path / "train.jsonl").read_text())
    assert row["prompt"] == [{"role": "user", "content": "Dose?"}]
    assert reward(row["verifier"], "500 mg twice") == 1.0
    for verifier, message in [
        ('{"type": "magic"}', "one of exact, integer, regex, identifier"),
        ('{"type": "integer", "answer": "3"}', "must be int"),
        ('{"type": "regex", "answer": "("}', "regular expression"),
    ]:
        file.write_text(f'{{"prompt": "x", "verifier": {verifier}}}')
        with pytest.raises(KitError, match=message):
            prepare_rl(RLConfig(tmp_path / "rl", prompts_path=file))
