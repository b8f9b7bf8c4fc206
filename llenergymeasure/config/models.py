"""The experiment configuration: its fields, their defaults and the values they take."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from llenergymeasure.config.choices import BackendName, Precision

__all__ = [
    "DECODER_PRESETS",
    "IO",
    "Baseline",
    "Batching",
    "BeamSearch",
    "Dataset",
    "Decoder",
    "Energy",
    "ExperimentConfig",
    "FilePrompts",
    "HubPrompts",
    "Parallelism",
    "Quantization",
    "Schedule",
    "TimeSeries",
    "TrafficSimulation",
    "Warmup",
    "parse_duration",
    "settle_section",
]

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}

DECODER_PRESETS: dict[str, dict[str, Any]] = {
    "deterministic": {"temperature": 0.0, "do_sample": False},
    "standard": {"temperature": 1.0, "do_sample": True, "top_p": 0.95},
    "creative": {"temperature": 0.8, "do_sample": True, "top_p": 0.9, "repetition_penalty": 1.1},
    "factual": {"temperature": 0.3, "do_sample": True},
}
_DAY_NAMES = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_DAYS = {*_DAY_NAMES, *(name[:3] for name in _DAY_NAMES), "weekdays", "weekends", "daily"}
_PRESET_KEYS = {key for values in DECODER_PRESETS.values() for key in values}


def parse_duration(value: object) -> float:
    """Seconds of '30s', '100ms', '6h', '1d', '2w', or of a number of seconds.

    Raises:
        ValueError: it is none, or is negative.
    """
    if isinstance(value, str):
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ms|[smhdw])?\s*", value)
        if found:
            return float(found[1]) * _SECONDS[found[2] or "s"]
    elif isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf"):
        return float(value)
    raise ValueError(f"expected a duration such as 30s, 100ms, 6h, 1d, or seconds, got {value!r}")


def _list_of_gpus(value: object) -> object:
    return [value] if isinstance(value, int) and not isinstance(value, bool) else value


def _interval(value: object) -> object:
    if value is None or (isinstance(value, str) and re.fullmatch(r"0*[1-9]\d*[smhdw]", value)):
        return value
    raise ValueError(f"expected a whole number with s, m, h, d or w, such as 30m or 6h, got {value!r}")


def _time_of_day(value: object) -> object:
    if value is None or (isinstance(value, str) and re.fullmatch(r"([01]?\d|2[0-3]):[0-5]\d", value)):
        return value
    raise ValueError(f"expected a time of day, such as 09:00, got {value!r}")


def _days(value: object) -> object:
    """Names of days in one text, from a text or a list."""
    text = ",".join(map(str, value)) if isinstance(value, list | tuple) else value
    names = re.split(r"[,\s]+", text.strip().lower()) if isinstance(text, str) else []
    if value is None or (names and all(name in _DAYS for name in names)):
        return text
    raise ValueError(f"expected days, such as mon,wed,fri or weekdays, got {value!r}")


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    """Refuses what a result, which is JSON, can't hold: NaN, bytes, sets."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"expected text, finite numbers, lists and mappings only: {error}") from error
    return value


def _engine_options(value: dict[str, Any]) -> dict[str, Any]:
    """Refuses a model's own code, and a secret: the configuration is kept with the results."""
    if value.get("trust_remote_code"):
        raise ValueError("trust_remote_code: code of a model is never run; remove it")
    if secret := next((key for key in ("hf_token", "token") if key in value), None):
        raise ValueError(f"{secret}: the configuration is kept with the results; set HF_TOKEN in the environment")
    return _plain(value)


Seconds = Annotated[float, BeforeValidator(parse_duration)]
PositiveSeconds = Annotated[float, BeforeValidator(parse_duration), Field(gt=0)]
FreeForm = Annotated[dict[str, Any], AfterValidator(_plain)]
EngineOptions = Annotated[dict[str, Any], AfterValidator(_engine_options)]
Text = Annotated[str, Field(min_length=1)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())


