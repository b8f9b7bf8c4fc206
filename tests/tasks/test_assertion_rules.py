"""The published rules, one sentence each: NegEx's triggers, pseudo-triggers and ends of scope (Chapman et al., J Biomed
Inform 2001, and the list of 2009), ConText's for time and experiencer (Harkema et al., J Biomed Inform 2009).

The finding is in brackets.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from medvllm.tasks import assertion_cues
from medvllm.tasks.assertion import Assertion, assess

NEGATED = """
No abnormal [mass]. | No complaints of [pain]. | No findings to indicate [stroke]. | No new [lesion].
No mammographic evidence of [cancer]. | No suspicious [calcification]. | No other evidence of [bleeding].
without any evidence of [stroke] | without indication of [stroke] | with no [fever] | not associated with [pain]
She is not known to have [asthma]. | He does not know of any [diabetes]. | never developed [rash] | wasn't [febrile]
It does not look like [gout]. | did not appreciate [murmur] | The rash is inconsistent with [measles].
The CT rules out [stroke]. | Labs were sufficient to rule out [MI]. | This can rule him out for [MI].
He was ruled out for [MI] by enzymes. | ruled the patient out for [MI] | clear of [effusion] | free of [edema]
[MI] has been ruled out. | [MI] ruled out. | [fever] now resolved | [HIV] was negative | [stroke] is very unlikely
[Infection] unlikely but treated. | [pain] free since Monday | [rash]: absent | [Edema] denied | [cough]: none
She declined [colonoscopy]. | refused the [vaccine] | [Vaccine] declined. | neither fever nor [chills]
+nausea, -[fever] | +nausea -fever, -[chills] | fell. + head strike, -[LOC].
"""
POSSIBLE = """
Rule him out for [MI]. | [MI] must be ruled out. | [MI] could be ruled out. | [MI] is to be ruled out.
What must be ruled out is [MI]. | [MI] should be ruled out. | [MI] has not been ruled out. | [MI] not ruled out
CT did not rule out [stroke]. | This does not exclude [stroke]. | CT to exclude [stroke] | unable to exclude [stroke]
[Sepsis] considered. | [Headache] possible | [pneumonia] likely given the fever | [stroke] suspected, admit
[Pneumonia] vs atelectasis | edema versus [pneumonia], nodule | Working diagnosis of [gout] | favor [gout]
[Gout] is favored. | [Sepsis] remains a possibility. | raises concern for [cancer] | appears to have [gout]
[Syncope] less likely, ACS unlikely. | [Embolism] was not evaluated. | Worried about [cancer].
"""
AFFIRMED = """
No definite change in [mass]. | No significant interval change in [mass]. | No increase in [edema]. | not only [fever]
Gram negative [sepsis] | not necessarily [cancer] | without difficulty, [edema] present | [hernia] free margins
No fever but [cough]. | No fever, although [cough] noted. | No fever aside from [cough]. | No fever due to [gout].
No fever yet [cough]. | No fever except [cough]. | No fever because of [gout]. | No fever since [gout] began.
Renal function declined with [sepsis]. | Return as soon as possible; [edema]. | Get CT if possible, [edema].
No acute bleeding, chronic [infarct]. | CHF likely due to drugs, [edema]. | - [fever]\\n- +cough | -[asthma]\\n+nausea
"""
HISTORICAL = """
[pneumonia] 3 weeks ago | [pneumonia] a month ago | [stroke] last month | Last year he had [pneumonia].
Last year, she was treated for [cancer] and now has cough. | previous [stroke] | [stroke] in March 2005
[Rizatriptan] discontinued. | Stopped [sumatriptan] because of nausea. | [Heparin] was stopped.
Discontinued: [aspirin] | Quit [smoking] 1990. | [Naproxen] stopped because of gastritis
"""
RECENT = """
[fall] 3 days ago | [fall] yesterday | 3 day history of [cough] | History of stroke who presents with [cough]
History of stroke; currently [cough] | History of stroke due to [fibrillation] | Social history: [smoker]
50M with hx CAD, CHF p/w [dyspnea]. | DISCONTINUED: lisinopril (cough), replaced by [losartan]
"""
HYPOTHETICAL = """
Return to the ED for [fever]. | Come back to clinic if [fever]. | Should [fever] recur, call. | as needed for [pain]
It could lead to [stroke]. | She was educated on signs and symptoms of [stroke]. | in case of [rash] | unless [rash]
Call us. Should [pain] return, rest. | sooner prn headache, new weakness or [fever] | may take one extra for [edema]
RISKS INCLUDING BLEEDING AND [INFECTION] WERE DISCUSSED.
"""
NOT_HYPOTHETICAL = """
Return if fever because of his [asthma]. | Watch for bleeding since he takes [warfarin]. | Get CT if possible, [edema].
prn pain due to [arthritis] | at risk for stroke due to [fibrillation] | He should take [aspirin].
"""
FAMILY = """
Father died of [stroke] at 60. | Family history significant for [gout]. | [Gout] runs in the family. | sister's [gout]
Maternal aunt with [cancer]. | Sick contacts: brother with [flu]. | Mother had cancer but she died of [stroke].
"""
OTHER = """
Lives with her husband, who has [herpes]. | His husband has [flu].
She was exposed to a child with [measles]. | close contact with a person who had [TB]
"""
PATIENT = """
Family history of stroke, presenting with [cough]. | Father had stroke but he has [cough]. | Mother noticed [fever].
Father died of stroke, patient has [cough]. | FH: gout\\nO/E: [murmur]
Per his wife, he has [fever]. | brought by her husband for [fever]
"""


def _found(sentence: str) -> Assertion:
    start, end = sentence.index("["), sentence.index("]") - 1
    return assess(sentence.replace("[", "").replace("]", ""), [(start, end)])[0]


def _cases(field: str, expected: str, sentences: str) -> list[tuple[str, str, str]]:
    parts = [part.strip() for part in sentences.replace("\n", "|").split("|")]
    return [(part, field, expected) for part in parts if part]


@pytest.mark.parametrize(
    ("sentence", "field", "expected"),
    [
        *_cases("negation", "negated", NEGATED),
        *_cases("negation", "possible", POSSIBLE),
        *_cases("negation", "affirmed", AFFIRMED),
        *_cases("temporality", "historical", HISTORICAL),
        *_cases("temporality", "recent", RECENT + NOT_HYPOTHETICAL),
        *_cases("temporality", "hypothetical", HYPOTHETICAL),
        *_cases("experiencer", "family", FAMILY),
        *_cases("experiencer", "other", OTHER),
        *_cases("experiencer", "patient", PATIENT),
    ],
)
def test_rule(sentence: str, field: str, expected: str) -> None:
    assert getattr(_found(sentence.replace("\\n", "\n")), field) == expected


def test_each_cue_has_one_meaning() -> None:
    """A phrase listed twice with other effects would count by chance of the order."""
    path = Path(assertion_cues.__file__).parent / "data" / "assertion_cues.tsv"
    meanings: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            effects, pattern = line.split("\t")
            for phrase in assertion_cues._expand(pattern):
                assert meanings.setdefault(phrase.replace("-", " "), effects) == effects, phrase
