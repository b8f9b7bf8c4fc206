"""Notes as they come: encodings, broken lines, repeated ids, a full disk; each in one line, and nothing is lost."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

NER = ("inference", "ner")


def _rows(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_folder_of_mixed_encodings(run: Any) -> None:
    folder: Path = run.work / "notes"
    folder.mkdir()
    (folder / "a.txt").write_bytes("Ménière disease\r\n".encode("cp1252"))
    (folder / "b.txt").write_bytes("Ménière disease".encode("utf-16"))
    (folder / "c.txt").write_bytes("Ménière disease".encode("utf-8-sig"))
    (folder / "d.txt").write_bytes(b"fever\x00cough")
    (folder / "e.txt").symlink_to("nothing")
    (folder / "f.txt").write_bytes(b"")
    done = run(*NER, "--input", "notes", "--encoding", "windows-1252", "--no-link")
    assert done.returncode == 1
    rows = _rows(done.stdout)
    assert [row["id"] for row in rows] == [f"notes/{name}.txt" for name in "abcdef"]
    for row in rows[:3]:
        assert "Ménière disease" in [entity["text"] for entity in row["entities"]], row
    assert [row["error"].split("; ")[0] for row in rows[4:]] == [
        "there is no file notes/e.txt",
        "notes/f.txt is empty",
    ]
    errors = done.stderr.splitlines()
    assert errors[-1] == "Error: 2 of 6 notes could not be read; the others are done"
    assert len(errors) == 4


def test_json_lines_as_they_come(run: Any) -> None:
    lines = [
        '\ufeff{"id": "n", "text": "HTN.\\r\\nNo fever"}\r',
        '{"id": "n", "text": "HTN"}\r',
        '{"id": null, "text": "\\u0000HTN"}\r',
        '{"id": 1.5, "text": "HTN"}\r',
        "\r",
        '{"id": "cut", "text": "HT\r',
        '{"id": [1], "text": "HTN"}\r',
        json.dumps({"id": "long", "text": "word " * 200_000 + "HTN"}),
    ]
    (run.work / "n.jsonl").write_text("\n".join(lines), encoding="utf-8")
    done = run(*NER, "--input", "n.jsonl", "--output", "o.jsonl")
    assert done.returncode == 1
    rows = _rows((run.work / "o.jsonl").read_text())
    assert [row["id"] for row in rows] == ["n", "n", "3", "1.5", "n.jsonl:6", "n.jsonl:7", "long"]
    assert [[entity["text"] for entity in row.get("entities", [])][:1] for row in rows] == [
        *([["HTN"]] * 4),
        [],
        [],
        ["HTN"],
    ]
    assert "n.jsonl, line 6: not JSON" in done.stderr
    assert "n.jsonl, line 7: 'id' must be a string or a number, got [1]" in done.stderr


def test_a_full_disk_then_more_room(run: Any) -> None:
    """A limit on the size of files stands for the full disk: the write fails in the same way."""
    work: Path = run.work
    with open(work / "n.jsonl", "w") as file:
        for number in range(1200):
            file.write(json.dumps({"id": number, "text": f"Patient {number} has hypertension, no fever. " * 4}) + "\n")
    command = [sys.executable, "-m", "medvllm.cli", *NER, "--input", "n.jsonl", "--fast", "--workers", "1"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "MEDVLLM_HOME": str(work / "home")}
    whole = subprocess.run(command, cwd=work, env=environment, capture_output=True, check=True).stdout
    command += ["--output", "o.jsonl"]
    limit = len(whole) // 2
    full = subprocess.run(
        command,
        cwd=work,
        env=environment,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert full.returncode == 1
    assert full.stderr.count("\n") == 1, full.stderr
    assert not (work / "o.jsonl").exists()
    subprocess.run(command, cwd=work, env=environment, capture_output=True, check=True)
    assert (work / "o.jsonl").read_bytes() == whole


def test_the_summary_counts_one_as_one_and_times_no_tiny_run(run: Any) -> None:
    done = run("inference", "ner", "--input-format", "jsonl", input='{"text": "HTN"}\n')
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("1 note, 1 entity (")
    assert "MB/s" not in done.stderr
