"""Many notes: every input kind, output in order, and nothing lost or doubled whatever ends a run."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

NER = ("inference", "ner")
NOTE = "Patient {n} has hypertension and denies chest pain. Metformin {n} mg PO BID. Mother had stroke in 1998.\n"


def _jsonl(path: Path, count: int, repeat: int = 1) -> None:
    with open(path, "w") as file:
        for number in range(count):
            file.write(json.dumps({"id": f"n{number}", "text": NOTE.format(n=number) * repeat}) + "\n")


def _rows(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def test_jsonl_gives_a_line_a_note_in_order(run: Any) -> None:
    _jsonl(run.work / "n.jsonl", 700)
    done = run(*NER, "--input", "n.jsonl", "--format", "jsonl", "--workers", "2")
    rows = _rows(done.stdout)
    assert [row["id"] for row in rows] == [f"n{number}" for number in range(700)]
    assert all("hypertension" in str(row["entities"]) for row in rows)
    assert "700 notes" in done.stderr
    alone = run(*NER, "--input", "n.jsonl", "--format", "jsonl", "--workers", "1")
    assert alone.stdout == done.stdout


def test_a_batch_gives_what_one_note_gives(run: Any) -> None:
    (run.work / "a.txt").write_text(NOTE.format(n=500))
    (run.work / "b.txt").write_text("no fever")
    one = json.loads(run(*NER, "--input", "a.txt", "--json-out").stdout)
    both = _rows(run(*NER, "--input", "a.txt", "--input", "b.txt").stdout)
    assert [row["id"] for row in both] == ["a.txt", "b.txt"]
    assert both[0]["entities"] == one["entities"]


def test_folders_globs_and_pdf_free_names(run: Any) -> None:
    folder = run.work / "notes"
    (folder / "deep").mkdir(parents=True)
    for name in ("b.txt", "a.txt", "deep/c.md", ".hidden.txt", "x.bin"):
        (folder / name).write_text("HTN")
    found = [row["id"] for row in _rows(run(*NER, "--input", "notes").stdout)]
    assert found == ["notes/a.txt", "notes/b.txt", "notes/deep/c.md"]
    assert [row["id"] for row in _rows(run(*NER, "--input", "notes/*.txt").stdout)] == [
        "notes/a.txt",
        "notes/b.txt",
    ]
    assert "no file matches" in run(*NER, "--input", "notes/*.rtf").stderr


def test_piped_jsonl(run: Any) -> None:
    done = run(
        *NER,
        "--input-format",
        "jsonl",
        "--format",
        "jsonl",
        input='{"id": 1, "text": "HTN"}\n\n{"id": 2, "text": "DM"}',
    )
    assert [row["id"] for row in _rows(done.stdout)] == ["1", "2"]


def test_a_bad_note_stops_no_other(run: Any) -> None:
    (run.work / "n.jsonl").write_text('{"id": 1, "text": "HTN"}\n{"text": 3}\nnonsense\n{"id": 4, "text": "DM"}\n')
    done = run(*NER, "--input", "n.jsonl", "--output", "out.jsonl")
    assert done.returncode == 1
    assert "n.jsonl, line 2: expected an object with a string 'text'" in done.stderr
    assert "n.jsonl, line 3: not JSON" in done.stderr
    rows = _rows((run.work / "out.jsonl").read_text())
    assert [row["id"] for row in rows] == ["1", "n.jsonl:2", "n.jsonl:3", "4"]
    assert "error" in rows[1]
    assert rows[3]["entities"]


def test_csv_and_fhir_of_many(run: Any) -> None:
    _jsonl(run.work / "n.jsonl", 3)
    table = list(csv.DictReader(io.StringIO(run(*NER, "--input", "n.jsonl", "--format", "csv").stdout)))
    assert {row["id"] for row in table} == {"n0", "n1", "n2"}
    bundles = _rows(run(*NER, "--input", "n.jsonl", "--format", "fhir").stdout)
    assert [bundle["resourceType"] for bundle in bundles] == ["Bundle"] * 3
    assert run(*NER, "--input", "n.jsonl", "--format", "table").returncode == 2


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return b""


@pytest.mark.parametrize("end", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_an_ended_run_goes_on_where_it_was(run: Any, end: signal.Signals) -> None:
    work: Path = run.work
    _jsonl(work / "n.jsonl", 1500, repeat=10)
    command = [sys.executable, "-m", "medvllm.cli", *NER, "--input", "n.jsonl", "--workers", "2"]
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path), MEDVLLM_HOME=str(work / "home"))
    whole = subprocess.run(command, cwd=work, env=environment, capture_output=True, check=True).stdout
    assert whole.count(b"\n") == 1500
    resumed = 0
    for attempt in range(4):
        process = subprocess.Popen(
            [*command, "--output", "out.jsonl"], cwd=work, env=environment, stderr=subprocess.PIPE
        )
        state = work / "out.jsonl.state"
        before = _content(state)
        while process.poll() is None and (not state.exists() or _content(state) == before):
            time.sleep(0.02)
        if process.poll() is None and attempt < 3:
            process.send_signal(end)
        assert process.stderr is not None
        errors = process.stderr.read()
        resumed += b"Going on after" in errors
        process.wait()
        assert process.returncode == 130 or b"interrupted after" not in errors
        if (work / "out.jsonl").exists():
            break
    assert resumed >= 1
    assert (work / "out.jsonl").read_bytes() == whole
    assert sorted(path.name for path in work.glob("out*")) == ["out.jsonl"]


def test_other_options_do_not_go_on_with_anothers_output(run: Any) -> None:
    work: Path = run.work
    _jsonl(work / "n.jsonl", 2)
    (work / "out.jsonl.part").write_text("{}\n")
    (work / "out.jsonl.state").write_text('{"key": "x", "notes": 1, "entities": 0, "bytes": 3}')
    done = run(*NER, "--input", "n.jsonl", "--output", "out.jsonl")
    assert done.returncode == 1
    assert "--restart" in done.stderr
    assert run(*NER, "--input", "n.jsonl", "--output", "out.jsonl", "--restart").returncode == 0
    assert len(_rows((work / "out.jsonl").read_text())) == 2


def test_no_process_is_left_behind_by_a_kill(run: Any) -> None:
    import psutil

    work: Path = run.work
    _jsonl(work / "n.jsonl", 1500, repeat=10)
    command = [
        sys.executable,
        "-m",
        "medvllm.cli",
        *NER,
        "--input",
        "n.jsonl",
        "--workers",
        "2",
        "--output",
        "o.jsonl",
    ]
    process = subprocess.Popen(
        command,
        cwd=work,
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)),
        stderr=subprocess.DEVNULL,
    )
    children: list[psutil.Process] = []
    while not (work / "o.jsonl.state").exists():
        time.sleep(0.05)
        children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []


def test_two_runs_do_not_write_one_output(run: Any) -> None:
    import fcntl

    _jsonl(run.work / "n.jsonl", 2)
    with open(run.work / "o.jsonl.part", "wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        done = run(*NER, "--input", "n.jsonl", "--output", "o.jsonl")
    assert done.returncode == 1
    assert "another run is writing" in done.stderr


def test_a_part_shorter_than_its_state_is_not_gone_on_with(run: Any) -> None:
    work: Path = run.work
    _jsonl(work / "n.jsonl", 3)
    (work / "n.jsonl").write_text((work / "n.jsonl").read_text() + "broken\n")
    run(*NER, "--input", "n.jsonl", "--output", "o.jsonl")
    state = '{"key": "%s", "notes": 1, "entities": 1, "failed": 0, "bytes": 5000}'
    (work / "o.jsonl.part").write_text("short")
    (work / "o.jsonl.state").write_text(state % "other")
    assert "other input or options" in run(*NER, "--input", "n.jsonl", "--output", "o.jsonl").stderr
    (work / "o.jsonl.state").write_bytes(b"\xff")
    assert "is broken; start again with --restart" in run(*NER, "--input", "n.jsonl", "--output", "o.jsonl").stderr


def test_output_never_replaces_the_input_or_a_pipe(run: Any) -> None:
    work: Path = run.work
    _jsonl(work / "n.jsonl", 2)
    before = (work / "n.jsonl").read_bytes()
    done = run(*NER, "--input", "n.jsonl", "--output", "n.jsonl")
    assert done.returncode == 1
    assert "is the input and the output" in done.stderr
    assert (work / "n.jsonl").read_bytes() == before
    (work / "folder").mkdir()
    assert "is a folder; --output needs a file" in run(*NER, "--input", "n.jsonl", "--output", "folder").stderr
    assert "there is no folder" in run(*NER, "--input", "n.jsonl", "--output", "no/o.jsonl").stderr
    os.mkfifo(work / "pipe")
    reader = os.open(work / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    assert run(*NER, "--input", "n.jsonl", "--output", "pipe").returncode == 0
    assert os.read(reader, 1 << 20).count(b"\n") == 2
    os.close(reader)
    assert (work / "pipe").is_fifo()


def test_a_link_stays_a_link_and_a_private_file_private(run: Any) -> None:
    work: Path = run.work
    _jsonl(work / "n.jsonl", 2)
    (work / "real").write_text("old")
    (work / "real").chmod(0o600)
    (work / "link").symlink_to("real")
    assert run(*NER, "--input", "n.jsonl", "--output", "link").returncode == 0
    assert (work / "link").is_symlink()
    assert len(_rows((work / "real").read_text())) == 2
    assert (work / "real").stat().st_mode & 0o777 == 0o600


def test_streams_of_any_kind_are_no_trouble(run: Any) -> None:
    (run.work / "n.jsonl").write_text('{"id": "é", "text": "HTN"}\n')
    done = run(*NER, "--input", "n.jsonl", PYTHONIOENCODING="ascii", LC_ALL="C")
    assert json.loads(done.stdout)["id"] == "é"
    command = f"{sys.executable} -m medvllm.cli --help >&-; {sys.executable} -m medvllm.cli inference ner <&- 2>&1"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, shell=True, capture_output=True, text=True, env=environment)
    assert "Traceback" not in done.stdout + done.stderr


def test_jsonl_in_another_encoding_and_hostile_json(run: Any) -> None:
    (run.work / "n.jsonl").write_bytes('{"id": 1, "text": "Ménière disease"}\n'.encode("cp1252"))
    done = run(*NER, "--input", "n.jsonl", "--encoding", "windows-1252")
    assert "Ménière disease" in done.stdout
    (run.work / "bad.jsonl").write_text("[" * 100_000 + "\n" + '{"id": ' + "9" * 5000 + "}\n")
    done = run(*NER, "--input", "bad.jsonl")
    assert "2 of 2 notes could not be read" in done.stderr
    assert "Traceback" not in done.stderr
