"""Imports of release files and CSV lists: content, errors with their place, and going on after a kill."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medvllm.errors import MedvllmError
from medvllm.ontology.importer import Progress, import_csv, import_rrf
from medvllm.ontology.store import OntologyStore


def conso_row(
    concept: str,
    text: str,
    *,
    sab: str = "MTH",
    tty: str = "PN",
    code: str = "NOCODE",
    language: str = "ENG",
    preferred: bool = False,
    suppress: str = "N",
) -> str:
    """One line of MRCONSO.RRF, with the separator that ends a line there."""
    status = ("P", "PF", "Y") if preferred else ("S", "VO", "N")
    fields = [concept, language, status[0], "L0", status[1], "S0", status[2], "A0", "", "", "", sab, tty, code, text]
    return "|".join([*fields, "0", suppress, "256"]) + "|\n"


def write_conso(path: Path, rows: list[str]) -> Path:
    """Write the rows and return the path."""
    path.write_text("".join(rows), encoding="utf-8")
    return path


def write_types(path: Path, types: dict[str, str]) -> None:
    """Write MRSTY.RRF: concept -> semantic type identifier."""
    path.write_text("".join(f"{cui}|{tui}|A1|name|AT1||\n" for cui, tui in types.items()), encoding="utf-8")


_HEADS = ("syndrome", "neoplasm", "disease", "injury", "deficiency", "infection", "atrophy", "stenosis")
_ADJECTIVES = ("acute", "chronic", "familial", "benign", "recurrent", "bilateral", "primary", "secondary")


def write_large(folder: Path, rows: int, *, per_concept: int = 4) -> Path:
    """MRCONSO.RRF and MRSTY.RRF with `rows` rows of made-up terms; returns the path of MRCONSO.RRF."""
    path = folder / "MRCONSO.RRF"
    with open(path, "w", encoding="utf-8") as conso, open(folder / "MRSTY.RRF", "w", encoding="utf-8") as types:
        for number in range(rows):
            concept = f"C{number // per_concept:07d}"
            which = number % per_concept
            if which == 0:
                types.write(f"{concept}|T047|B2.2.1.2.1|Disease or Syndrome|AT1||\n")
            word = _word(number // per_concept)
            text = f"{_ADJECTIVES[which % 8]} {word} {_HEADS[number // 3 % 8]} {which if which > 2 else ''}".strip()
            sab, code = ("MSH", f"D{number:09d}") if which == 1 else ("SNOMEDCT_US", f"{number + 10_000_000}")
            conso.write(conso_row(concept, text, sab=sab, tty="PT", code=code, preferred=which == 0))
    return path


def _word(number: int) -> str:
    letters = []
    for place in range(6):
        letters.append(("bdfgklmnprstvz" if place % 2 == 0 else "aeiouy")[number % (14 if place % 2 == 0 else 6)])
        number //= 14 if place % 2 == 0 else 6
    return "".join(letters) + "itis"


def files_of(folder: Path) -> dict[str, str]:
    """File name -> sha256 of every file in a store."""
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir())}


@pytest.fixture
def umls(tmp_path: Path) -> Path:
    """A small MRCONSO.RRF with MRSTY.RRF beside it."""
    rows = [
        conso_row("C0020538", "Hypertension", preferred=True, sab="MSH", tty="MH", code="D006973"),
        conso_row("C0020538", "Hypertensive disorder", sab="SNOMEDCT_US", tty="PT", code="38341003"),
        conso_row("C0020538", "HTN", sab="SNOMEDCT_US", tty="SY", code="38341003"),
        conso_row("C0020538", "Bluthochdruck", language="GER", sab="MSHGER", tty="MH", code="D006973"),
        conso_row("C0025598", "Metformin", preferred=True, sab="MSH", tty="MH", code="D008687"),
        conso_row("C0025598", "metformin", sab="RXNORM", tty="IN", code="6809"),
        conso_row("C0000893", "Metformin hydrochloride", preferred=True, sab="MSH", tty="PM", code="D008687"),
        conso_row("C9999999", "withdrawn term", preferred=True, suppress="O"),
        conso_row("C0221198", "Finding of skin", preferred=True),
    ]
    write_types(tmp_path / "MRSTY.RRF", {"C0020538": "T047", "C0025598": "T121", "C0221198": "T033"})
    return write_conso(tmp_path / "MRCONSO.RRF", rows)


def test_concepts_types_and_codes(umls: Path, tmp_path: Path) -> None:
    counts = import_rrf(umls, tmp_path / "out")
    store = OntologyStore.open(tmp_path / "out")
    assert counts["concepts"] == 4
    assert [link.code for link in store.links("htn")] == ["C0020538"]
    found = [(start, end, store.term_type(payload)) for start, end, payload in store.find("Metformin for Hypertension")]
    assert found == [(0, 9, "medication"), (14, 26, "condition")]
    concept = store.lookup("hypertensive disorder")[0].concept
    assert concept.xrefs == {"MESH": ["D006973"], "SNOMED": ["38341003"], "UMLS": ["C0020538"]}
    assert store.links("withdrawn term") == []
    assert store.links("Bluthochdruck") == []
    assert store.find("a finding of skin") == [], "findings are linked, not found in text"


def test_languages_and_sources_are_chosen(umls: Path, tmp_path: Path) -> None:
    import_rrf(umls, tmp_path / "german", languages=("GER",))
    assert [link.code for link in OntologyStore.open(tmp_path / "german").links("bluthochdruck")] == ["C0020538"]
    import_rrf(umls, tmp_path / "rxnorm", sabs=("RXNORM",))
    store = OntologyStore.open(tmp_path / "rxnorm")
    assert store.links("hypertension") == []
    assert [link.code for link in store.links("metformin", ontology="RXNORM")] == ["6809"]


def test_the_main_heading_owns_a_shared_code(umls: Path, tmp_path: Path) -> None:
    """MeSH D008687 is a code of metformin and of its hydrochloride: the descriptor means metformin."""
    import_rrf(umls, tmp_path / "out")
    assert OntologyStore.open(tmp_path / "out").lookup("MESH:D008687")[0].concept.code == "C0025598"


def test_rxnorm_concepts_are_medications(tmp_path: Path) -> None:
    row = conso_row("6809", "metformin", sab="RXNORM", tty="IN", code="6809")
    import_rrf(write_conso(tmp_path / "RXNCONSO.RRF", [row]), tmp_path / "out")
    store = OntologyStore.open(tmp_path / "out")
    (match,) = store.find("on Metformin daily")
    assert store.term_type(match[2]) == "medication"
    assert [(link.ontology, link.code) for link in store.links("metformin", ontology="RXNORM")] == [("RXNORM", "6809")]


def test_progress_reaches_the_end(umls: Path, tmp_path: Path) -> None:
    seen: list[Progress] = []
    import_rrf(umls, tmp_path / "out", progress=seen.append)
    assert seen[-1].done_bytes == seen[-1].total_bytes > 0
    assert [entry.done_bytes for entry in seen] == sorted(entry.done_bytes for entry in seen)


def test_a_malformed_line_is_named(tmp_path: Path) -> None:
    rows = [conso_row("C0000001", "one"), "C0000002|ENG|three fields\n"]
    path = write_conso(tmp_path / "MRCONSO.RRF", rows)
    with pytest.raises(MedvllmError, match=r"MRCONSO\.RRF:2: expected 18 fields between \|, got 3"):
        import_rrf(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_changed_file_is_not_mixed_with_what_was_staged(tmp_path: Path) -> None:
    path = write_conso(tmp_path / "MRCONSO.RRF", [conso_row("C0000001", "one"), "broken\n"])
    with pytest.raises(MedvllmError, match="expected 18 fields"):
        import_rrf(path, tmp_path / "out")
    write_types(tmp_path / "MRSTY.RRF", {"C0000001": "T047"})
    write_conso(path, [conso_row("C0000001", "one")])
    import_rrf(path, tmp_path / "out")
    assert OntologyStore.open(tmp_path / "out").links("one")


_CHILD = """
import sys
from medvllm.ontology.importer import import_rrf
import_rrf(sys.argv[1], sys.argv[2], progress=lambda step: print(step.done_bytes, flush=True))
"""


@pytest.mark.parametrize("batches", [1, 3])
def test_a_killed_import_goes_on_and_gives_the_same_store(tmp_path: Path, batches: int) -> None:
    path = write_large(tmp_path, 60_000)
    straight: list[Progress] = []
    import_rrf(path, tmp_path / "straight", progress=straight.append)
    output = tmp_path / "killed"
    command = [sys.executable, "-c", _CHILD, str(path), str(output)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert child.stdout is not None
    for _ in range(batches):
        assert child.stdout.readline()
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert not output.exists()
    rest: list[Progress] = []
    import_rrf(path, output, progress=rest.append)
    assert files_of(output) == files_of(tmp_path / "straight")
    assert len(rest) < len(straight), "what was staged before the kill is not read again"
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.endswith(".import")] == []


def test_killed_while_writing(tmp_path: Path) -> None:
    """A kill after everything was staged: the next run only writes."""
    path = write_large(tmp_path, 60_000)
    import_rrf(path, tmp_path / "straight")
    output = tmp_path / "killed"
    command = [sys.executable, "-c", _CHILD, str(path), str(output)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
    store = tmp_path / ".killed.import" / "store"
    deadline = time.monotonic() + 60
    while not store.exists() and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    child.kill()
    child.wait()
    import_rrf(path, output)
    assert files_of(output) == files_of(tmp_path / "straight")


def write_csv(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_csv_terms_are_found_and_linked(tmp_path: Path) -> None:
    text = "term,code,vocabulary,type,name\nFoo fever,L1,local,condition,Foo fever\nFF,L1,local,condition,\n"
    text += "bar,L2,local,,\n"
    import_csv(write_csv(tmp_path / "own.csv", text), tmp_path / "out")
    store = OntologyStore.open(tmp_path / "out")
    assert [(start, end) for start, end, _ in store.find("had foo fever, FF not ff, bar")] == [(4, 13), (15, 17)]
    assert [(link.code, link.name) for link in store.links("FF", ontology="ALL")] == [("L1", "Foo fever")]
    assert [link.code for link in store.links("bar", ontology="ALL")] == ["L2"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("term,code\na,b\n", r":1:vocabulary: the column is missing"),
        ("term,code,vocabulary,colour\n", r":1:colour: unknown column"),
        ("term,code,vocabulary\nx,,UMLS\n", r":2:code: empty"),
        ("term,code,vocabulary\na,1,X\n--,2,X\n", r":3:term: '--' has no letter or digit"),
        ("term,code,vocabulary,type\na,1,X,disease\n", r":2:type: unknown type 'disease'; use one of condition"),
        ("term,code,vocabulary\na,1,X,y\n", r":2: more values than columns"),
        ("term,code,vocabulary,type,name\na,1,X,,A\nb,1,X,,B\n", r":3:name: X 1 is named 'A' above and 'B' here"),
        ('term,code,vocabulary\n"a,1,X\n', r"expected comma-separated values"),
    ],
)
def test_csv_errors_name_their_place(tmp_path: Path, text: str, message: str) -> None:
    path = write_csv(tmp_path / "own.csv", text)
    with pytest.raises(MedvllmError, match=message) as caught:
        import_csv(path, tmp_path / "out")
    assert str(caught.value).startswith(str(path))
    assert not (tmp_path / "out").exists()


def test_an_import_replaces_the_store_of_that_name(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "own.csv", "term,code,vocabulary\nfoo,1,X\n")
    import_csv(path, tmp_path / "out")
    write_csv(path, "term,code,vocabulary\nbar,2,X\n")
    import_csv(path, tmp_path / "out")
    store = OntologyStore.open(tmp_path / "out")
    assert store.links("foo", ontology="ALL") == []
    assert [link.code for link in store.links("bar", ontology="ALL")] == ["2"]


_MEASURE = """
import resource, sys, time
from medvllm.ontology.importer import import_rrf
begun = time.monotonic()
counts = import_rrf(sys.argv[1], sys.argv[2])
print(time.monotonic() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, counts["terms"])
"""


@pytest.mark.slow
def test_five_million_rows_in_bounded_memory(tmp_path: Path) -> None:
    """Prints seconds, peak MiB and terms (run with -s); the bound on memory is what users' machines have to spare."""
    path = write_large(tmp_path, 5_000_000)
    command = [sys.executable, "-c", _MEASURE, str(path), str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    seconds, peak_mib, terms = (float(value) for value in done.stdout.split())
    print(f"5,000,000 rows: {seconds:.0f} s, peak {peak_mib:.0f} MiB, {terms:,.0f} terms")
    assert peak_mib < 500


def test_nothing_taken_is_an_error_and_leaves_nothing(umls: Path, tmp_path: Path) -> None:
    with pytest.raises(MedvllmError, match=r"MRCONSO.RRF holds no term of language FRE and source MSH; nothing was"):
        import_rrf(umls, tmp_path / "stores" / "out", languages=("FRE",), sabs=("MSH",))
    assert [path.name for path in (tmp_path / "stores").iterdir()] == [".out.lock"]
    with pytest.raises(MedvllmError, match=r"a folder; expected MRCONSO.RRF"):
        import_rrf(tmp_path, tmp_path / "out")
