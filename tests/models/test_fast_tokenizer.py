"""The engine's tokenizers read without transformers: the same ids and prompts, or left to transformers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import pytest
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers.utils.chat_template_utils import render_jinja_template

from medvllm.errors import MedvllmError
from medvllm.models.chat_template import render_chat_template
from medvllm.models.fast_tokenizer import FastTokenizer, folder_tokenizer
from medvllm.models.files import resolve_model
from medvllm.models.tokenizer import apply_chat_template, load_text_tokenizer

TEXTS = [
    "Patient with HTN (160/95 mmHg), takes lisinopril 10mg daily; don't stop it.",
    "  two leading spaces,\n\nblank line,\ttab and trailing  ",
    "naïve café Me\u0301nière 37.5 °C 漢字 🙂",
    "Platelets 150000, WBC          14.2\n  3.6 x10^9/L <|im_end|> <|endoftext|>x",
    "",
]
CHAT = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ASK = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Explain <b>HTN</b> & 'DM'.\n"}]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
NAMES = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "unk_token": "<|endoftext|>"}


def trained() -> dict[str, Any]:
    """Vocabulary and merges of a byte-level BPE."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return {"vocab": model["vocab"], "merges": [tuple(pair) for pair in model["merges"]]}


def plain() -> Any:
    """What a converter saves: transformers' class for any tokenizer.json."""
    backend = Tokenizer(models.BPE(**trained()))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=CHAT, **NAMES)


MAKE: dict[str, Callable[[], Any]] = {
    "llama": plain,
    "gpt2": lambda: transformers.GPT2Tokenizer(**trained()),
    "qwen2": lambda: transformers.Qwen2Tokenizer(**trained(), chat_template=CHAT, eos_token="<|im_end|>"),
    "qwen3": lambda: transformers.Qwen2Tokenizer(**trained(), extra_special_tokens=["<|im_start|>"]),
}


