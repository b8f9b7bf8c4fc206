"""Texts end at sentences near a number of words, and within a number of characters."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from medvllm.tasks.generation.length import count_words, cut_to_chars, cut_to_words, settled

# 5, 4, 6 and 3 words
TEXT = "High blood pressure is common. Eat a little less. Take 10mg daily, e.g. after lunch. Call us if"


def test_words_are_what_a_reader_counts() -> None:
    assert count_words("") == 0
    assert count_words("- **Eat** less • salt — 2.3 g/day\n\n##\n") == 5


def test_ends_at_the_sentence_nearest_to_the_target() -> None:
    for target, words in ((1, 5), (5, 5), (6, 5), (7, 5), (8, 9), (12, 9), (13, 15), (99, 15)):
        cut = cut_to_words(TEXT, target, complete=False)
        assert count_words(cut.text) == words, target
        assert cut.text.endswith(".")
        assert cut.at == "sentence"
        assert cut.words_left_out == 18 - words


def test_a_text_that_its_writer_ended_keeps_its_last_words() -> None:
    assert cut_to_words(TEXT, 99, complete=True).text == TEXT
    assert cut_to_words("One two three", 1, complete=False) == ("One two three", None, 0), "nothing else is there"


def test_does_not_end_on_what_announces_more() -> None:
    text = "Salt raises pressure.\n\nWhat to do:\n\n- Eat less salt\n- Walk\n\n## Drugs\n\nThere are many."
    assert cut_to_words(text, 6, complete=True).text == "Salt raises pressure."
    assert cut_to_words(text, 9, complete=True).text.endswith("- Eat less salt")
    assert cut_to_words(text, 11, complete=True).text.endswith("- Walk")
    assert cut_to_words("Try this:\n\n1. Walk\n2.", 3, complete=True).text == "Try this:\n\n1. Walk"


def test_characters_are_a_hard_limit() -> None:
    assert cut_to_chars(TEXT, 1000) == (TEXT, None, 0)
    assert cut_to_chars(TEXT, 60) == ("High blood pressure is common. Eat a little less.", "sentence", 9)
    assert cut_to_chars(TEXT, 20) == ("High blood pressure", "word", 15)
    for limit in range(1, len(TEXT)):
        assert len(cut_to_chars(TEXT, limit).text) <= limit
    assert cut_to_chars("Pneumonoultramicroscopic", 6) == ("Pneumo", "character", 0)


@given(st.text(max_size=300), st.integers(1, 200))
def test_no_text_is_longer_than_its_limit(text: str, limit: int) -> None:
    cut = cut_to_chars(text, limit)
    assert len(cut.text) <= limit
    assert text.startswith(cut.text)


@given(st.integers(1, 30), st.integers(0, len(TEXT)))
def test_what_is_settled_stays_whatever_follows(target: int, seen: int) -> None:
    """Shown while it is written, a text is never taken back, and stopping early changes nothing."""
    stays, enough = settled(TEXT[:seen], target)
    final = cut_to_words(TEXT, target, complete=False).text
    assert final.startswith(TEXT[:stays].rstrip())
    if enough:
        assert TEXT[:stays] == final
