"""Profiles, dry runs, packaged code, torchrun on this machine; all that needs no NeMo-Run."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from nemotron.kit import KitError, RunConfig, build_executor, load_run_profile
from nemotron.kit.execution.executors import executor_arguments
from nemotron.kit.execution.exit_codes import parse_sacct
from nemotron.kit.execution.packaging import code_tree, write_archive
from nemotron.kit.secrets import masked

DOCS = Path(__file__).parent.parent.parent / "docs"
ENV = """\
[base]
account = "acc"
time = "02:00:00"
env_vars = { A = "1", B = "2" }

[cluster]
extends = "base"
executor = "slurm"
partition = "all"
batch_partition = "long"
nodes = 2
gpus_per_node = 8
env_vars = { B = "two words" }

[box]
executor = "docker"
container_image = "python:3.11"

[here]
nproc_per_node = 2

[wandb]
project = "p"
"""


@pytest.fixture
def env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project: env.toml at its top, the working folder below it."""
    below = tmp_path / "project" / "a" / "b"
    below.mkdir(parents=True)
    (tmp_path / "project" / "pyproject.toml").write_text("")
    file = tmp_path / "project" / "env.toml"
    file.write_text(ENV)
    monkeypatch.chdir(below)
    return file


def test_a_profile_is_found_upward_and_takes_what_it_extends(env: Path) -> None:
    config = load_run_profile("cluster")
    assert (config.executor, config.account, config.time, config.nodes) == ("slurm", "acc", "02:00:00", 2)
    assert config.env_vars == {"A": "1", "B": "two words"}
    assert config.partition_for(attached=True) == "all"
    assert config.partition_for(attached=False) == "long"
    assert config.by_torchrun
    assert config.processes_per_node == 8


def test_run_env_lies_under_the_profile_and_options_over_it(env: Path) -> None:
    config = load_run_profile("cluster", base={"nodes": 7, "mem": "1G"}, overrides={"gpus_per_node": 4})
    assert (config.nodes, config.mem, config.gpus_per_node) == (2, "1G", 4)


def test_the_search_ends_at_pyproject_toml(env: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env.rename(tmp_path / "env.toml")
    with pytest.raises(KitError, match=r"there is no env\.toml"):
        load_run_profile("cluster")


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        ('[a]\nextends = "b"\n[b]\nextends = "a"\n', "a", r"env.toml:4: extends: cyclic: a → b → a"),
        ('[a]\nextends = "a"\n', "a", r"env.toml:2: extends: cyclic: a → a"),
        ('[a]\nextends = "c"\n', "a", r"env.toml:2: extends: there is no profile 'c'. Profiles: a"),
        ('[cluster]\nexecutor = "local"\n', "clustr", r"there is no profile 'clustr'. Did you mean cluster\?"),
        ('[wandb]\nproject = "p"\n', "wandb", r"\[wandb\] is reserved"),
        ("[a]\nnodez = 2\n", "a", r"env.toml:2: nodez: no such key of a profile. Did you mean nodes\?"),
        ('[a]\n\nnodes = "two"\n', "a", r"env.toml:3: nodes: expected an integer, got 'two'"),
        ('[a]\nexecutor = "slrum"\n', "a", r"env.toml:2: executor: expected one of local, docker, slurm"),
        ("[a]\nnodes = 0\n", "a", r"nodes must be at least 1"),
        ("[a]\nnodes =\n", "a", r"env.toml:2: broken TOML"),
        (
            '[a]\nsetup = "${NOT_SET_HERE}"\n',
            "a",
            r"env.toml:2: setup: the environment variable NOT_SET_HERE is not set",
        ),
    ],
)
def test_a_wrong_profile_is_told_with_file_and_line(env: Path, text: str, name: str, said: str) -> None:
    env.write_text(text)
    with pytest.raises(KitError, match=said) as raised:
        load_run_profile(name)
    assert "\n" not in str(raised.value)