def settle_section(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """A section's values with those that follow from them: of a decoder preset, of one of two spellings.

    What is given by name stays. Used on each source of values by itself, so that a later one wins as a whole.
    """
    settled = dict(values)
    if name == "decoder":
        preset, temperature = settled.get("preset"), settled.get("temperature")
        settled = {**(DECODER_PRESETS.get(preset, {}) if isinstance(preset, str) else {}), **settled}
        if isinstance(temperature, int | float):
            settled.setdefault("do_sample", temperature > 0)
        if not _PRESET_KEYS.isdisjoint(settled):
            settled.setdefault("preset", None)  # no longer what an earlier source's preset says
    elif name == "batching":
        strategy, dynamic = settled.get("strategy"), settled.get("dynamic_batching")
        if strategy is None and isinstance(dynamic, bool):
            settled["strategy"] = "dynamic" if dynamic else "static"
        elif dynamic is None and isinstance(strategy, str):
            settled["dynamic_batching"] = strategy.endswith("dynamic")
    elif name == "quantization":
        for one, other in (("load_in_4bit", "load_in_8bit"), ("load_in_8bit", "load_in_4bit")):
            if settled.get(one) is True:
                settled.setdefault("quantization", True)
                settled.setdefault(other, False)
    return settled


class Batching(_Model):
    """How requests are put together."""

    batch_size: int = Field(default=1, ge=1)
    strategy: Literal["static", "dynamic", "sorted_static", "sorted_dynamic"] = "static"
    max_tokens_per_batch: int | None = Field(default=None, ge=1, description="Of dynamic batches, padding included.")
    dynamic_batching: bool = Field(default=False, description="true: strategy dynamic.")

    @model_validator(mode="before")
    @classmethod
    def _settle(cls, values: Any) -> Any:
        return settle_section("batching", values) if isinstance(values, Mapping) else values


class BeamSearch(_Model):
    """Beam search; one beam is none."""

    num_beams: int = Field(default=1, ge=1)
    length_penalty: float = 1.0
    early_stopping: bool = False


class Decoder(_Model):
    """How the next token is chosen."""

    temperature: float = Field(default=1.0, ge=0, le=2)
    do_sample: bool = True
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=50, ge=0, description="0: all.")
    min_p: float = Field(default=0.0, ge=0, le=1)
    repetition_penalty: float = Field(default=1.0, gt=0)
    no_repeat_ngram_size: int = Field(default=0, ge=0)
    beam_search: BeamSearch = BeamSearch()
    preset: Literal["deterministic", "standard", "creative", "factual"] | None = None

    @model_validator(mode="before")
    @classmethod
    def _settle(cls, values: Any) -> Any:
        return settle_section("decoder", values) if isinstance(values, Mapping) else values

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken each time."""
        return self.temperature == 0 or not self.do_sample


class Quantization(_Model):
    """Weights in 4 or 8 bits, of the pytorch backend; other engines have their own options."""

    quantization: bool = False
    load_in_4bit: bool = False
    load_in_8bit: bool = False
    bnb_4bit_compute_dtype: Precision = "float16"
    bnb_4bit_quant_type: Literal["nf4", "fp4"] = "nf4"
    bnb_4bit_use_double_quant: bool = False

    @model_validator(mode="before")
    @classmethod
    def _settle(cls, values: Any) -> Any:
        return settle_section("quantization", values) if isinstance(values, Mapping) else values

    @property
    def bits(self) -> Literal[4, 8] | None:
        """4 or 8, or None where weights are as they are."""
        if not self.quantization:
            return None
        return 4 if self.load_in_4bit else 8


class Parallelism(_Model):
    """How one model is spread over GPUs."""

    strategy: Literal["none", "tensor_parallel", "pipeline_parallel", "data_parallel"] = "none"
    degree: int = Field(default=1, ge=1)


class TrafficSimulation(_Model):
    """When requests arrive; without it they are all there at once."""

    enabled: bool = False
    mode: Literal["poisson", "constant"] = "poisson"
    target_qps: float | None = Field(default=None, gt=0, description="Requests a second; null: query_rate.")
    seed: int | None = Field(default=None, ge=0)


class Schedule(_Model):
    """When `lem schedule` runs the experiment."""

    enabled: bool = False
    interval: Annotated[str | None, BeforeValidator(_interval)] = None
    at: Annotated[str | None, BeforeValidator(_time_of_day)] = None
    days: Annotated[str | None, BeforeValidator(_days)] = None
    total_duration: Annotated[str, BeforeValidator(_interval)] = "24h"


class IO(_Model):
    """Where results go."""

    results_dir: Annotated[Text, AfterValidator(os.path.expanduser)] = "results"


class Dataset(_Model):
    """Prompts of a data set: an alias, a path on the hub, a local path, or builtin."""

    name: Text
    sample_size: int | None = Field(default=None, ge=1, description="null: the whole split.")
    split: str | None = Field(default=None, description="null: the alias's own, else train.")
    column: str | None = Field(default=None, description="null: found by its name.")


class FilePrompts(_Model):
    """Prompts of a text file, one a line."""

    type: Literal["file"]
    path: Text
    sample_size: int | None = Field(default=None, ge=1)
    shuffle: bool = False
    seed: int = Field(default=42, ge=0)


class HubPrompts(_Model):
    """Prompts of a data set, with its subset and order."""

    type: Literal["huggingface"]
    dataset: Text
    subset: str | None = None
    split: str | None = None
    column: str | None = None
    sample_size: int | None = Field(default=None, ge=1)
    shuffle: bool = False
    seed: int = Field(default=42, ge=0)


class Warmup(_Model):
    """Requests before the measurement, until the coefficient of variation of their latencies has settled."""

    cv_threshold: float = Field(default=0.05, gt=0)
    window: int = Field(default=5, ge=2)
    min: int = Field(default=5, ge=0)
    max: int = Field(default=50, ge=0, description="0: no warm-up.")
    timeout: PositiveSeconds | None = Field(default=None, description="Seconds at most; null: no limit in time.")


class Baseline(_Model):
    """Idle power, measured before the run over its own window."""

    duration: Seconds = 30.0
    ttl: Seconds = Field(default=3600.0, description="A baseline of this machine that is younger is taken again.")
    interval: PositiveSeconds = 0.1
    required: bool = False


class TimeSeries(_Model):
    """Power over time."""

    enabled: bool = False
    save: bool = False
    interval: PositiveSeconds = 0.1


class Energy(_Model):
    """How energy is read, and what may be estimated."""

    estimator: Literal["codecarbon"] | None = Field(default=None, description="Fills in what no sensor measures.")
    interval: PositiveSeconds = 0.1
    carbon_intensity_kg_per_kwh: float | None = Field(default=None, ge=0, description="null: no carbon figure.")


class ExperimentConfig(_Model):
    """One experiment: a model, its prompts, and how they are run and measured."""

    config_name: Text
    model_name: Text
    adapter: str | None = Field(default=None, description="LoRA adapter: its folder.")
    max_input_tokens: int = Field(default=512, ge=1)
    max_output_tokens: int = Field(default=128, ge=1)
    min_output_tokens: int = Field(default=0, ge=0)
    num_input_prompts: int | None = Field(default=None, ge=1)
    save_outputs: bool = False
    decode_token_to_text: bool = False
    gpus: Annotated[tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(_list_of_gpus)] = (0,)
    num_processes: int = Field(default=1, ge=1)
    fp_precision: Precision = "float16"
    backend: BackendName = "pytorch"
    random_seed: int | None = Field(default=None, ge=0, lt=2**63)
    query_rate: float = Field(default=1.0, gt=0, description="Requests a second of simulated traffic.")
    extra_metadata: FreeForm = Field(default_factory=dict)
    num_cycles: int = Field(default=1, ge=1, le=10)
    streaming: bool = False
    streaming_warmup_requests: int = Field(default=5, ge=0)
    batching: Batching = Batching()
    decoder: Decoder = Decoder()
    quantization: Quantization = Quantization()
    parallelism: Parallelism = Parallelism()
    traffic_simulation: TrafficSimulation = TrafficSimulation()
    schedule: Schedule = Schedule()
    io: IO = IO()
    dataset: Dataset | None = None
    prompts: Annotated[FilePrompts | HubPrompts, Field(discriminator="type")] | None = None
    warmup: Warmup = Warmup()
    baseline: Baseline = Baseline()
    timeseries: TimeSeries = TimeSeries()
    energy: Energy = Energy()
    pytorch: EngineOptions | None = None
    medvllm: EngineOptions | None = None
    vllm: EngineOptions | None = None
    tensorrt: EngineOptions | None = None
