from __future__ import annotations

from medvllm.tasks.entities import Entity, OntologyLink
from medvllm.tasks.formats import Document, render
from medvllm.tasks.formats.plain import display_width, wrap
from medvllm.tasks.formats.table import to_table

HTN = Entity("HTN", "condition", 10, 13, 0.92, [OntologyLink("UMLS", "C0020538", "Hypertension", 0.91)])
DOCUMENTED = """\
┏━━━━━━━━━━┳━━━━━━━━━━━┳━━━━━━┳━━━━━━━━━━━━━━━┓
┃ Text     ┃ Type      ┃ Span ┃ Link (top)    ┃
┡━━━━━━━━━━╇━━━━━━━━━━━╇━━━━━━╇━━━━━━━━━━━━━━━┩
│ HTN      │ CONDITION │ 10–13│ UMLS:C0020538 │
└──────────┴───────────┴──────┴───────────────┘"""


def rows(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in table.splitlines() if line[0] == "│"]


def test_one_entity_is_byte_for_byte_the_documented_table() -> None:
    assert to_table([HTN]) == DOCUMENTED
    assert render([Document("a", "", [HTN])], "table") == DOCUMENTED


def test_no_entities_is_one_line() -> None:
    assert to_table([]) == "No entities found."


def test_every_line_of_a_wider_table_has_the_same_width() -> None:
    long = Entity("diabetes mellitus", "anatomical_structure", 12345, 12362, None, [])
    short = Entity("DM", "condition", 0, 2, None, [OntologyLink("MESH", "D003920", "Diabetes Mellitus", 1.0)])
    lines = to_table([long, short]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert "│ diabetes mellitus │ ANATOMICAL_STRUCTURE │ 12345–12362│ -            │" in lines
    assert "│ DM                │ CONDITION            │ 0–2        │ MESH:D003920 │" in lines


def test_links_column_is_left_out_when_linking_was_off() -> None:
    table = to_table([Entity("HTN", "condition", 0, 3)])
    assert "Link" not in table
    assert rows(table) == [["HTN", "CONDITION", "0–3"]]


def test_assertion_column_appears_only_when_something_is_not_plain() -> None:
    assert "Assertion" not in to_table([HTN])
    stroke = Entity("stroke", "condition", 0, 6, negation="possible", temporality="historical", experiencer="family")
    table = to_table([HTN, stroke])
    assert "┃ Assertion " in table
    assert [row[3] for row in rows(table)] == ["", "possible, historical, family"]


def test_control_characters_cannot_reach_the_terminal() -> None:
    nasty = "a\x1b[31mb\nc\td\x9be\x00f\r\ng\u202eh\u2028i\ud800"
    table = to_table([Entity(nasty, "condition\x1b[2J", 0, len(nasty), None, [OntologyLink("U\x07", "C\n1", "", 1)])])
    assert all(char == "\n" or char.isprintable() for char in table)
    assert "a [31mb c d e f g" in table
    assert table.count("\n") == 4
    table.encode("utf-8")


def test_wide_and_combining_characters_keep_the_columns_straight() -> None:
    entities = [Entity(text, "condition", 0, 1) for text in ("高血圧症です", "cafe\u0301 au lait", "plain")]
    lines = to_table(entities).splitlines()
    assert len({display_width(line) for line in lines}) == 1
    assert display_width("高血圧") == 6
    assert display_width("e\u0301") == 1


def test_long_text_is_wrapped_to_the_terminal_and_nothing_is_lost() -> None:
    text = "acute on chronic systolic congestive heart failure with " + "x" * 70
    table = to_table([Entity(text, "condition", 0, 126, None, []), HTN], width=80)
    lines = table.splitlines()
    assert {len(line) for line in lines} == {80}
    words = " ".join(row[0] for row in rows(table))
    assert words.replace(" ", "") == (text + "HTN").replace(" ", "")
    assert [row[1] for row in rows(table) if row[1]] == ["CONDITION", "CONDITION"]


def test_a_narrow_terminal_keeps_the_text_readable() -> None:
    table = to_table([Entity("hypertension", "condition", 0, 12, None, [])], width=10)
    assert rows(table)[0][0] == "hyperten"
    assert rows(table)[1][0] == "sion"


def test_wrap_breaks_at_spaces_and_inside_wide_words() -> None:
    assert wrap("one two three", 7) == ["one two", "three"]
    assert wrap("漢字漢字漢", 5) == ["漢字", "漢字", "漢"]
    assert wrap("", 5) == [""]


def test_several_documents_are_headed_by_their_ids() -> None:
    text = render([Document("a\x1b.txt", "", [HTN]), Document("b", "", [])], "table")
    assert text == f"a .txt\n{DOCUMENTED}\n\nb\nNo entities found."
