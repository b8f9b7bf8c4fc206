"""Which value holds, and where it came from: command line, file, preset, environment, default."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llenergymeasure.config import ConfigError, ExperimentConfig, Resolved, resolve
from llenergymeasure.errors import LemError, LemUsageError

NAMED = "config_name: a\nmodel_name: m\n"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def written(text: str, name: str = "a.yaml") -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))
    return path


def of(text: str, **options: object) -> Resolved:
    return resolve(written(NAMED + textwrap.dedent(text)), environ={}, **options)  # type: ignore[arg-type]


def test_defaults_are_those_of_the_contract() -> None:
    config = of("").config
    assert (config.max_input_tokens, config.max_output_tokens, config.min_output_tokens) == (512, 128, 0)
    assert (config.gpus, config.num_processes, config.num_cycles, config.backend) == ((0,), 1, 1, "pytorch")
    assert (config.batching.batch_size, config.batching.strategy, config.decoder.top_k) == (1, "static", 50)
    assert (config.warmup.cv_threshold, config.warmup.window, config.warmup.min, config.warmup.max) == (0.05, 5, 5, 50)
    assert (config.baseline.duration, config.baseline.ttl, config.baseline.interval) == (30.0, 3600.0, 0.1)
    assert config.random_seed is None
    assert config.io.results_dir == "results"
    assert config.schedule.total_duration == "24h"
    assert config.energy.estimator is None


def test_every_value_says_where_it_came_from() -> None:
    written("max_input_tokens: 9\nbatching:\n  batch_size: 2\n", "base.yaml")
    path = written(f"_extends: base.yaml\n{NAMED}batching:\n  strategy: dynamic\n", "sub/../a.yaml")
    resolved = resolve(
        path,
        preset="benchmark",
        overrides={"random_seed": (0, "cli --seed")},
        environ={"LLM_ENERGY_RESULTS_DIR": "/data"},
    )
    said = resolved.provenance
    assert said["max_input_tokens"] == "base.yaml:1"
    assert said["batching.batch_size"] == "base.yaml:3"
    assert said["model_name"] == "a.yaml:3"
    assert said["batching.strategy"] == "a.yaml:5"
    assert said["batching.dynamic_batching"] == "a.yaml:4"  # follows from the strategy
    assert said["max_output_tokens"] == "preset benchmark"
    assert said["decoder.temperature"] == "preset benchmark"
    assert said["io.results_dir"] == "env LLM_ENERGY_RESULTS_DIR"
    assert said["random_seed"] == "cli --seed"
    assert said["query_rate"] == "default"
    values = json.loads(resolved.config.model_dump_json())
    assert set(said) == set(_leaves(values))


def _leaves(data: dict[str, object], prefix: str = "") -> list[str]:
    found: list[str] = []
    for name, value in data.items():
        found += _leaves(value, f"{prefix}{name}.") if isinstance(value, dict) and value else [prefix + name]
    return found


@settings(max_examples=16, deadline=None)
@given(sources=st.sets(st.sampled_from(["preset", "base", "file", "cli"])))
def test_the_strongest_source_wins(tmp_path_factory: pytest.TempPathFactory, sources: set[str]) -> None:
    folder = tmp_path_factory.mktemp("strongest")
    (folder / "base.yaml").write_text("max_output_tokens: 11\n" if "base" in sources else "query_rate: 1\n")
    text = f"_extends: base.yaml\n{NAMED}" + ("max_output_tokens: 12\n" if "file" in sources else "")
    (folder / "a.yaml").write_text(text)
    resolved = resolve(
        folder / "a.yaml",
        preset="quick-test" if "preset" in sources else None,
        overrides={"max_output_tokens": (13, "cli --max-tokens")} if "cli" in sources else {},
        environ={},
    )
    order = [("cli", 13), ("file", 12), ("base", 11), ("preset", 32)]
    expected = next((value for name, value in order if name in sources), 128)
    assert resolved.config.max_output_tokens == expected


def test_results_dir_of_the_environment_stands_below_the_file() -> None:
    environ = {"LLM_ENERGY_RESULTS_DIR": "/env"}
    path = written(f"{NAMED}io: {{results_dir: /file}}\n")
    assert resolve(path, environ=environ).config.io.results_dir == "/file"
    assert resolve(written(NAMED), environ=environ).config.io.results_dir == "/env"
    over = {"io.results_dir": ("/cli", "cli --results-dir")}
    assert resolve(path, overrides=over, environ=environ).config.io.results_dir == "/cli"


def test_preset_batch_size_has_an_effect() -> None:
    resolved = resolve(None, preset="throughput", overrides={"model_name": ("m", "cli --model")}, environ={})
    batching = resolved.config.batching
    assert (batching.batch_size, batching.strategy, batching.dynamic_batching) == (8, "dynamic", True)
    assert resolved.config.config_name == "throughput"
    assert resolved.config.decoder.greedy


def test_a_file_over_a_preset_replaces_what_follows_from_its_values() -> None:
    resolved = of("decoder: {temperature: 0.7}\nbatching: {strategy: sorted_static}\n", preset="throughput")
    assert not resolved.config.decoder.greedy  # do_sample false came with the preset's temperature 0
    assert resolved.config.decoder.preset is None
    assert not resolved.config.batching.dynamic_batching
    assert resolved.config.batching.batch_size == 8
    assert not [each for each in resolved.findings if each.severity == "error"]


def test_seed_zero_is_a_seed() -> None:
    resolved = of("", overrides={"random_seed": (0, "cli --seed")})
    assert resolved.config.random_seed == 0
    assert resolved.provenance["random_seed"] == "cli --seed"
    assert "random_seed" not in {finding.key for finding in resolved.findings}
    assert "random_seed" in {finding.key for finding in of("").findings}


@pytest.mark.parametrize(
    ("text", "place", "key", "near"),
    [
        ("max_ouput_tokens: 3\n", "a.yaml:3", "max_ouput_tokens", "max_output_tokens"),
        ("batch_size: 4\n", "a.yaml:3", "batch_size", "batching.batch_size"),
        ("decoder:\n  top_k: 1\n  temprature: 1\n", "a.yaml:5", "decoder.temprature", "decoder.temperature"),
        ("decoder:\n  beam_search: {beams: 2}\n", "a.yaml:4", "decoder.beam_search.beams", "num_beams"),
        ("prompts: {type: file, pth: x}\n", "a.yaml:3", "prompts.pth", "prompts.path"),
        ("prompts: {type: file, subset: x}\n", "a.yaml:3", "prompts.subset", ""),
    ],
)
def test_an_unknown_key_is_refused_with_its_place_and_the_nearest(text: str, place: str, key: str, near: str) -> None:
    with pytest.raises(LemUsageError) as raised:
        of(text)
    assert str(raised.value).startswith(f"{place}: {key}: no such key.")
    assert near in str(raised.value)


def test_an_unknown_key_of_an_extended_file_is_named_there() -> None:
    written("decodr: {}\n", "base.yaml")
    with pytest.raises(ConfigError, match=r"^base.yaml:1: decodr: .*decoder"):
        resolve(written(f"_extends: base.yaml\n{NAMED}"), environ={})


def test_an_unknown_override_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"^--vary: batchin.batch_size: no such key. Did you mean batching.batch_size"
    ):
        of("", overrides={"batchin.batch_size": (1, "cli --vary")})


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("num_cycles: 11\n", "a.yaml:3: num_cycles: should be less than or equal to 10, got 11"),
        ("num_cycles: 0\n", "a.yaml:3: num_cycles: should be greater than or equal to 1, got 0"),
        ("batching: 3\n", "a.yaml:3: batching: "),
        ("fp_precision: fp8\n", "a.yaml:3: fp_precision: should be 'float16', 'float32' or 'bfloat16', got 'fp8'"),
        ("baseline:\n  duration: soon\n", "a.yaml:4: baseline.duration: expected a duration such as 30s"),
        ("prompts: {path: x}\n", "a.yaml:3: prompts: type is missing: file or huggingface"),
        ("max_input_tokens: .nan\n", "a.yaml:3: max_input_tokens: "),
        (
            "schedule: {days: funday}\n",
            "a.yaml:3: schedule.days: expected days, such as mon,wed,fri or weekdays, got 'funday'",
        ),
        ("schedule: {interval: 6}\n", "a.yaml:3: schedule.interval: expected a whole number with s, m, h"),
        ("schedule: {at: 24:00}\n", "a.yaml:3: schedule.at: expected a time of day, such as 09:00, got '24:00'"),
        (
            "vllm: {trust_remote_code: true}\n",
            "a.yaml:3: vllm: trust_remote_code: code of a model is never run; remove it",
        ),
        (
            "vllm: {hf_token: hf_secret}\n",
            "a.yaml:3: vllm: hf_token: the configuration is kept with the results; set HF_TOKEN in the environment",
        ),
        ("random_seed: -1\n", "a.yaml:3: random_seed: should be greater than or equal to 0, got -1"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_its_place(text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as raised:
        of(text)
    assert str(raised.value).startswith(problem)
    assert "\n" not in str(raised.value)


def test_a_wrong_option_is_named_as_it_was_given() -> None:
    with pytest.raises(ConfigError, match=r"^--max-tokens: max_output_tokens: should be greater .*, got 0$"):
        of("", overrides={"max_output_tokens": (0, "cli --max-tokens")})


def test_required_keys() -> None:
    with pytest.raises(ConfigError, match=r"^a.yaml: model_name is missing; give --model"):
        resolve(written("config_name: a\n"), environ={})
    with pytest.raises(ConfigError, match=r"^a.yaml: config_name is missing"):
        resolve(written("model_name: a\n"), environ={})
    with pytest.raises(ConfigError, match=r"^preset quick-test needs a model; give --model"):
        resolve(None, preset="quick-test", environ={})
    with pytest.raises(LemUsageError, match=r"no preset 'fast'; there are quick-test, benchmark, throughput"):
        resolve(None, preset="fast", environ={})


def test_all_problems_are_reported_together() -> None:
    with pytest.raises(ConfigError) as raised:
        of("num_cycles: 0\nquery_rate: 0\nmax_input_tokens: x\nmax_output_tokens: 0\n")
    assert len(raised.value.problems) == 4
    assert str(raised.value).endswith("(and 1 more)")


def test_extends_merges_sections_and_replaces_lists() -> None:
    written("gpus: [0, 1, 2]\ndecoder: {top_k: 7, top_p: 0.5}\nextra_metadata: {a: 1}\n", "parents/base.yaml")
    written("_extends: parents/base.yaml\ndecoder: {top_p: 0.6}\n", "mid.yaml")
    config = resolve(written(f"_extends: mid.yaml\n{NAMED}gpus: 3\nextra_metadata: {{b: 2}}\n"), environ={}).config
    assert config.gpus == (3,)
    assert (config.decoder.top_k, config.decoder.top_p) == (7, 0.6)
    assert config.extra_metadata == {"a": 1, "b": 2}


def test_extends_is_relative_to_its_file_and_rejects_circles() -> None:
    written("_extends: ../up.yaml\n", "sub/low.yaml")
    written("_extends: sub/low.yaml\n", "up.yaml")
    with pytest.raises(LemError, match=r"sub/low.yaml:1: _extends goes in a circle: up.yaml → sub/low.yaml → up.yaml"):
        resolve(Path("up.yaml"), environ={})
    written("_extends: self.yaml\n", "self.yaml")
    with pytest.raises(LemError, match=r"self.yaml:1: _extends goes in a circle: self.yaml → self.yaml"):
        resolve(Path("self.yaml"), environ={})
    written("_extends: gone.yaml\n", "sub/orphan.yaml")
    with pytest.raises(LemError, match=r"sub/orphan.yaml:1: _extends names sub/gone.yaml, which is not there"):
        resolve(Path("sub/orphan.yaml"), environ={})
    with pytest.raises(LemError, match="_extends takes one path"):
        of("_extends: [a.yaml, b.yaml]\n")


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("deterministic", (0.0, False, 1.0, 1.0)),
        ("standard", (1.0, True, 0.95, 1.0)),
        ("creative", (0.8, True, 0.9, 1.1)),
        ("factual", (0.3, True, 1.0, 1.0)),
    ],
)
def test_decoder_presets(preset: str, expected: tuple[float, bool, float, float]) -> None:
    for decoder in (of(f"decoder: {{preset: {preset}}}\n").config.decoder, _direct(preset)):
        assert (decoder.temperature, decoder.do_sample, decoder.top_p, decoder.repetition_penalty) == expected


def _direct(preset: str) -> object:
    return ExperimentConfig.model_validate(
        {"config_name": "a", "model_name": "m", "decoder": {"preset": preset}}
    ).decoder


def test_values_beside_a_decoder_preset_win() -> None:
    decoder = of("decoder: {preset: creative, top_p: 0.4}\n").config.decoder
    assert (decoder.temperature, decoder.top_p) == (0.8, 0.4)


def test_later_quantisation_replaces_the_earlier() -> None:
    for before, after in ((8, 4), (4, 8)):
        written(f"quantization: {{load_in_{before}bit: true}}\n", "base.yaml")
        resolved = of(f"_extends: base.yaml\nquantization: {{load_in_{after}bit: true}}\n")
        assert resolved.config.quantization.bits == after
        assert not [each for each in resolved.findings if each.severity == "error"]
    off = of("quantization: {load_in_4bit: true}\n", overrides={"quantization.quantization": (False, "cli")})
    assert off.config.quantization.bits is None
    assert of("quantization: {quantization: true}\n").config.quantization.bits == 8


@pytest.mark.parametrize("given", ["0.5", "500ms", '"0.5s"'])
def test_durations(given: str) -> None:
    assert of(f"baseline: {{duration: {given}}}\n").config.baseline.duration == 0.5


def test_a_section_with_nothing_in_it_says_nothing() -> None:
    resolved = of("batching:\ndecoder:\n  # all as it is\nio: {}\n", preset="throughput")
    assert resolved.config.batching.batch_size == 8
    assert resolved.provenance["batching.batch_size"] == "preset throughput"


@pytest.mark.parametrize("value", [".nan", "!!binary /w==", "!!set {a}", "[{b: .inf}]"])
def test_free_values_are_plain(value: str) -> None:
    with pytest.raises(ConfigError, match=r"^a.yaml:3: extra_metadata: expected text, finite numbers, lists"):
        of(f"extra_metadata: {{x: {value}}}\n")


def test_home_is_found() -> None:
    assert of("io: {results_dir: ~/r}\n").config.io.results_dir == str(Path.home() / "r")


def test_times_of_day_stay_text() -> None:
    schedule = of("schedule: {enabled: true, at: 14:30, days: [mon, wed]}\n").config.schedule
    assert (schedule.at, schedule.days) == ("14:30", "mon,wed")


class TestPromptChoice:
    def test_a_dataset_of_the_command_line_leaves_the_files_split_behind(self) -> None:
        text = "dataset: {name: mmlu, split: dev, column: question, sample_size: 7}\n"
        dataset = of(text, overrides={"dataset.name": ("alpaca", "cli --dataset")}).config.dataset
        assert dataset is not None
        assert dataset.model_dump() == {"name": "alpaca", "sample_size": 7, "split": None, "column": None}

    def test_a_prompts_file_of_the_command_line_beats_the_files_dataset(self) -> None:
        over = {"prompts.path": ("p.txt", "cli --prompts")}
        resolved = of("dataset: {name: mmlu}\n", overrides=over)
        assert resolved.config.dataset is None
        assert resolved.config.prompts is not None
        assert resolved.config.prompts.model_dump()["path"] == "p.txt"
        hub = of("prompts: {type: huggingface, dataset: x, subset: y}\n", overrides=over).config.prompts
        assert hub is not None
        assert hub.type == "file"

    def test_a_dataset_goes_before_a_prompts_file_and_says_so(self) -> None:
        over = {"dataset.name": ("alpaca", "cli --dataset"), "prompts.path": ("p.txt", "cli --prompts")}
        resolved = of("", overrides=over)
        assert resolved.config.dataset is not None
        assert (resolved.findings[0].severity, resolved.findings[0].key) == ("warning", "prompts")

    def test_a_limit_of_the_command_line_replaces_the_files(self) -> None:
        over = {"num_input_prompts": (200, "cli --sample-size")}
        config = of("dataset: {name: mmlu, sample_size: 100}\n", overrides=over).config
        assert config.dataset is not None
        assert (config.num_input_prompts, config.dataset.sample_size) == (200, None)

    def test_a_split_alone_is_of_the_files_dataset_or_of_the_default_one(self) -> None:
        over = {"dataset.split": ("test", "cli --split")}
        assert (
            of("dataset: {name: gsm8k}\n", overrides=over).config.dataset
            == of("dataset: {name: gsm8k, split: test}\n").config.dataset
        )
        default = of("", overrides=over).config.dataset
        assert default is not None
        assert default.name == "ai-energy-score"
        hub = of("prompts: {type: huggingface, dataset: x}\n", overrides=over).config.prompts
        assert hub is not None
        assert hub.model_dump()["split"] == "test"
        with pytest.raises(LemUsageError, match=r"^--split: a prompts file has no split"):
            of("prompts: {type: file, path: p}\n", overrides=over)


class TestHash:
    def test_names_and_folders_do_not_change_it(self) -> None:
        one = of("io: {results_dir: /a}\nextra_metadata: {x: 1}\n").config_hash()
        renamed = resolve(written("config_name: b\nmodel_name: m\nschedule: {interval: 6h}\n", "b.yaml"), environ={})
        assert one == renamed.config_hash() == of("").config_hash()
        assert len(one) == 64

    @settings(max_examples=8, deadline=None)
    @given(key=st.sampled_from(["max_output_tokens", "random_seed", "num_input_prompts", "streaming_warmup_requests"]))
    def test_what_is_measured_changes_it(self, tmp_path_factory: pytest.TempPathFactory, key: str) -> None:
        path = tmp_path_factory.mktemp("hash") / "a.yaml"
        path.write_text(NAMED)
        plain = resolve(path, environ={})
        assert resolve(path, overrides={key: (77, "cli")}, environ={}).config_hash() != plain.config_hash()

    def test_the_source_of_a_value_does_not(self) -> None:
        over = {"max_output_tokens": (32, "cli --max-tokens")}
        assert of("max_output_tokens: 32\n").config_hash() == of("", overrides=over).config_hash()
