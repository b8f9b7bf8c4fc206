"""Notes as they come: encodings, byte order marks, PDF, JSONL; what can't be read says why."""

from __future__ import annotations

from pathlib import Path

import pytest

from medvllm.errors import MedvllmError
from medvllm.utils.documents import decode, jsonl_note, read_note


def _pdf(text: str) -> bytes:
    """A one-page PDF with that text."""
    stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET".encode()
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R "
        b"/Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    out = b"%PDF-1.4\n"
    places = []
    for number, content in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    return (
        out
        + b"xref\n0 6\n0000000000 65535 f \n"
        + table
        + b"trailer << /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % len(out)
    )


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_marked_encodings_are_recognised(codec: str) -> None:
    text = "Ménière’s disease\r\n\tT 38 °C"
    assert decode(text.encode(codec), "note") == text


def test_a_named_encoding_is_used() -> None:
    assert decode("Ménière".encode("cp1252"), "note", "windows-1252") == "Ménière"
    assert decode("HTN".encode("utf-16-le"), "note", "utf-16-le") == "HTN"


@pytest.mark.parametrize(
    ("data", "encoding", "message"),
    [
        (b"\xe9t\xe9", None, "not valid UTF-8 at byte 0; name its encoding"),
        (b"abc\xff", "ascii", "not valid ascii at byte 3"),
        (b"abc", "utf-99", "unknown encoding 'utf-99'"),
        (b"\x1f\x8b\x08\x00\xff", None, "a gzip file, not text"),
        (b"PK\x03\x04\xff", None, "a zip or Office file, not text"),
        (b"\xff\xfe", None, "is empty"),
    ],
)
def test_what_is_no_text_is_refused(data: bytes, encoding: str | None, message: str) -> None:
    with pytest.raises(MedvllmError, match=message):
        decode(data, "note", encoding)


def test_pdf_by_extension_and_by_option(tmp_path: Path) -> None:
    (tmp_path / "note.pdf").write_bytes(_pdf("Patient with HTN."))
    (tmp_path / "note.dat").write_bytes(_pdf("Patient with HTN."))
    assert read_note(tmp_path / "note.pdf").strip() == "Patient with HTN."
    assert read_note(tmp_path / "note.dat", input_format="pdf").strip() == "Patient with HTN."


def test_pdf_without_text_says_so(tmp_path: Path) -> None:
    (tmp_path / "scan.pdf").write_bytes(_pdf(""))
    with pytest.raises(MedvllmError, match="holds no text"):
        read_note(tmp_path / "scan.pdf")


def test_jsonl_line_errors_name_the_line() -> None:
    assert jsonl_note(b'{"id": 7, "text": "x"}', "f", 1) == ("7", "x")
    assert jsonl_note(b'{"text": "x"}', "f", 3) == ("3", "x")
    for line, message in [
        (b"{", "f, line 2: not JSON"),
        (b'{"id": 1}', "f, line 2: expected an object with a string 'text'"),
        (b'{"id": [], "text": ""}', "f, line 2: 'id' must be"),
        (b'{"text": "\xff"}', "f, line 2: not valid UTF-8"),
    ]:
        with pytest.raises(MedvllmError, match=message):
            jsonl_note(line, "f", 2)
