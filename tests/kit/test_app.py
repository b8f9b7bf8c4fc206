"""Apps as programs: options from dataclasses, help, precedence, suggestions, exit codes, completion."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from nemotron.kit import App, KitError


def test_help_says_what_the_author_wrote_of_each_field(recipe: Any) -> None:
    done = recipe.run("data", "prep", "run", "--help")
    assert done.returncode == 0
    text = " ".join(done.stdout.split())
    for said in (
        "--blend-path PATH the blend's file [required]",
        "--output-dir PATH where the shards go [required]",
        "--num-shards INT how many files to write [default: 128]",
        "--sample INT [default: none]",
        "--force / --no-force [default: false]",
        "--optimizer.decay FLOAT [default: 0.0]",
        "--optimizer.clip FLOAT [default: 1.0]",
        "--start INT [default: 0]",
        "--optimizer.lr FLOAT the learning rate, at its peak. [default: 0.5]",
        "--optimizer.kind [adam|sgd] [default: adam]",
        "--colour [RED|BLUE] [default: RED]",
        "--name TEXT a name [default: x]",
        "Make the shards.",
        "-c, --config-file",
        "--dry-run",
    ):
        assert said in text


def test_fields_defaults_files_options_and_overrides_in_their_order(recipe: Any) -> None:
    shards = "num_shards: 1\nblend_path: a\noutput_dir: b\noptimizer: {kind: sgd}\n"
    recipe.write("one.yaml", shards)
    run = ("data", "prep", "run", "-c", "one.yaml")
    assert "num_shards=1," in recipe.run(*run).stdout
    assert "num_shards=2," in recipe.run(*run, "--num-shards", "2").stdout
    assert "num_shards=3," in recipe.run(*run, "num_shards=3", "--num-shards", "2").stdout
    # what the file leaves out of a nested dataclass comes from its parent's default
    assert "Optimizer(lr=0.5, kind='sgd')" in recipe.run(*run).stdout
    assert "Optimizer(lr=0.01, kind='sgd')" in recipe.run(*run, "optimizer.lr=1e-2").stdout


def test_every_type_is_taken_from_options_and_overrides(recipe: Any) -> None:
    wanted = (
        "sample=None, force=True, layers=[1, 2], limits={'a': 0.5}, pair=(7, 'z'), colour=<Colour.BLUE: 2>, name='007'"
    )
    lists = ["--layers", "1", "--layers", "2", "--limits", "a=0.5", "--pair", "7", "--pair", "z"]
    options = [*lists, "--force", "--colour", "BLUE", "--name", "007"]
    assert wanted in recipe.run("data", "prep", "run", *options).stdout
    overrides = ["force=yes", "layers=[1,2]", "limits.a=0.5", "pair=[7,z]", "colour=blue", "name=007", "sample=null"]
    assert wanted in recipe.run("data", "prep", "run", *overrides).stdout
    assert "force=False" in recipe.run("data", "prep", "run", "--no-force").stdout


@pytest.mark.parametrize("name", ["tiny", "tiny.yaml", "config/tiny.yaml", "myrecipe/config/tiny.yaml"])
def test_config_by_stem_and_by_path(recipe: Any, name: str) -> None:
    done = recipe.run("data", "prep", "run", "-c", name)
    assert "num_shards=4, sample=1000" in done.stdout, done.stderr
    assert f"blend_path=PosixPath('{recipe.place}/data_blend.json')" in done.stdout


def test_without_a_file_default_yaml_is_taken(recipe: Any) -> None:
    assert "num_shards=16" in recipe.run("data", "prep", "run").stdout


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        ("toml", 'blend_path = "a"\noutput_dir = "b"\n[optimizer]\nlr = 2.5\n'),
        ("json", '{"blend_path": "a",\n\t"output_dir": "b", "optimizer": {"lr": 2.5}}'),
        ("yml", "blend_path: a\noutput_dir: b\noptimizer:\n  lr: 25e-1\n"),
    ],
)
def test_toml_json_and_yaml_are_the_same(recipe: Any, suffix: str, text: str) -> None:
    recipe.write(f"given.{suffix}", text)
    done = recipe.run("data", "prep", "run", "--config-file", f"given.{suffix}")
    assert "Optimizer(lr=2.5," in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["data", "prpe"], 2, "No such command 'prpe'. Did you mean prep?"),
        (["data", "prep", "run", "--num-shard", "3"], 2, "--num-shards"),
        (["data", "prep", "run", "num_shard=3"], 2, "num_shard: no such field in Config. Did you mean num_shards?"),
        (["data", "prep", "run", "lr=3"], 2, "Did you mean optimizer.lr?"),
        (["data", "prep", "run", "optimizer.lx=3"], 2, "no such field in Optimizer. Known: lr, kind, decay, clip."),
        (["data", "prep", "run", "num_shards.x=3"], 2, "num_shards is an integer, it has no keys"),
        (["data", "prep", "run", "--num-shards", "x"], 2, "'--num-shards': expected an integer, got 'x'"),
        (["data", "prep", "run", "force=perhaps"], 2, "force: expected true or false, got 'perhaps'"),
        (["data", "prep", "run", "--colour", "GREEN"], 2, "expected one of RED, BLUE, got 'GREEN'"),
        (["data", "prep", "run", "layers=[1,x]"], 2, "layers.1: expected an integer, got 'x'"),
        (["data", "prep", "run", "-c", "tini"], 1, "Did you mean -c tiny?"),
        (["data", "prep", "run", "-c", "no/such.yaml"], 1, "there is no configuration file no/such.yaml"),
        (["data", "prep", "run", "--run", "A", "--batch", "B"], 2, "exclude each other"),
        (["data", "prep", "run", "--run.nodes", "2"], 2, "--run.nodes changes a profile"),
        (["data", "prep", "run", "stray"], 2, "expected an override KEY=VALUE, got 'stray'"),
        (["data", "prep", "run", "--art.data", "X"], 2, "--art.data: the command reads no such artifact"),
    ],
)
def test_what_can_not_be_meant_is_one_line(recipe: Any, arguments: list[str], code: int, said: str) -> None:
    done = recipe.run(*arguments)
    assert done.returncode == code
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("Error: ")


def test_missing_values_are_named_together(recipe: Any) -> None:
    recipe.write("empty.yaml", "{}\n")
    done = recipe.run("data", "prep", "run", "-c", "empty.yaml")
    assert done.returncode == 2
    assert "no value for blend_path, output_dir; give --blend-path …" in done.stderr


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("bad.yaml", "blend_path: a\nnum_shards: [1\n", "bad.yaml:3: broken YAML"),
        ("bad.toml", 'blend_path = "a"\nnum_shards = = 3\n', "bad.toml:2: broken TOML"),
        ("bad.json", '{"blend_path": "a",\n"num_shards": }', "bad.json:2: broken JSON"),
        (
            "type.yaml",
            "blend_path: a\n\nnum_shards: many\n",
            "type.yaml:3: num_shards: expected an integer, got 'many'",
        ),
        ("type.toml", "[optimizer]\nlr = [1]\n", "type.toml:2: optimizer.lr: expected a number, got a list"),
        ("deep.yaml", "optimizer:\n  lr: 1\n  lx: 2\n", "deep.yaml:3: optimizer.lx: no such field in Optimizer"),
        ("name.yaml", "name: 7\n", "name.yaml:1: name: expected text, got 7; put it in quotes: '7'"),
        ("twice.yaml", "name: a\nname: b\n", "twice.yaml:2: the key name is there twice"),
        ("list.yaml", "- 1\n", "list.yaml:1: expected keys with values at the top"),
        ("env.yaml", "name: ${oc.env:NOT_SET_HERE}\n", "env.yaml:1: name: "),
        ("none.yaml", "name: ${other}\n", "none.yaml:1: name: "),
        ("art.yaml", "name: ${art:data,path}\n", "--art.data"),
    ],
)
def test_a_bad_file_is_one_line_with_file_line_and_key(recipe: Any, name: str, text: str, said: str) -> None:
    recipe.write(name, text)
    done = recipe.run("data", "prep", "run", "-c", name, "blend_path=a", "output_dir=b")
    assert done.returncode == 1
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_times_and_dates_in_a_file_stay_text(recipe: Any) -> None:
    recipe.write("time.yaml", "blend_path: a\noutput_dir: b\nname: 1:30:00\n")
    assert "name='1:30:00'" in recipe.run("data", "prep", "run", "-c", "time.yaml").stdout
    recipe.write("date.yaml", "blend_path: a\noutput_dir: b\nname: 2026-01-31\n")
    assert "name='2026-01-31'" in recipe.run("data", "prep", "run", "-c", "date.yaml").stdout


def test_dry_run_shows_and_writes_nothing(recipe: Any) -> None:
    done = recipe.run("data", "prep", "run", "-c", "tiny", "--dry-run", "optimizer.lr=3")
    assert done.returncode == 0
    assert "num_shards: 4" in done.stdout
    assert "lr: 3.0" in done.stdout
    assert "Config(" not in done.stdout
    assert not (recipe.place / ".nemotron").exists()


def test_each_run_leaves_its_job_folder(recipe: Any) -> None:
    import yaml

    assert recipe.run("data", "prep", "run", "-c", "tiny", "num_shards=5").returncode == 0
    (job,) = (recipe.place / ".nemotron" / "jobs").iterdir()
    assert job.name.endswith("-myrecipe-data-prep-run")
    known = yaml.safe_load((job / "job.yaml").read_text())
    assert known["command"] == "myrecipe data prep run"
    assert known["argv"][-1] == "num_shards=5"
    assert known["config"]["num_shards"] == 5
    assert known["config_file"] == str(recipe.place / "myrecipe/config/tiny.yaml")
    assert yaml.safe_load((job / "train.yaml").read_text())["blend_path"] == "${oc.env:PWD}/data_blend.json"


def test_the_same_app_under_nemotron(recipe: Any) -> None:
    done = recipe.nemotron("myrecipe", "data", "prep", "run", "-c", "tiny")
    assert "num_shards=4" in done.stdout, done.stderr
    assert "myrecipe" in recipe.nemotron("--help").stdout
    unknown = recipe.nemotron("myrecip")
    assert unknown.returncode == 2
    assert "Did you mean myrecipe?" in unknown.stderr


def test_recipes_of_an_installed_package_are_found(recipe: Any) -> None:
    recipe.write("other-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    recipe.write("other-1.0.dist-info/entry_points.txt", "[nemotron.recipes]\nmine = myrecipe.__main__:app\n")
    assert "mine" in recipe.nemotron("--help", NEMOTRON_RECIPES="").stdout
    assert "num_shards=4" in recipe.nemotron("mine", "data", "prep", "run", "-c", "tiny", NEMOTRON_RECIPES="").stdout


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("nothing.here:app", "there is no module 'nothing'"),
        ("myrecipe.__main__:ap", "has no 'ap' Did you mean app?"),
        ("myrecipe", "expected module:name"),
        ("myrecipe.__main__:main", "must be an App"),
    ],
)
def test_a_wrong_recipe_variable_is_one_line(recipe: Any, value: str, said: str) -> None:
    done = recipe.nemotron("myrecipe", "--help", NEMOTRON_RECIPES=value)
    assert done.returncode == 1
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_handlers_own_fault_has_its_traceback(recipe: Any) -> None:
    text = (recipe.place / "myrecipe/__main__.py").read_text()
    recipe.write("myrecipe/__main__.py", text.replace("print(cfg)", "raise ZeroDivisionError('mine')"))
    done = recipe.run("data", "prep", "run")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "ZeroDivisionError: mine" in done.stderr


def test_a_full_disk_is_one_line(recipe: Any) -> None:
    text = (recipe.place / "myrecipe/__main__.py").read_text()
    recipe.write("myrecipe/__main__.py", text.replace("print(cfg)", "Path('/dev/full').write_text('x')"))
    done = recipe.run("data", "prep", "run")
    assert done.returncode == 1
    assert "No space left on device; free some space" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def _complete(recipe: Any, words: str) -> list[str]:
    done = recipe.nemotron(
        COMP_WORDS=words, COMP_CWORD=str(len(words.split(" ")) - 1), _NEMOTRON_COMPLETE="bash_complete"
    )
    return [line.split(",", 1)[1] for line in done.stdout.splitlines()]


def test_completion_of_commands_options_values_and_configurations(recipe: Any) -> None:
    recipe.write("env.toml", '[cluster]\nexecutor = "local"\n[wandb]\nproject = "p"\n')
    for shell in ("bash", "zsh", "fish"):
        script = recipe.nemotron("completion", shell)
        assert script.returncode == 0
        assert "_NEMOTRON_COMPLETE" in script.stdout
    run = "nemotron myrecipe data prep run"
    assert _complete(recipe, "nemotron myrecipe data pr") == ["prep"]
    assert "--num-shards" in _complete(recipe, f"{run} --num")
    assert _complete(recipe, f"{run} --colour B") == ["BLUE"]
    assert _complete(recipe, f"{run} -c t") == ["tiny"]
    assert _complete(recipe, f"{run} --run c") == ["cluster"]
    assert _complete(recipe, f"{run} optimizer.l") == ["optimizer.lr="]


def test_registration_refuses_what_can_not_work() -> None:
    @dataclasses.dataclass
    class Config:
        path: Path

    app = App("x")
    app.command("a", Config, print)
    with pytest.raises(KitError, match="already"):
        app.group("a")
    with pytest.raises(KitError, match="one word"):
        app.group("a b")
    with pytest.raises(KitError, match="must be a dataclass"):
        app.command("b", int, print)


def test_a_field_that_is_called_like_a_global_option_is_refused(folder: Any) -> None:
    folder.write(
        "myrecipe/__main__.py",
        """\
        import dataclasses
        from nemotron.kit import App

        @dataclasses.dataclass
        class Config:
            run: int = 1

        app = App("myrecipe")
        app.command("go", Config, print)
        app.run()
        """,
    )
    done = folder.run("go")
    assert done.returncode == 1
    assert "Config.run has the name of the option --run" in done.stderr


def test_help_imports_nothing_heavy(recipe: Any) -> None:
    recipe.write(
        "loaded.py",
        """\
        import sys
        from nemotron.cli import cli
        cli.main(sys.argv[1:], prog_name="nemotron", standalone_mode=False)
        heavy = {"omegaconf", "yaml", "rich", "pydantic", "torch", "numpy", "nemo_run", "fsspec", "transformers"}
        print("loaded:", sorted(heavy.intersection(sys.modules)))
        """,
    )
    for arguments in (["--help"], ["myrecipe", "data", "prep", "run", "--help"], ["nano3", "pretrain", "--help"]):
        done = recipe.run(*arguments, program="loaded.py", NEMOTRON_RECIPES="myrecipe.__main__:app")
        assert "loaded: []" in done.stdout, (arguments, done.stdout, done.stderr)
