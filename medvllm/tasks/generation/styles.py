"""The known values of --purpose, --readability, --tone, --structure and --specialty, and what each asks of the model.

The wording of every prompt is here and nowhere else; `prompt.py` puts the sentences in order.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import NamedTuple

__all__ = ["PURPOSES", "READABILITY", "SPECIALTIES", "STRUCTURES", "STYLES", "TONES", "Audience"]


class Audience(NamedTuple):
    """What a readability level asks for: an instruction, and the Flesch–Kincaid grades that meet it."""

    instruction: str
    min_grade: float | None
    max_grade: float | None


PURPOSES = MappingProxyType(
    {
        "patient": "You explain medicine to a patient. Speak to the patient as you.",
        "caregiver": "You explain medicine to the family or carer of a patient.",
        "clinician": "You write for a physician. Use precise clinical terms.",
        "nursing": "You write for nurses. Put first what they watch for and do.",
        "student": "You teach medical students. Define each term when you first use it.",
        "summary": "You summarise what you are given. Add nothing that is not in it.",
        "discharge": "You write discharge instructions: what was treated, what to do at home, when to seek help.",
        "referral": "You write a referral letter to a colleague: the question, the findings, the treatment so far.",
        "research": "You write for medical researchers. Say how strong the evidence is.",
    }
)

# Grades: the American Medical Association and the National Institutes of Health ask for the sixth to eighth grade in
# texts for patients; 12 is the last school year.
READABILITY = MappingProxyType(
    {
        "simple": Audience("Use short, easy words and short sentences that a child of eleven understands.", None, 6.0),
        "general": Audience("Use plain everyday words and short sentences. Explain any medical term.", None, 8.0),
        "educated": Audience("Write for an educated reader without medical training.", None, 12.0),
        "professional": Audience("Write for health professionals, in the terms of the field.", 10.0, None),
    }
)

TONES = MappingProxyType(
    {
        "neutral": "Use a neutral tone.",
        "formal": "Use a formal tone.",
        "informal": "Use a friendly, informal tone.",
        "empathetic": "Use a kind and understanding tone.",
        "reassuring": "Use a calm and reassuring tone, without promising an outcome.",
        "direct": "Be direct and brief.",
    }
)

STRUCTURES = MappingProxyType(
    {
        "paragraph": "Write one paragraph, without headings or lists.",
        "paragraphs": "Write a few short paragraphs, without headings or lists.",
        "bullets": "Write a list of bullet points, each on a line that begins with a dash.",
        "steps": "Write a numbered list of steps, each on a line of its own.",
        "soap": "Write four sections that begin with these headings: Subjective:, Objective:, Assessment:, Plan:.",
        "sections": "Divide the text into sections, each with a short heading on a line of its own.",
        "qa": "Write questions and answers. Begin each question with Q: and each answer with A:.",
    }
)

SPECIALTIES = MappingProxyType(
    {
        name: f"Write from the point of view of {name.replace('-', ' ')}."
        for name in (
            "anesthesiology",
            "cardiology",
            "dentistry",
            "dermatology",
            "emergency-medicine",
            "endocrinology",
            "family-medicine",
            "gastroenterology",
            "geriatrics",
            "hematology",
            "infectious-diseases",
            "internal-medicine",
            "nephrology",
            "neurology",
            "obstetrics-and-gynecology",
            "oncology",
            "ophthalmology",
            "orthopedics",
            "otolaryngology",
            "palliative-care",
            "pathology",
            "pediatrics",
            "pharmacy",
            "physical-therapy",
            "psychiatry",
            "pulmonology",
            "radiology",
            "rheumatology",
            "surgery",
            "urology",
        )
    }
)

# The options by name, with the values that each one knows.
STYLES = MappingProxyType(
    {
        "purpose": tuple(PURPOSES),
        "readability": tuple(READABILITY),
        "tone": tuple(TONES),
        "structure": tuple(STRUCTURES),
        "specialty": tuple(SPECIALTIES),
    }
)
