"""Which prompts an experiment gets: from files of every kind, in which order, how many, and what is said of them."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llenergymeasure.config import ExperimentConfig
from llenergymeasure.errors import LemError
from llenergymeasure.prompts import PromptSet, load_prompts
from llenergymeasure.prompts.sources import prompts_sha256


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def config(**values: Any) -> ExperimentConfig:
    return ExperimentConfig.model_validate({"config_name": "a", "model_name": "m"} | values)


def texts(found: PromptSet) -> list[str]:
    return [prompt.text for prompt in found.prompts]


def jsonl(path: str, rows: list[Any]) -> str:
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


class TestPromptsFile:
    def test_one_a_line_blank_ones_left_out(self) -> None:
        Path("p.txt").write_bytes("\ufefffirst\r\n\n  \n second \u2028still second\nthird".encode())
        found = load_prompts(config(), prompts_file="p.txt")
        assert texts(found) == ["first", " second \u2028still second", "third"]
        assert [(prompt.id, prompt.index) for prompt in found.prompts] == [
            ("000000", 0),
            ("000001", 1),
            ("000002", 2),
        ]
        assert found.source.name == "p.txt"
        assert (found.source.requests, found.source.available, found.source.column) == (3, 3, None)
        assert found.warnings == ()

    @pytest.mark.parametrize(
        ("content", "problem"),
        [
            (b"", "p.txt holds no prompts; expected one a line"),
            (b"\n \n", "p.txt holds no prompts; expected one a line"),
            (b"\x89PNG\r\n\x1a\n", "p.txt: not UTF-8 text at byte 0; expected one prompt a line"),
            (b"ab\0c", "p.txt: not text: a NUL at character 2; expected one prompt a line"),
        ],
    )
    def test_a_file_that_is_none_is_refused(self, content: bytes, problem: str) -> None:
        Path("p.txt").write_bytes(content)
        with pytest.raises(LemError) as raised:
            load_prompts(config(), prompts_file="p.txt")
        assert str(raised.value) == problem

    def test_missing_folder_and_split(self) -> None:
        with pytest.raises(LemError, match=r"^there is no file nope.txt$"):
            load_prompts(config(), prompts_file="nope.txt")
        with pytest.raises(LemError, match="is a folder; give a file"):
            load_prompts(config(), prompts_file=".")
        Path("p.txt").write_text("a")
        with pytest.raises(LemError, match="has no split or column"):
            load_prompts(config(), prompts_file="p.txt", split="test")

    def test_a_limit_and_fewer_than_it(self) -> None:
        Path("p.txt").write_text("a\nb\nc\n")
        assert texts(load_prompts(config(), prompts_file="p.txt", sample_size=2)) == ["a", "b"]
        found = load_prompts(config(num_input_prompts=9), prompts_file="p.txt")
        assert found.warnings == ("asked for 9 prompts, p.txt has 3",)

    def test_shuffled_with_a_seed(self) -> None:
        Path("p.txt").write_text("\n".join(map(str, range(50))))
        prompts = {"type": "file", "path": "p.txt", "shuffle": True, "sample_size": 10}
        one, again = (texts(load_prompts(config(prompts=prompts))) for _ in range(2))
        other = texts(load_prompts(config(prompts=prompts | {"seed": 0})))
        assert one == again != other
        assert sorted(one) != sorted(map(str, range(10)))  # drawn from all of them
        assert len(one) == 10

    def test_a_data_set_is_shuffled_as_a_whole_too(self) -> None:
        jsonl("d.jsonl", [{"text": str(each)} for each in range(50)])
        prompts = {"type": "huggingface", "dataset": "d.jsonl", "shuffle": True, "sample_size": 10}
        found = texts(load_prompts(config(prompts=prompts)))
        assert len(set(found)) == 10
        assert set(found) != set(map(str, range(10)))


class TestOrder:
    def test_command_line_dataset_then_file_then_the_configurations(self) -> None:
        for name in ("cli.jsonl", "config.jsonl"):
            jsonl(name, [{"text": name}])
        for name in ("cli.txt", "config.txt"):
            Path(name).write_text(name)
        prompts = {"type": "file", "path": "config.txt"}
        both = config(dataset={"name": "config.jsonl"}, prompts=prompts)
        assert texts(load_prompts(both, dataset="cli.jsonl", prompts_file="cli.txt")) == ["cli.jsonl"]
        assert texts(load_prompts(both, prompts_file="cli.txt")) == ["cli.txt"]
        assert texts(load_prompts(both)) == ["config.jsonl"]
        assert texts(load_prompts(config(prompts=prompts))) == ["config.txt"]

    def test_the_smaller_of_two_limits_holds_and_an_option_before_both(self) -> None:
        jsonl("d.jsonl", [{"text": str(each)} for each in range(9)])
        limited = config(dataset={"name": "d.jsonl", "sample_size": 5}, num_input_prompts=3)
        assert len(load_prompts(limited).prompts) == 3
        assert len(load_prompts(limited, sample_size=7).prompts) == 7


class TestTables:
    ROWS = ({"id": "1", "question": "one?", "text2": "x"}, {"id": "2", "question": 'two, "2"?\nyes', "text2": "y"})

    @pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "tsv", "parquet"])
    def test_files(self, kind: str) -> None:
        path = Path(f"d.{kind}")
        if kind == "jsonl":
            jsonl(str(path), list(self.ROWS))
        elif kind == "json":
            path.write_text(json.dumps(self.ROWS))
        elif kind == "parquet":
            import pyarrow as pa
            import pyarrow.parquet as pq

            pq.write_table(pa.Table.from_pylist(list(self.ROWS)), path)
        else:
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, self.ROWS[0], delimiter="\t" if kind == "tsv" else ",")
                writer.writeheader()
                writer.writerows(self.ROWS)
        found = load_prompts(config(), dataset=str(path))
        assert texts(found) == ["one?", 'two, "2"?\nyes']
        assert (found.source.column, found.source.available) == ("question", 2)
        assert found.source.revision == f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
        assert found.warnings == (f"no --sample-size: all 2 prompts of d.{kind} are run; limit them with -n",)
        assert texts(load_prompts(config(), dataset=str(path), column="text2", sample_size=1)) == ["x"]

    @pytest.mark.parametrize(
        ("columns", "chosen"),
        [
            (["content", "input", "instruction", "question", "prompt", "text"], "text"),
            (["content", "input", "instruction", "question", "prompt"], "prompt"),
            (["content", "input", "instruction", "question"], "question"),
            (["content", "input", "instruction"], "instruction"),
            (["content", "input"], "input"),
            (["conversations", "content"], "content"),
        ],
    )
    def test_the_column_is_found_by_its_name(self, columns: list[str], chosen: str) -> None:
        jsonl("d.jsonl", [{name: f"of {name}" for name in columns}])
        assert texts(load_prompts(config(), dataset="d.jsonl", sample_size=1)) == [f"of {chosen}"]

    def test_no_column_and_a_wrong_one(self) -> None:
        jsonl("d.jsonl", [{"title": "a", "body": "b", "n": 1}])
        with pytest.raises(LemError, match=r"^d.jsonl has none of the columns text, .*--column: title, body, n$"):
            load_prompts(config(), dataset="d.jsonl")
        with pytest.raises(LemError, match=r"^d.jsonl has no column 'txt'; there are: title, body, n$"):
            load_prompts(config(), dataset="d.jsonl", column="txt")
        with pytest.raises(LemError, match=r"^column n of d.jsonl holds int, expected text"):
            load_prompts(config(), dataset="d.jsonl", column="n")

    def test_a_conversation_is_its_first_human_turn(self) -> None:
        rows = [
            {"conversations": [{"from": "gpt", "value": "no"}, {"from": "human", "value": "yes"}]},
            {"conversations": [{"role": "user", "content": "also"}, {"role": "user", "content": "not"}]},
            {"conversations": [{"from": "gpt", "value": "nobody asked"}]},
        ]
        found = load_prompts(config(), dataset=jsonl("d.jsonl", rows), sample_size=3)
        assert texts(found) == ["yes", "also"]
        assert "1 row(s) of d.jsonl have no text in column conversations and were left out" in found.warnings

    @pytest.mark.parametrize(
        ("name", "content", "problem"),
        [
            ("d.jsonl", '{"text": "a"}\n{"text": \n', r"^d.jsonl:2: broken JSON: .*; one object a line"),
            ("d.jsonl", "3\n", "d.jsonl: item 1 is int; expected an object or a text"),
            ("d.json", '{"text": "a"}', "d.json: expected a list of objects, got dict"),
            ("d.json", '[{"text": "a"},]', r"^d.json:1:1\d: broken JSON"),
            ("d.csv", 'text\n"a', r"^d.csv:1: broken CSV: unexpected end of data"),
            ("d.csv", "text\n", "d.csv holds no rows"),
            ("d.parquet", "no parquet", r"^d.parquet: no Parquet file: "),
            ("d.jsonl", '{"text": ' + "9" * 5000 + "}", r"^d.jsonl:1: broken JSON: a number of too many digits"),
            (
                "d.jsonl",
                r'{"text": "a\ud800"}',
                r"^d.jsonl: character 2 of a text in column text is half of a surrogate",
            ),
            ("d.xlsx", "x", r"^d.xlsx: a data set's file ends in .jsonl"),
            ("d.jsonl", '{"text": ""}\n', "d.jsonl holds no prompts in column text"),
        ],
    )
    def test_broken_files(self, name: str, content: str, problem: str) -> None:
        Path(name).write_text(content)
        with pytest.raises(LemError, match=problem):
            load_prompts(config(), dataset=name)

    def test_a_damaged_parquet_file(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"text": [f"prompt {number} " * 50 for number in range(2000)]}), "d.parquet")
        data = bytearray(Path("d.parquet").read_bytes())
        data[200:2000] = b"\xff" * 1800
        Path("d.parquet").write_bytes(data)
        with pytest.raises(LemError, match=r"^d.parquet: damaged: "):
            load_prompts(config(), dataset="d.parquet")

    def test_one_file_is_one_split(self) -> None:
        jsonl("d.jsonl", [{"text": "a"}])
        assert texts(load_prompts(config(), dataset="d.jsonl", split="train")) == ["a"]
        with pytest.raises(LemError, match="one file is one split, train"):
            load_prompts(config(), dataset="d.jsonl", split="test")

    def test_a_path_that_is_not_there(self) -> None:
        for name in ("./d", "/no/where", "d.jsonl", "~/no-such-data"):
            with pytest.raises(LemError, match=r"^there is no file or folder .*; --dataset takes one of"):
                load_prompts(config(), dataset=name)


class TestFolders:
    """What needs the library `datasets`."""

    @pytest.fixture(autouse=True)
    def _cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import datasets

        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def test_save_to_disk(self) -> None:
        import datasets

        data = datasets.Dataset.from_list([{"prompt": "a"}, {"prompt": "b"}])
        data.save_to_disk("one")
        found = load_prompts(config(), dataset="one", sample_size=1)
        assert (texts(found), found.source.available) == (["a"], 2)
        datasets.DatasetDict({"test": data, "train": data.select([1])}).save_to_disk("two")
        assert texts(load_prompts(config(), dataset="two", sample_size=5)) == ["b"]
        assert texts(load_prompts(config(), dataset="two", split="test", sample_size=5)) == ["a", "b"]
        with pytest.raises(LemError, match=r"^two has no split 'dev'; give --split test or train$"):
            load_prompts(config(), dataset="two", split="dev")

    def test_a_folder_of_files_with_splits(self) -> None:
        Path("data").mkdir()
        jsonl("data/train.jsonl", [{"text": "of train"}])
        jsonl("data/test.jsonl", [{"text": "of test"}])
        assert texts(load_prompts(config(), dataset="data", sample_size=1)) == ["of train"]
        assert texts(load_prompts(config(), dataset="data", split="test", sample_size=1)) == ["of test"]

    def test_a_folder_without_data(self) -> None:
        Path("empty").mkdir()
        with pytest.raises(LemError, match="empty holds no data set"):
            load_prompts(config(), dataset="empty")

    def test_code_in_a_folder_is_not_run(self) -> None:
        Path("evil").mkdir()
        jsonl("evil/train.jsonl", [{"text": "plain"}])
        Path("evil/evil.py").write_text("open('was_run', 'w').write('')\n")
        with pytest.raises(LemError, match=r"^evil: can't be read: .*scripts are no longer supported"):
            load_prompts(config(), dataset="evil", sample_size=1)
        assert not Path("was_run").exists()


class TestBuiltin:
    def test_it_is_a_hundred_prompts_with_a_warning_that_says_so(self) -> None:
        found = load_prompts(config(), dataset="builtin")
        assert len(found.prompts) == len(set(texts(found))) == 100
        assert found.warnings == ("no --sample-size: all 100 prompts of builtin are run; limit them with -n",)
        assert found.source.name == "builtin"
        assert found.source.revision is not None

    def test_it_goes_by_its_name_in_a_configuration_too(self) -> None:
        found = load_prompts(config(dataset={"name": "builtin", "sample_size": 10}))
        assert len(found.prompts) == 10
        assert found.warnings == ()


class TestHash:
    def test_it_is_over_the_prompts_used(self) -> None:
        two = load_prompts(config(), dataset="builtin", sample_size=2)
        expected = hashlib.sha256()
        for text in texts(two):
            expected.update(f"{len(text.encode())}\n".encode() + text.encode())
        assert two.source.sha256 == expected.hexdigest()
        assert load_prompts(config(), dataset="builtin", sample_size=3).source.sha256 != two.source.sha256

    @settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.lists(st.text(), max_size=4), st.lists(st.text(), max_size=4))
    def test_other_prompts_have_another(self, one: list[str], other: list[str]) -> None:
        assert (prompts_sha256(one) == prompts_sha256(other)) == (one == other)