def save(folder: Path, model_type: str, tokenizer: Any) -> Any:
    """A model's folder as far as its tokenizer is concerned."""
    tokenizer.save_pretrained(folder)
    getattr(transformers, {"llama": "Llama", "gpt2": "GPT2"}.get(model_type, model_type.title()) + "Config")(
        vocab_size=len(tokenizer)
    ).save_pretrained(folder)
    (folder / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    return resolve_model(folder)


def same(fast: Any, full: Any) -> None:
    for text in TEXTS:
        for special in (True, False):
            ids = fast.encode(text, add_special_tokens=special)
            assert ids == full(text, add_special_tokens=special)["input_ids"]
            assert fast.decode(ids, skip_special_tokens=special) == full.decode(ids, skip_special_tokens=special)
    assert fast.eos_token_id == full.eos_token_id
    assert fast.chat_template == full.chat_template
    if full.chat_template:
        for ask in (ASK, ASK[1:]):
            assert apply_chat_template(fast, ask) == apply_chat_template(full, ask)


@pytest.mark.parametrize("model_type", MAKE)
def test_a_folder_gives_the_ids_of_transformers(model_type: str, tmp_path: Path) -> None:
    files = save(tmp_path, model_type, MAKE[model_type]())
    fast = load_text_tokenizer(files)
    assert isinstance(fast, FastTokenizer)
    same(fast, transformers.AutoTokenizer.from_pretrained(tmp_path))


def changed(folder: Path, name: str, change: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads((folder / name).read_text())
    change(value)
    (folder / name).write_text(json.dumps(value))


CONFIG, TOKENS = "tokenizer_config.json", "tokenizer.json"
LEFT: list[tuple[str, str, Callable[[dict[str, Any]], object]]] = [
    ("llama", CONFIG, lambda v: v.update(tokenizer_class="LlamaTokenizer")),
    ("llama", CONFIG, lambda v: v.update(clean_up_tokenization_spaces=True)),
    ("llama", CONFIG, lambda v: v.update(add_bos_token=True)),
    ("llama", CONFIG, lambda v: v.update(bos_token="<s>")),
    ("llama", CONFIG, lambda v: v.update(image_token="<image>")),
    ("llama", CONFIG, lambda v: v.update(extra_special_tokens=["<more>"])),
    ("llama", CONFIG, lambda v: v.update(chat_template=[{"name": "default", "template": CHAT}])),
    ("llama", TOKENS, lambda v: v["added_tokens"][1].update(normalized=True)),
    ("gpt2", TOKENS, lambda v: v.update(pre_tokenizer={"type": "Digits", "individual_digits": True})),
    ("gpt2", TOKENS, lambda v: v["model"].update(ignore_merges=True)),
    ("qwen2", TOKENS, lambda v: v.update(normalizer=None)),
    ("llama", "config.json", lambda v: v.update(model_type="mistral")),
]


@pytest.mark.parametrize(("model_type", "name", "change"), LEFT, ids=[str(number) for number in range(len(LEFT))])
def test_what_transformers_would_change_is_left_to_it(
    model_type: str, name: str, change: Callable[[dict[str, Any]], object], tmp_path: Path
) -> None:
    files = save(tmp_path, model_type, MAKE[model_type]())
    assert folder_tokenizer(files) is not None
    if name == CONFIG:
        (tmp_path / "chat_template.jinja").unlink(missing_ok=True)
    changed(tmp_path, name, change)
    assert folder_tokenizer(files) is None


def test_older_files_beside_it_are_left_to_transformers(tmp_path: Path) -> None:
    files = save(tmp_path, "llama", plain())
    (tmp_path / "special_tokens_map.json").write_text('{"bos_token": "<s>"}')
    assert folder_tokenizer(files) is None
    read = load_text_tokenizer(files)
    assert not isinstance(read, FastTokenizer)
    assert read.bos_token == "<s>"


def test_half_a_character_is_refused_in_one_line(tmp_path: Path) -> None:
    fast = load_text_tokenizer(save(tmp_path, "llama", plain()))
    with pytest.raises(MedvllmError, match=r"character 4 is half a character, '\\udcff'"):
        fast.encode("dose\udcff")
    with pytest.raises(MedvllmError, match="half a character"):
        apply_chat_template(fast, [{"role": "user", "content": "\ud800"}])


def test_older_settings_that_say_the_same(tmp_path: Path) -> None:
    """What transformers 4 wrote: the added tokens twice, and the map of special tokens."""
    files = save(tmp_path, "llama", plain())
    added = json.loads((tmp_path / TOKENS).read_text())["added_tokens"]
    decoder = {str(token["id"]): {name: token[name] for name in token if name != "id"} for token in added}
    older = {"added_tokens_decoder": decoder, "additional_special_tokens": SPECIAL, "add_bos_token": False}
    changed(tmp_path, CONFIG, lambda v: v.update(**older, tokenizer_class="PreTrainedTokenizerFast"))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(NAMES))
    fast = folder_tokenizer(files)
    assert fast is not None
    same(fast, transformers.AutoTokenizer.from_pretrained(tmp_path))
    decoder["1"]["lstrip"] = True
    changed(tmp_path, CONFIG, lambda v: v.update(added_tokens_decoder=decoder))
    assert folder_tokenizer(files) is None


TEMPLATES = [
    CHAT,
    "{%- for m in messages %}\n   {%- if loop.index0 == 1 %}{% break %}{% endif %}\n {{- m | tojson }}\n{%- endfor %}",
    "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
    "{{ dict(a=1) }} {{ dict.fromkeys(['x']) }} {{ tools is none }} {{ strftime_now('%Y') }} {{ eos_token }}",
    "  {% if true %}\n  indented {% generation %}{{ messages[0].content }}{% endgeneration %}\n  {% endif %}\n end",
    "{{ messages[0] | tojson(indent=2) }} {{ undefined_name }} {{ messages[0].content | upper | trim }}",
]
REFUSED = [
    "{{ raise_exception('never') }}",
    "{% for %}",
    "{{ messages.__class__.__mro__ }}",
    "{{ messages.append(1) }}",
    "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
    "{% set ns = namespace(_x=1) %}",
    "{{ ''.__class__ }}{{ cycler.__init__.__globals__ }}",
]


@pytest.mark.parametrize("template", [*TEMPLATES, *REFUSED])
def test_templates_are_rendered_as_transformers_renders_them(template: str) -> None:
    names = {"bos_token": "<s>", "eos_token": "</s>"}

    def outcome(render: Callable[[], str]) -> str:
        try:
            return render()
        except jinja2.TemplateError as error:
            return f"refused: {type(error).__name__}"

    options = {"add_generation_prompt": True, "special_tokens": names}
    mine = outcome(lambda: render_chat_template(template, ASK, **options))
    theirs = outcome(
        lambda: render_jinja_template([ASK], chat_template=template, add_generation_prompt=True, **names)[0][0]
    )
    assert mine == theirs
    assert mine.startswith("refused") == (template in REFUSED)


def test_generating_does_not_import_transformers(tiny: Callable[..., Any]) -> None:
    """A prompt, a chat and a sample, from files that need none of it; `LLM.tokenizer` then does."""
    folder = tiny("llama", vocab_size=423).folder
    plain().save_pretrained(folder)
    code = (
        "import sys\n"
        "from medvllm import LLM, SamplingParams\n"
        "llm = LLM(sys.argv[1], num_kv_blocks=20)\n"
        "params = SamplingParams(temperature=0, max_tokens=4)\n"
        "(output,) = llm.generate(['Explain HTN.'], params)\n"
        "llm.chat([{'role': 'user', 'content': 'Explain HTN.'}], params)\n"
        "list(llm.stream('Explain HTN.', SamplingParams(max_tokens=4, stop='§')))\n"
        "print('transformers' in sys.modules)\n"
        "print(llm.tokenizer('Explain HTN.').input_ids == output.prompt_token_ids, 'transformers' in sys.modules)\n"
    )
    environment = {"PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1", "HOME": "/nonexistent"}
    command = [sys.executable, "-c", code, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.split() == ["False", "True", "True"], done.stderr
