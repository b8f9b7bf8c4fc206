"""`lem config validate`, `show`, `new` and `generate-grid`."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llenergymeasure.config import resolve
from llenergymeasure.config.grid import full_key, parse_vary
from llenergymeasure.config.loading import load_file
from llenergymeasure.errors import LemError, LemUsageError

if TYPE_CHECKING:
    from conftest import Lem

NAMED = "config_name: a\nmodel_name: m\nrandom_seed: 1\n"


def written(name: str, text: str) -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text)


class TestValidate:
    def test_a_valid_file(self, lem: Lem) -> None:
        written("a.yaml", NAMED)
        outcome = lem("config", "validate", "a.yaml")
        assert (outcome.code, outcome.out, outcome.err) == (0, "a.yaml: valid\n", "")

    def test_a_backend_that_is_not_installed_is_a_warning(self, lem: Lem, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "vllm", None)  # can't be imported
        written("a.yaml", f"{NAMED}backend: vllm\n")
        outcome = lem("config", "validate", "a.yaml")
        assert (outcome.code, outcome.out) == (0, "a.yaml: valid\n")
        assert outcome.err.startswith("Warning: backend vllm: vllm is not installed; pip install 'medvllm[vllm]'")
        assert outcome.err.count("\n") == 1

    def test_unknown_keys_are_usage_errors_each_on_its_line(self, lem: Lem) -> None:
        written("a.yaml", f"{NAMED}batch_size: 4\nstreeming: true\n")
        outcome = lem("config", "validate", "a.yaml")
        assert outcome.code == 2
        assert outcome.err == (
            "Error: a.yaml:4: batch_size: no such key. Did you mean batching.batch_size?\n"
            "Error: a.yaml:5: streeming: no such key. Did you mean streaming?\n"
        )

    def test_broken_yaml_and_missing_files_fail(self, lem: Lem) -> None:
        written("a.yaml", "a: [\n")
        outcome = lem("config", "validate", "a.yaml", "b.yaml")
        assert outcome.code == 1
        assert "Error: a.yaml:2:1: broken YAML" in outcome.err
        assert "Error: there is no configuration file b.yaml" in outcome.err

    def test_remarks_are_printed_and_errors_fail(self, lem: Lem) -> None:
        written("a.yaml", f"{NAMED}min_output_tokens: 500\ntimeseries: {{save: true}}\n")
        outcome = lem("config", "validate", "a.yaml")
        assert outcome.code == 1
        assert outcome.out == "a.yaml: 1 error(s)\n"
        assert outcome.err.startswith("Error: min_output_tokens: 500 is more than max_output_tokens 128")
        assert "Warning: timeseries.save" in outcome.err

    def test_a_campaign_is_valid_when_its_configurations_are(self, lem: Lem) -> None:
        written("sub/a.yaml", NAMED)
        written("sub/campaign.yaml", "campaign_name: c\nconfigs: [a.yaml]\n")
        assert lem("config", "validate", "sub/campaign.yaml").out.endswith("sub/campaign.yaml: valid campaign\n")
        written("sub/a.yaml", NAMED + "x: 1\n")
        outcome = lem("config", "validate", "sub/campaign.yaml")
        assert (outcome.code, outcome.out) == (2, "sub/campaign.yaml: 1 of its 1 configurations are not valid\n")


class TestShow:
    def test_into_a_pipe_it_is_yaml_with_origins(self, lem: Lem) -> None:
        written("base.yaml", "max_output_tokens: 7\n")
        written("a.yaml", f"_extends: base.yaml\n{NAMED}io: {{results_dir: '#x: y'}}\nextra_metadata: {{a: '1'}}\n")
        outcome = lem("config", "show", "a.yaml", "--preset", "throughput", "-m", "other")
        assert outcome.code == 0
        assert "model_name: other  # cli --model\n" in outcome.out
        assert "max_output_tokens: 7  # base.yaml:1\n" in outcome.out
        assert "  batch_size: 8  # preset throughput\n" in outcome.out
        assert "query_rate: 1.0  # default\n" in outcome.out
        written("again.yaml", outcome.out)
        over = {"model_name": ("other", "cli")}
        shown = resolve(Path("a.yaml"), preset="throughput", overrides=over).config
        assert resolve(Path("again.yaml")).config == shown

    def test_json(self, lem: Lem) -> None:
        written("a.yaml", NAMED)
        found = json.loads(lem("config", "show", "a.yaml", "--json").out)
        assert found["config"]["random_seed"] == 1
        assert found["provenance"]["random_seed"] == "a.yaml:3"
        assert found["config_hash"] == resolve(Path("a.yaml")).config_hash()
        assert found["findings"] == []

    def test_dotenv_is_read_but_not_over_what_is_set_nor_are_tokens_shown(
        self, lem: Lem, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        written("a.yaml", NAMED)
        written(".env", "LLM_ENERGY_RESULTS_DIR=/from/dotenv\nHF_TOKEN=hf_secret\n")
        for name in ("LLM_ENERGY_RESULTS_DIR", "HF_TOKEN"):
            monkeypatch.setenv(name, "")  # so that both are as they were, after the test
            monkeypatch.delenv(name)
        outcome = lem("config", "show", "a.yaml")
        assert "  results_dir: /from/dotenv  # env LLM_ENERGY_RESULTS_DIR (.env)\n" in outcome.out
        assert os.environ["HF_TOKEN"] == "hf_secret"
        assert "hf_secret" not in outcome.out + outcome.err
        monkeypatch.setenv("LLM_ENERGY_RESULTS_DIR", "/from/environment")
        assert "results_dir: /from/environment" in lem("config", "show", "a.yaml").out

    def test_nothing_to_show(self, lem: Lem) -> None:
        outcome = lem("config", "show")
        assert outcome.code == 2
        assert "give a configuration file, or --preset with --model" in outcome.err


class TestNew:
    def test_over_a_pipe_it_is_made_of_a_preset(self, lem: Lem) -> None:
        outcome = lem("config", "new", "--preset", "quick-test", "--model", "org/Some-Model", "-y", "-o", "x.yaml")
        assert (outcome.code, outcome.out) == (0, "Wrote x.yaml\n")
        config = resolve(Path("x.yaml")).config
        assert (config.config_name, config.model_name) == ("some-model-quick-test", "org/Some-Model")
        assert (config.max_input_tokens, config.max_output_tokens, config.decoder.temperature) == (64, 32, 0)

    def test_without_model_it_takes_an_open_one_and_says_so(self, lem: Lem) -> None:
        outcome = lem("config", "new", "--preset", "benchmark", "-y", "-o", "x.yaml")
        assert outcome.code == 0
        assert "give --model for another" in outcome.err
        assert lem("config", "validate", "x.yaml").code == 0

    def test_a_file_that_is_there_stays(self, lem: Lem) -> None:
        written("x.yaml", "mine")
        outcome = lem("config", "new", "--preset", "benchmark", "-m", "m", "-y", "-o", "x.yaml")
        assert outcome.code == 1
        assert "is there already" in outcome.err
        assert Path("x.yaml").read_text() == "mine"
        assert lem("config", "new", "--preset", "benchmark", "-m", "m", "-y", "-o", "x.yaml", "--force").code == 0
        assert Path("x.yaml").read_text() != "mine"

    def test_its_own_folder_is_made_and_stdout_is_a_dash(self, lem: Lem) -> None:
        assert lem("config", "new", "-m", "m", "-y", "--name", "n").out == "Wrote configs/n.yaml\n"
        assert "model_name: m\n" in lem("config", "new", "-m", "m", "-y", "-o", "-").out

    def test_questions_need_a_terminal(self, lem: Lem) -> None:
        outcome = lem("config", "new", "--preset", "benchmark", "-o", "x.yaml")
        assert outcome.code == 2
        assert "questions need a terminal" in outcome.err
        assert not Path("x.yaml").exists()

    def test_a_folder_that_is_missing(self, lem: Lem) -> None:
        outcome = lem("config", "new", "-m", "m", "-y", "-o", "no/x.yaml")
        assert outcome.code == 1
        assert outcome.err.endswith("Error: there is no folder no; make it first\n")


class TestGrid:
    def test_the_examples_of_the_contract(self, lem: Lem) -> None:
        written("base.yaml", NAMED)
        vary = ["--vary", "batch_size=1,2,4,8", "--vary", "fp_precision=float16,float32"]
        outcome = lem("config", "generate-grid", "base.yaml", *vary, "--output-dir", "./grid/")
        assert outcome.code == 0
        assert outcome.out.startswith("4 batching.batch_size × 2 fp_precision = 8 combination(s); 8 written to grid/\n")
        made = [resolve(path).config for path in _configs("grid")]
        assert {(each.batching.batch_size, each.fp_precision) for each in made} == {
            (size, precision) for size in (1, 2, 4, 8) for precision in ("float16", "float32")
        }
        assert len({each.config_name for each in made}) == 8
        assert {each.random_seed for each in made} == {1}
        outcome = lem("config", "generate-grid", "base.yaml", "--vary", "batch_size=1,2,4,8,16,32", "--validate")
        assert outcome.code == 0
        assert len(_configs("configs/grid")) == 6

    def test_what_the_base_extends_is_in_each(self, lem: Lem) -> None:
        written("up/parent.yaml", "decoder: {top_k: 3}\n")
        written("up/base.yaml", f"_extends: parent.yaml\n{NAMED}")
        assert lem("config", "generate-grid", "up/base.yaml", "--vary", "decoder.top_p=0.5", "-o", "g").code == 0
        decoder = resolve(_configs("g")[0]).config.decoder
        assert (decoder.top_k, decoder.top_p) == (3, 0.5)

    def test_invalid_ones_are_written_left_out_or_refused(self, lem: Lem) -> None:
        written("base.yaml", NAMED)
        vary = ["base.yaml", "--vary", "min_output_tokens=0,500", "--vary", "batch_size=0,1"]
        outcome = lem("config", "generate-grid", *vary, "-o", "all")
        assert (outcome.code, len(_configs("all"))) == (0, 4)
        assert "3 of them not valid" in outcome.out
        outcome = lem("config", "generate-grid", *vary, "-o", "valid", "--validate")
        assert (outcome.code, len(_configs("valid"))) == (0, 1)
        assert "3 left out" in outcome.out
        outcome = lem("config", "generate-grid", *vary, "-o", "strict", "--strict")
        assert outcome.code == 1
        assert "3 of 4 configurations would not be valid; nothing was written" in outcome.err
        assert not Path("strict").exists()

    def test_nothing_of_the_users_is_replaced(self, lem: Lem) -> None:
        written("base.yaml", NAMED)
        written("g/a_batch_size-2.yaml", "mine")
        outcome = lem("config", "generate-grid", "base.yaml", "--vary", "batch_size=1,2", "-o", "g")
        assert outcome.code == 1
        assert "was not made by generate-grid" in outcome.err
        assert [path.name for path in _configs("g")] == ["a_batch_size-2.yaml"]
        written("g/a_batch_size-2.yaml", "mine")
        assert lem("config", "generate-grid", "base.yaml", "--vary", "batch_size=4", "-o", "g").code == 0
        outcome = lem("config", "generate-grid", "base.yaml", "--vary", "batch_size=4", "-o", "g")
        assert outcome.code == 0
        assert "g holds 1 other configuration(s)" in outcome.err

    def test_a_folder_that_fills_up_keeps_what_it_had(self, lem: Lem, monkeypatch: pytest.MonkeyPatch) -> None:
        written("base.yaml", NAMED)
        assert lem("config", "generate-grid", "base.yaml", "--vary", "batch_size=1", "-o", "g").code == 0
        before = {path: path.read_bytes() for path in _configs("g")}
        import medvllm_programs.files as files

        real, calls = files.os.fsync, iter([None, None, OSError(28, "No space left on device")])

        def fsync(descriptor: int) -> None:
            error = next(calls)
            if error:
                raise error
            real(descriptor)

        monkeypatch.setattr(files.os, "fsync", fsync)
        outcome = lem("config", "generate-grid", "base.yaml", "--vary", "batch_size=1,2,4", "-o", "g")
        assert outcome.code == 1
        assert "can't write g/a_batch_size-4.yaml: no space left on device" in outcome.err
        assert {path: path.read_bytes() for path in Path("g").iterdir()} == before

    @pytest.mark.parametrize(
        ("vary", "problem"),
        [
            ("batch_siz=1", "no such key. Did you mean batching.batch_size?"),
            ("strategy=static", "that may be batching.strategy or parallelism.strategy; give the whole key"),
            ("batch_size", "--vary takes KEY=VALUE,VALUE"),
            ("batch_size=", "--vary takes KEY=VALUE,VALUE"),
            ("batch_size=1,1", "the value 1 is there twice"),
            ("batch_size=[1", "--vary batch_size=[1"),
        ],
    )
    def test_a_wrong_vary_is_a_usage_error(self, lem: Lem, vary: str, problem: str) -> None:
        written("base.yaml", NAMED)
        outcome = lem("config", "generate-grid", "base.yaml", "--vary", vary)
        assert outcome.code == 2
        assert problem in outcome.err
        assert not Path("configs").exists()

    def test_too_many(self, lem: Lem) -> None:
        written("base.yaml", NAMED)
        many = ",".join(map(str, range(1, 102)))
        outcome = lem("config", "generate-grid", "base.yaml", "--vary", f"batch_size={many}", "--vary", f"top_k={many}")
        assert outcome.code == 1
        assert "10201 combinations; at most 10000" in outcome.err

    def test_values_with_commas(self) -> None:
        assert parse_vary(["gpus=[0],[0, 1]", "model=a/b,'c,d'", "pytorch.x=null,1e-3"]) == {
            "gpus": [[0], [0, 1]],
            "model_name": ["a/b", "c,d"],
            "pytorch.x": [None, 0.001],
        }

    def test_short_names(self) -> None:
        assert full_key("temperature") == "decoder.temperature"
        assert full_key("precision") == "fp_precision"
        assert full_key("load_in_4bit") == "quantization.load_in_4bit"
        assert full_key("batching.strategy") == "batching.strategy"

    @settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        sizes=st.lists(st.integers(1, 64), min_size=1, max_size=3, unique=True),
        models=st.lists(st.from_regex(r"[a-z]{1,8}(/[A-Za-z0-9.]{1,8})?", fullmatch=True), min_size=1, max_size=2),
    )
    def test_each_combination_is_there_once(
        self, lem: Lem, tmp_path_factory: pytest.TempPathFactory, sizes: list[int], models: list[str]
    ) -> None:
        written("base.yaml", NAMED)
        models = list({name.lower().replace("/", ""): name for name in models}.values())
        folder = tmp_path_factory.mktemp("grid")
        quoted = ",".join(f"'{name}'" for name in models)
        vary = ["--vary", f"batch_size={','.join(map(str, sizes))}", "--vary", f"model_name={quoted}"]
        outcome = lem("config", "generate-grid", "base.yaml", *vary, "-o", str(folder))
        assert outcome.code == 0, outcome.err
        found = [load_file(path).data for path in folder.iterdir()]
        pairs = sorted((each["batching"]["batch_size"], each["model_name"]) for each in found)
        assert pairs == sorted((size, name) for size in sizes for name in models)


def _configs(folder: str) -> list[Path]:
    return sorted(Path(folder).glob("*.yaml"))


def test_a_folder_that_may_not_be_written(lem: Lem) -> None:
    written("base.yaml", NAMED)
    Path("closed").mkdir()
    Path("closed").chmod(stat.S_IRUSR | stat.S_IXUSR)
    folder = "/proc/grid" if os.geteuid() == 0 else "closed/grid"  # root may write everywhere else
    outcome = lem("config", "generate-grid", "base.yaml", "--vary", "batch_size=1", "-o", folder)
    assert outcome.code == 1
    assert outcome.err.startswith(f"Error: can't make the folder {folder}: ")


def test_errors_of_the_library_are_usage_errors_of_the_program() -> None:
    assert issubclass(LemUsageError, LemError)
