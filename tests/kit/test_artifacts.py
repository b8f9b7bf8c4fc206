"""Artifacts as a user meets them: saving, naming, resolving, checking, lineage, panels and pipes."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field
from pathlib import Path

import numpy
import pytest

from nemotron.kit.artifacts import (
    Artifact,
    ArtifactRegistry,
    ModelArtifact,
    PretrainBlendsArtifact,
    match_piped,
    parse_reference,
    print_step_complete,
    read_piped_artifacts,
    render_svg,
    render_tree,
    resolve_artifact,
    run_context,
)
from nemotron.kit.errors import KitError
from nemotron.kit.tracking import WandbTracker


@dataclass
class CorpusArtifact(Artifact):
    documents: int
    languages: list[str] = field(default_factory=list)
    home: Path | None = None


@pytest.fixture(autouse=True)
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ArtifactRegistry:
    monkeypatch.setenv("NEMOTRON_ARTIFACTS", str(tmp_path / "registry"))
    return ArtifactRegistry()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "sub").mkdir(parents=True)
    (folder / "blend.json").write_text("{}")
    (folder / "sub" / "shard.bin").write_bytes(b"\x00\x01\x02")
    return folder


def saved(folder: Path, name: str = "Corpus-default", **options: object) -> CorpusArtifact:
    artifact = CorpusArtifact(folder, 3, ["en"])
    artifact.save(name, **options)  # type: ignore[arg-type]
    return artifact


def test_contract_constructors(tmp_path: Path) -> None:
    blends = PretrainBlendsArtifact(path=tmp_path / "a", total_tokens=10, source_datasets=["x"])
    model = ModelArtifact(tmp_path / "b", 2, 100)
    blends.save(name="MyRecipe-data")
    model.save(name="MyRecipe-model")
    assert resolve_artifact("MyRecipe-data:latest").value("total_tokens") == 10
    found = resolve_artifact("art://MyRecipe-model:latest")
    assert isinstance(found, ModelArtifact)
    assert (found.loss, found.step, found.metrics) == (2.0, 100, {"loss": 2.0, "step": 100})


def test_save_writes_the_folder_and_the_registry(data: Path, registry: ArtifactRegistry) -> None:
    artifact = saved(data, aliases=["best"])
    here = json.loads((data / "metadata.json").read_text())
    assert (here["name"], here["version"], here["type"]) == ("Corpus-default", 1, "CorpusArtifact")
    assert here["metadata"] == {"documents": 3, "languages": ["en"], "home": None}
    assert here["metrics"] == {"documents": 3}
    found = registry.resolve("Corpus-default:best")
    assert found.path == Path(registry.root, "Corpus-default", "v1")
    assert (found.path / "sub" / "shard.bin").read_bytes() == b"\x00\x01\x02"
    assert artifact.reference == "Corpus-default:v1"


def test_a_published_version_does_not_change_with_the_folder(data: Path, registry: ArtifactRegistry) -> None:
    saved(data)
    (data / "blend.json").write_text("other")
    saved(data)
    assert (registry.resolve("Corpus-default:v1").path / "blend.json").read_text() == "{}"
    assert (registry.resolve("Corpus-default:v2").path / "blend.json").read_text() == "other"


def test_in_place_points_at_the_folder(data: Path, registry: ArtifactRegistry) -> None:
    saved(data, copy=False)
    assert registry.resolve("Corpus-default").path == data
    assert registry.verify("Corpus-default") == []
    (data / "blend.json").write_text("{ }")
    assert registry.verify("Corpus-default") == ["blend.json: changed"]
    data.rename(data.with_name("moved"))
    with pytest.raises(KitError, match=r"published in place at .* which is gone"):
        registry.resolve("Corpus-default")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Data", "Data:latest"),
        ("Data:v3", "Data:v3"),
        ("Data:3", "Data:v3"),
        ("Data:best", "Data:best"),
        ("v10", "Known:v10"),
        ("10", "Known:v10"),
        ("latest", "Known:latest"),
        ("art://Data:best", "Data:best"),
        ("art://v2", "Known:v2"),
        ("me/project/Data:v3", "me/project/Data:v3"),
    ],
)
def test_references(text: str, expected: str) -> None:
    assert str(parse_reference(text, type_name="Known:latest")) == expected


@pytest.mark.parametrize(
    "text", ["", ":v1", "Data:", "a/b:v1", "Data:v1:v2", "Data name", "../x:v1", "Data:../x", "a//b:v1"]
)
def test_wrong_references(text: str) -> None:
    with pytest.raises(KitError, match="can't read"):
        parse_reference(text)


def test_a_bare_version_needs_a_name() -> None:
    with pytest.raises(KitError, match="write NAME:v3"):
        parse_reference("v3")


@pytest.mark.parametrize("name", ["v3", "3", "latest", "a/b", "../a", "", ".staging"])
def test_names_that_can_not_be(data: Path, name: str) -> None:
    if name == "":
        return  # no name: the type's
    with pytest.raises(KitError, match="name is made of"):
        saved(data, name)


def test_latest_moves_and_aliases_stay(data: Path, registry: ArtifactRegistry) -> None:
    saved(data, aliases=["best"])
    saved(data)
    assert registry.aliases("Corpus-default") == {"latest": 2, "best": 1}
    registry.set_alias("Corpus-default", "best", 2)
    assert str(registry.find("Corpus-default:best")) == "Corpus-default:v2"
    with pytest.raises(KitError, match="latest"):
        registry.set_alias("Corpus-default", "latest", 1)
    with pytest.raises(KitError, match="has no v9"):
        registry.set_alias("Corpus-default", "best", 9)


def test_missing_artifacts_name_the_near_ones(data: Path) -> None:
    with pytest.raises(KitError, match="it is empty"):
        resolve_artifact("Corpus-default")
    saved(data, aliases=["best"])
    with pytest.raises(KitError, match=r"no artifact 'Corpsu-default' in .*near it: Corpus-default.*--art"):
        resolve_artifact("Corpsu-default")
    with pytest.raises(KitError, match=r"has no v7 in .*; it has v1, aliases best"):
        resolve_artifact("v7", type_name="Corpus-default")
    with pytest.raises(KitError, match="has no worst"):
        resolve_artifact("Corpus-default:worst")


def test_a_changed_byte_is_found(data: Path, registry: ArtifactRegistry) -> None:
    saved(data)
    home = registry.resolve("Corpus-default").path
    assert registry.verify("Corpus-default") == []
    shard = home / "sub" / "shard.bin"
    shard.write_bytes(b"\x00\x01\x03")
    (home / "blend.json").unlink()
    (home / "new").touch()
    expected = ["blend.json: missing", "new: added", "sub/shard.bin: changed"]
    assert registry.verify("Corpus-default") == expected


def test_a_changed_byte_of_the_metadata_is_found(data: Path, registry: ArtifactRegistry) -> None:
    saved(data)
    file = registry.resolve("Corpus-default").path / "metadata.json"
    whole = file.read_text()
    for changed in (whole.replace('"documents": 3', '"documents": 4'), whole.replace('": 3', '":  3', 1)):
        assert changed != whole
        file.write_text(changed)
        assert registry.verify("Corpus-default") == ["metadata.json: changed"]


def test_fields_are_checked(tmp_path: Path) -> None:
    with pytest.raises(KitError, match="documents must be int, got str 'x'"):
        CorpusArtifact(tmp_path, "x")  # type: ignore[arg-type]
    with pytest.raises(KitError, match="documents must be int, got bool"):
        CorpusArtifact(tmp_path, True)
    assert ModelArtifact(tmp_path, float("nan"), 1).typed_values()["loss"] is None
    (tmp_path / "file").touch()
    with pytest.raises(KitError, match="path is a folder"):
        saved(tmp_path / "file")
    artifact = CorpusArtifact(tmp_path / "x", 1)
    artifact.metadata["what"] = object()
    with pytest.raises(KitError, match=r"metadata\.what holds a object"):
        artifact.save("X")


def test_numpy_numbers_become_json(tmp_path: Path) -> None:
    ModelArtifact(tmp_path / "m", loss=numpy.float32(1.5), step=numpy.int64(7)).save("M-x")
    assert resolve_artifact("M-x").value("step") == 7


def test_value_prefers_path_version_name_and_type(data: Path) -> None:
    artifact = CorpusArtifact(data, 3)
    artifact.metadata = {"version": "mine", "note": [1, None]}
    artifact.save("Corpus-x")
    found = resolve_artifact("Corpus-x")
    assert found.value("version") == 1
    assert found.value("note") == [1, None]
    assert found.value("path") == str(found.path)
    with pytest.raises(KitError, match="has no field 'tokens'; it has path, version, name, type, documents"):
        found.value("tokens")


def test_types_that_are_not_imported_load_as_artifact(data: Path, registry: ArtifactRegistry) -> None:
    saved(data)
    code = (
        "from nemotron.kit.artifacts import *; a = resolve_artifact('Corpus-default');"
        "print(type(a).__name__, a.value('documents'))"
    )
    assert python(code, registry).stdout.strip() == "Artifact 3"
    with pytest.raises(KitError, match="expected a ModelArtifact, got an artifact of type CorpusArtifact"):
        ModelArtifact.load(data)


def python(code: str, registry: ArtifactRegistry, **environment: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "NEMOTRON_ARTIFACTS": registry.root} | environment
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)


def test_the_index_is_derived(data: Path, registry: ArtifactRegistry) -> None:
    saved(data)
    saved(data, "Other-x")
    index = Path(registry.root, ".art_index.json")
    before = index.read_bytes()
    for damage in (b"{", b"[]", b'{"format": 1, "artifacts": {"Gone-x": {"1": {}}}}', None):
        index.unlink()
        if damage is not None:
            index.write_bytes(damage)
        assert [each.reference for each in registry.list()] == ["Corpus-default:v1", "Other-x:v1"]
        assert index.read_bytes() == before


def test_list_and_show(data: Path, registry: ArtifactRegistry) -> None:
    saved(data, aliases=["best"])
    (entry,) = registry.list("Corpus-default")
    assert (entry.aliases, entry.size_bytes, entry.metrics) == (["best", "latest"], 5, {"documents": 3})
    shown = registry.show("Corpus-default")
    assert shown["reference"] == "Corpus-default:v1"
    assert shown["files"]["sub/shard.bin"]["size"] == 3
    with pytest.raises(KitError, match="no artifact 'Nothing'"):
        registry.list("Nothing")


def test_an_unreadable_version_is_listed_as_such(data: Path, registry: ArtifactRegistry) -> None:
    saved(data)
    Path(registry.root, "Corpus-default", "v1", "metadata.json").write_text("{")
    Path(registry.root, ".art_index.json").unlink()
    (entry,) = registry.list()
    assert (entry.type, entry.size_bytes) == ("unreadable", None)


def chain(data: Path) -> None:
    with run_context(job="job-1", command="nano3 data prep pretrain"):
        PretrainBlendsArtifact(data, 5, ["<notes> & co"]).save("Data-x")
    with run_context(job="job-2", command="nano3 pretrain"):
        resolve_artifact("Data-x")
        ModelArtifact(data.parent / "m1", 3.0, 1).save("Model-a")
    with run_context(job="job-3", command="nano3 sft"):
        resolve_artifact("Model-a:v1")
        resolve_artifact("Data-x:v1")
        ModelArtifact(data.parent / "m2", 2.0, 1).save("Model-b")


def test_lineage_says_which_job_made_it_from_what(data: Path, registry: ArtifactRegistry) -> None:
    chain(data)
    node = registry.lineage("Model-b")
    assert [each.label for each in node.inputs] == ["Model-a:v1", "Data-x:v1"]
    assert (node.job, node.command) == ("job-3", "nano3 sft")
    lines = render_tree(node).splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        "Model-b:v1",
        "├─ Model-a:v1",
        "│",
        "│",
        "└─ Data-x:v1",
    ]
    assert "source <notes> & co" in lines[3]
    assert lines[4].endswith("by nano3 data prep pretrain (above)")


def test_lineage_of_what_is_gone(data: Path, registry: ArtifactRegistry) -> None:
    chain(data)
    Path(registry.root, "Data-x").rename(data.parent / "away")
    assert "Data-x:v1  not in the registry" in render_tree(registry.lineage("Model-a"))


def test_the_picture_is_well_formed_and_escaped(data: Path, registry: ArtifactRegistry) -> None:
    chain(data)
    root = ElementTree.fromstring(render_svg(registry.lineage("Model-b")))
    name = "{http://www.w3.org/2000/svg}"
    texts = ["".join(text.itertext()) for text in root.iter(f"{name}text")]
    assert texts.count("Data-x:v1") == 1
    assert "<notes> & co" in texts
    assert len(list(root.iter(f"{name}path"))) == 1 + 4  # the arrow head and four inputs
    assert not list(root.iter(f"{name}script"))


def test_what_a_parent_resolved_is_handed_on(data: Path, registry: ArtifactRegistry) -> None:
    saved(data)
    code = "from nemotron.kit.artifacts import *; ModelArtifact('m', 1.0, 1).save('M-x')"
    environment = {"NEMOTRON_USED_ARTIFACTS": '["Corpus-default:v1"]', "NEMOTRON_JOB": "job-9"}
    done = python(f"import os; os.chdir({str(data.parent)!r}); {code}", registry, **environment)
    assert done.returncode == 0, done.stderr
    assert registry.lineage("M-x").job == "job-9"
    assert registry.lineage("M-x").inputs[0].label == "Corpus-default:v1"


def test_tokens_are_masked_in_the_producer(
    data: Path, monkeypatch: pytest.MonkeyPatch, registry: ArtifactRegistry
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr(sys, "argv", ["train.py", "--token=hf_secret"])
    saved(data)
    assert registry.show("Corpus-default")["producer"]["argv"] == ["train.py", "--token=****"]


def test_step_complete_speaks_to_people_and_to_the_next_command(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    artifact = saved(data)
    print_step_complete(data=artifact)
    out, err = capsys.readouterr()
    assert json.loads(out) == {"data": {"path": str(data), "type": "CorpusArtifact"}}
    assert "Corpus-default:v1" in err
    assert "documents 3" in err
    widths = {len(line) for line in err.strip().splitlines()}
    assert len(widths) == 1


def test_only_rank_0_speaks(data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = saved(data)
    monkeypatch.setenv("RANK", "1")
    print_step_complete(data=artifact)
    assert capsys.readouterr() == ("", "")


def test_pipes(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    artifact = saved(data)
    line = json.dumps({"data_prep": {"path": str(data), "type": artifact.type}})
    with run_context():
        piped = read_piped_artifacts(io.StringIO(f"a word before\n{line}\n"))
        model = ModelArtifact(data.parent / "m", 1.0, 1)
        model.save("M-x")
    assert model.producer["used"] == [{"reference": "Corpus-default:v1", "type": "CorpusArtifact"}]
    assert "a word before" in capsys.readouterr().err
    assert piped["data_prep"].version == 1
    assert match_piped(piped, {"data": "Corpus-default:latest"})["data"].path == data  # by its name
    assert match_piped(piped, {"data_prep": "Else:latest"})["data_prep"].path == data  # by its key
    assert match_piped(piped, {"model": "Else:latest"}) == {}


def test_nothing_is_read_where_there_is_no_pipe() -> None:
    with open(os.devnull) as nothing:
        assert read_piped_artifacts(nothing) == {}


def test_the_default_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NEMOTRON_ARTIFACTS")
    (tmp_path / ".nemotron" / "artifacts").mkdir(parents=True)
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    assert ArtifactRegistry().root == str(tmp_path / ".nemotron" / "artifacts")


def test_a_path_is_a_reference(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(data)
    monkeypatch.chdir(data)
    assert resolve_artifact(".").value("documents") == 3
    assert resolve_artifact(str(data)).reference == "Corpus-default:v1"
    with pytest.raises(KitError, match=r"has no metadata\.json"):
        resolve_artifact("./sub")


def test_a_registry_inside_the_folder_is_not_taken_in(tmp_path: Path) -> None:
    registry = ArtifactRegistry(tmp_path / ".nemotron" / "artifacts")
    (tmp_path / "file").write_text("x")
    (tmp_path / "loop").symlink_to(tmp_path)
    for _ in range(2):
        Artifact(tmp_path).save("All-x", registry=registry)
    assert list(registry.show("All-x")["files"]) == ["file"]


def test_wandb_that_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(KitError, match="pip install wandb"):
        WandbTracker(project="x")
    monkeypatch.setenv("RANK", "1")
    assert WandbTracker(project="x").can_fetch is False  # only rank 0 logs


def test_importing_is_cheap(registry: ArtifactRegistry) -> None:
    code = (
        "import sys, nemotron.kit.artifacts as a, nemotron.kit.tracking; [getattr(a, name) for name in a.__all__];"
        "print(sorted({'torch', 'numpy', 'fsspec', 'rich', 'click', 'omegaconf', 'wandb'} & set(sys.modules)))"
    )
    done = python(code, registry)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_root_that_can_not_be_used_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    folder = tmp_path / "data"
    folder.mkdir()
    for use in (
        lambda: ArtifactRegistry(tmp_path / "file").list(),
        lambda: Artifact(folder).save("Data-x", registry=ArtifactRegistry(tmp_path / "file")),
        lambda: Artifact(folder).save("Data-x", registry=ArtifactRegistry("/proc/none")),
    ):
        with pytest.raises(KitError, match=r"the registry /.*: (Not a directory|No such file)"):
            use()