def test_every_profile_of_the_page_is_whole(env: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (DOCS / "kit" / "nemo-run.md").read_text()
    env.write_text(page.split("```toml\n")[1].split("```")[0])
    monkeypatch.setenv("DGX_SECRET", "s3cret")
    classes = {}
    for name in ("MY-CLUSTER", "two-processes", "box", "sky", "dgx", "lepton"):
        classes[name], arguments = executor_arguments(load_run_profile(name))
        assert arguments
    assert sorted(classes.values()) == sorted(
        f"{kind}Executor" for kind in ("Slurm", "Local", "Docker", "Skypilot", "DGXCloud", "Lepton")
    )
    assert load_run_profile("dgx").client_secret == "s3cret"


def test_what_an_executor_needs_is_asked_for() -> None:
    for config, key in (
        (RunConfig(executor="slurm"), "account"),
        (RunConfig(executor="docker"), "container_image"),
        (RunConfig(executor="slurm", account="a", host="h", user="u"), "remote_job_dir"),
        (RunConfig(executor="lepton", container_image="i"), "nemo_run_dir"),
    ):
        with pytest.raises(KitError, match=key):
            executor_arguments(config)


def test_slurm_arguments() -> None:
    config = RunConfig(executor="slurm", account="a", partition="p", ntasks_per_node=4, env_vars={"A": 'x "y" z'})
    name, arguments = executor_arguments(config)
    assert name == "SlurmExecutor"
    assert arguments["ntasks_per_node"] == 4
    assert "launcher" not in arguments
    assert arguments["env_vars"] == {"A": '"x \\"y\\" z"'}  # NeMo-Run writes it into a script as it is
    assert arguments["tunnel"][0] == "LocalTunnel"
    by_ssh = RunConfig(executor="slurm", account="a", nproc_per_node=4, host="h", user="u", remote_job_dir="/j")
    name, arguments = executor_arguments(by_ssh)
    assert arguments["tunnel"] == ("SSHTunnel", {"host": "h", "user": "u", "job_dir": "/j", "identity": None})
    assert (arguments["ntasks_per_node"], arguments["torchrun_nproc_per_node"]) == (1, 4)
    assert arguments["launcher"] == "torchrun"


def test_sacct_lines() -> None:
    assert parse_sacct("0:0\n") is None
    assert parse_sacct("3:0|\n") == 3
    assert parse_sacct("0:9\n") == 137


def test_secrets_are_masked_by_key_and_by_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_abc")
    data = {"api_key": "k", "client_secret": "s", "total_tokens": 5, "eos_token": "</s>", "url": "x?t=hf_abc"}
    assert masked(data) == {
        "api_key": "****",
        "client_secret": "****",
        "total_tokens": 5,
        "eos_token": "</s>",
        "url": "x?t=****",
    }


def test_uncommitted_and_new_files_are_packaged_and_ignored_ones_are_not(tmp_path: Path) -> None:
    place = tmp_path / "repo"
    (place / "sub").mkdir(parents=True)

    def git(*arguments: str) -> None:
        command = ["git", "-c", "user.name=t", "-c", "user.email=t@t", "-C", str(place), *arguments]
        subprocess.run(command, check=True, capture_output=True)

    git("init", "-q")
    (place / "kept.py").write_text("1")
    (place / "gone.py").write_text("1")
    (place / ".gitignore").write_text("*.log\n")
    git("add", ".")
    git("commit", "-qm", "x")
    (place / "kept.py").write_text("changed")
    (place / "gone.py").unlink()
    (place / "sub" / "new.py").write_text("new")
    (place / "a.log").write_text("ignored")
    (place / ".nemotron").mkdir()
    (place / ".nemotron" / "x").write_text("ours")
    tree = code_tree(place / "sub")
    assert [str(path) for path in tree.files] == [".gitignore", "kept.py", "sub/new.py"]
    write_archive(tree, tmp_path / "code.tar.gz", {".nemotron/job/train.yaml": b"a: 1\n"})
    with tarfile.open(tmp_path / "code.tar.gz") as archive:
        archive.extractall(tmp_path / "out", filter="data")
    assert (tmp_path / "out" / "kept.py").read_text() == "changed"
    assert (tmp_path / "out" / ".nemotron/job/train.yaml").read_text() == "a: 1\n"


def test_too_much_code_names_the_largest_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nemotron.kit.execution.packaging.MAX_BYTES", 1000)
    (tmp_path / "small.py").write_text("x")
    (tmp_path / "large.bin").write_bytes(bytes(2000))
    with pytest.raises(KitError, match=r"the largest file is large\.bin"):
        code_tree(tmp_path)


def test_a_dry_run_shows_the_submission_without_nemo_run(recipe: Any) -> None:
    recipe.write("env.toml", ENV)
    done = recipe.run(
        "data", "prep", "run", "-c", "tiny", "--run", "cluster", "--run.nodes", "3", "--dry-run", HF_TOKEN="hf_abc"
    )
    assert done.returncode == 0, done.stderr
    assert "hf_abc" not in done.stdout
    documents = done.stdout.split("# submission\n")[1]
    shown = yaml.safe_load(documents)
    arguments = shown["submission"]["executor"]["SlurmExecutor"]
    assert arguments["nodes"] == 3
    assert arguments["partition"] == "all"
    assert shown["submission"]["inherited"] == ["HF_TOKEN"]  # not in NeMo-Run's files
    assert "HF_TOKEN" not in arguments["env_vars"]
    assert (
        "nemotron.kit.execution.handler myrecipe.__main__:main myrecipe.__main__:Config"
        in shown["submission"]["command"]
    )
    assert shown["train.yaml"]["blend_path"] == "${oc.env:NEMOTRON_CODE,${oc.env:PWD}}/data_blend.json"
    assert shown["train.yaml"]["run"]["wandb"] == {"project": "p"}
    far = ["--run.host", "h", "--run.user", "u", "--run.remote_job_dir", "/j"]
    by_ssh = recipe.run("data", "prep", "run", "--run", "cluster", *far, "--dry-run", HF_TOKEN="hf_abc").stdout
    assert "hf_abc" not in by_ssh
    submission = yaml.safe_load(by_ssh.split("# submission\n")[1])["submission"]
    assert submission["executor"]["SlurmExecutor"]["env_vars"]["HF_TOKEN"] == "****"
    batch = recipe.run("data", "prep", "run", "--batch", "cluster", "--dry-run")
    assert "partition: long" in batch.stdout
    assert "mode: detached" in batch.stdout
    assert not (recipe.place / ".nemotron").exists()


def test_without_nemo_run_one_line_names_the_extra(recipe: Any) -> None:
    recipe.write("env.toml", ENV)
    recipe.write("nemo_run.py", "raise ModuleNotFoundError(\"No module named 'nemo_run'\", name='nemo_run')\n")
    done = recipe.run("data", "prep", "run", "-c", "tiny", "--run", "cluster")
    assert done.returncode == 1
    assert done.stderr == (
        "Error: --run and --batch need NeMo-Run; install the extra kit-run: pip install 'medvllm[kit-run]'\n"
    )


def test_build_executor_without_nemo_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nemo_run", None)
    with pytest.raises(KitError, match="kit-run"):
        build_executor(RunConfig(executor="local"))


def test_local_and_docker_jobs_can_not_be_left_alone(recipe: Any) -> None:
    recipe.write("env.toml", ENV)
    done = recipe.run("data", "prep", "run", "--batch", "here")
    assert done.returncode == 1
    assert "use --run here" in done.stderr


RANKS = """\
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from nemotron.kit import App
from nemotron.kit.train_script import load_omegaconf_yaml, omegaconf_to_dataclass, parse_config_and_overrides


@dataclass
class Config:
    out: Path = Path("out")
    fail: int = 0


def main(cfg: Config | None = None) -> None:
    if cfg is None:
        path, _ = parse_config_and_overrides()
        cfg = omegaconf_to_dataclass(load_omegaconf_yaml(path), Config)
    import torch.distributed

    torch.distributed.init_process_group("gloo")
    ranks = torch.tensor([torch.distributed.get_rank() + 1])
    torch.distributed.all_reduce(ranks)
    torch.distributed.destroy_process_group()
    if os.environ["RANK"] == "0":
        cfg.out.write_text(json.dumps({"sum": int(ranks), "job": os.environ["NEMOTRON_JOB"]}))
    sys.exit(cfg.fail)
"""


@pytest.mark.parametrize("with_script", [pytest.param(True, marks=pytest.mark.slow), False])
def test_two_processes_by_torchrun(folder: Any, with_script: bool) -> None:
    folder.write("ranks/train.py", RANKS + 'if __name__ == "__main__":\n    main()\n')
    script = ", script_path=train.__file__" if with_script else ""
    folder.write(
        "ranks/__main__.py",
        f"from nemotron.kit import App\nfrom ranks import train\napp = App('ranks')\n"
        f"app.command('go', train.Config, train.main{script})\napp.run()\n",
    )
    done = folder.run("go", "--run.nproc_per_node", "2", "--out", "two", program="ranks")
    assert done.returncode == 0, done.stderr[-2000:]
    made = json.loads((folder.place / "two").read_text())
    assert made["sum"] == 3
    assert (folder.place / ".nemotron/jobs" / made["job"] / "job.yaml").exists()
    assert folder.run("go", "--run.nproc_per_node=2", "fail=3", program="ranks").returncode == 1
