"""The report says what is in the text, not what was asked for."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from medvllm.tasks.generation.options import GenerationOptions, Style
from medvllm.tasks.generation.readability import scores
from medvllm.tasks.generation.report import Ending, constraints_report, factual_report
from medvllm.tasks.generation.structure import structure_report

EASY = "Salt can raise your blood pressure. Eat less salt. Walk a bit each day. Ask us if you feel ill."
HARD = (
    "Pharmacological antihypertensive intervention necessitates individualised consideration of cardiovascular "
    "comorbidities, pathophysiological heterogeneity and contraindications to angiotensin-converting enzyme inhibition."
)
STOP = Ending("stop")


def report(text: str, **given: Any) -> dict[str, Any]:
    return constraints_report("Explain hypertension.", text, GenerationOptions(**given), STOP)


def test_lengths_are_measured_on_the_text() -> None:
    options = GenerationOptions(target_words=20, target_chars=300)
    text = EASY + options.disclaimer_text
    found = constraints_report("Explain hypertension.", text, options, STOP)
    assert found["words"] == {"requested": 20, "achieved": 20, "met": True}, "the disclaimer's words are not the text's"
    assert found["characters"] == {"requested": 300, "achieved": len(text), "met": True}
    assert found["disclaimer"] == {"requested": True, "added": True}
    assert report(EASY)["disclaimer"] == {"requested": True, "added": False}
    assert report(EASY, target_words=40)["words"]["met"] is False
    assert report(EASY, target_chars=50, disclaimer=False)["characters"]["met"] is False
    assert report(EASY)["words"] == {"requested": None, "achieved": 20, "met": None}


def test_truncation() -> None:
    options = GenerationOptions()
    for ending, truncated in ((STOP, False), (Ending("length"), True), (Ending("target_words", "sentence", 7), True)):
        found = constraints_report("x", EASY, options, ending)["truncation"]
        assert found["truncated"] is truncated
        assert found["reason"] == ending.reason
        assert found["words_left_out"] == ending.words_left_out


def test_readability_is_of_the_text_against_the_audience() -> None:
    assert report(EASY, style=Style(readability="simple"))["readability"]["met"] is True
    assert report(HARD, style=Style(readability="general"))["readability"]["met"] is False
    assert report(HARD, style=Style(readability="professional"))["readability"]["met"] is True
    assert report(EASY, style=Style(readability="professional"))["readability"]["met"] is False
    assert report(EASY)["readability"]["met"] is None
    assert report("...")["readability"].keys() == {"requested", "requested_grade", "met"}


def test_readability_agrees_with_counts_by_hand() -> None:
    """18 words of 19 syllables (ta-ble has two) in 3 sentences."""
    text = "The cat sat on the mat. It saw a red table there. The bird sang for ten days."
    assert len(text.split()) == 18
    values = scores(text)
    assert values is not None
    assert values["flesch_reading_ease"] == pytest.approx(206.835 - 1.015 * 6 - 84.6 * 19 / 18, abs=0.05)
    assert values["flesch_kincaid_grade"] == pytest.approx(0.39 * 6 + 11.8 * 19 / 18 - 15.59, abs=0.05)
    assert values["gunning_fog"] == pytest.approx(0.4 * 6, abs=0.05)
    assert values["smog_index"] == pytest.approx(3.1291, abs=0.05)
    letters = sum(character.isalpha() for character in text)
    assert values["automated_readability_index"] == pytest.approx(4.71 * letters / 18 + 0.5 * 6 - 21.43, abs=0.05)
    assert values["coleman_liau_index"] == pytest.approx(5.88 * letters / 18 - 29.6 * 3 / 18 - 15.8, abs=0.05)
    assert scores("# The\n\n- The cat sat on the **mat**.\n") is not None
    assert scores("") is None


def test_readability_reaches_for_no_network() -> None:
    program = (
        "import socket\n"
        "def no(*a, **k): raise SystemExit('network')\n"
        "socket.socket.connect = socket.getaddrinfo = no\n"
        "from medvllm.tasks.generation.readability import scores\n"
        "print(scores('Salt raises your blood pressure.'))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=_environment())
    assert done.returncode == 0, done.stderr
    assert "flesch_kincaid_grade" in done.stdout


def _environment() -> dict[str, str]:
    import os

    return os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ("paragraph", EASY),
        ("paragraphs", f"{EASY}\n\n{EASY}"),
        ("bullets", "Do this:\n\n- Eat less salt\n- Walk\n"),
        ("bullets", "• Eat less salt\n• Walk"),
        ("steps", "1. Eat less salt\n2. Walk"),
        ("soap", "Subjective: pain.\nObjective: BP 150/90.\nAssessment: HTN.\nPlan: lisinopril."),
        ("soap", "**Subjective:** pain\n\n**Objective:** none\n\n**Assessment:** HTN\n\n**Plan:** walk"),
        ("soap", "S: pain\nO: none\nA: HTN\nP: walk"),
        ("sections", "# Causes\n\nSalt.\n\n# Treatment\n\nWalk."),
        ("qa", "Q: What is it?\nA: High blood pressure."),
    ],
)
def test_structure_asked_for_is_recognised(asked: str, text: str) -> None:
    assert structure_report(text, asked)["met"] is True


def test_structure_that_is_not_there_is_not_met() -> None:
    for asked in ("paragraphs", "bullets", "steps", "soap", "sections", "qa"):
        assert structure_report(EASY, asked)["met"] is False, asked
    assert structure_report("- one\n- two\n", "paragraph")["met"] is False
    assert structure_report("Subjective: pain.\nPlan: walk.", "soap")["found"]["soap_headings"] == [
        "subjective",
        "plan",
    ]


def test_faults_of_the_original() -> None:
    """It wrote "Take 1\\1 mg daily", left John Smith, and called a platelet count an identifier."""
    found = report("Take 10mg daily. John Smith has a platelet count of 150000.")["hipaa"]
    assert found["name"] == 1
    assert sum(found.values()) == 1


def test_mentions_that_the_input_does_not_hold() -> None:
    from medvllm.tasks import NERProcessor

    found = factual_report(
        "Explain hypertension.",
        "High blood pressure can lead to stroke. Lisinopril lowers it. Hypertension is common.",
        NERProcessor(fast=True),
        unavailable=None,
    )
    assert found["checked"] is True
    texts = {mention["text"] for mention in found["unsupported"]}
    assert {"stroke", "Lisinopril"} <= texts
    assert not texts & {"High blood pressure", "Hypertension"}, "the input's concept under another name"
    assert found["mentions"] == 3
    assert found["linked"] == 3
    assert factual_report("a", "b", None, unavailable="no store") == {"checked": False, "reason": "no store"}


def test_abbreviations() -> None:
    found = report("Myocardial infarction (MI) is not an AMI. MI hurts.")["abbreviations"]
    assert found == {"expanded": ["MI"], "unexpanded": ["AMI"]}
