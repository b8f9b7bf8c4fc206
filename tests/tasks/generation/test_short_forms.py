"""Short forms of a prompt are written out where they mean one thing, and left alone elsewhere."""

from __future__ import annotations

import pytest

from medvllm.tasks.generation.short_forms import expand_short_forms


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("Explain HTN.", "Explain hypertension (HTN)."),
        ("UTI", "urinary tract infections (UTI)"),
        (
            "CHF/HTN: in HTN, why NHL?",
            "congestive heart failure (CHF)/hypertension (HTN): in HTN, why non-Hodgkin lymphoma (NHL)?",
        ),
    ],
)
def test_the_first_place_of_each_is_written_out(text: str, expanded: str) -> None:
    found, forms = expand_short_forms(text)
    assert found == expanded
    assert all(f"{long} ({short})" in found for short, long in forms.items())
    assert found.count("(") == len(forms)


@pytest.mark.parametrize(
    "text",
    [
        "Explain hypertension (HTN), and HTN in pregnancy.",
        "Explain HTN (hypertension).",
        "Hypertension is common. Explain HTN.",
        "EXPLAIN HTN TO A PATIENT",
        "Explain PT and AI.",
        "ALL patients in the USA, by ICD-10",
        "See docs/notes.HTN and HTN-2.",
        "Explain xyz to Htn.",
    ],
)
def test_what_is_defined_ambiguous_or_no_short_form_stays(text: str) -> None:
    assert expand_short_forms(text) == (text, {})
