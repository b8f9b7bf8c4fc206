"""Model-backed NER beside transformers' own pipeline; long texts; labels; the processor around it."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from medvllm.errors import MedvllmError
from medvllm.tasks.model_ner import ModelNERProcessor, TokenClassifier

Made = Callable[..., Path]
SENTENCES = (
    "Patient with hypertension (HTN) and type 2 diabetes mellitus denies chest pain.",
    "Metformin 500 mg p.o. b.i.d., lisinopril-hydrochlorothiazide 10/12.5 mg; α-Methyldopa.",
    "Fièvre à 38,5 °C since 3 days — übel. 'No pneumonia,' said Dr. O'Neill:\tCRP 12 mg/L, Na+ 140.",
    "x",
    "…  naloxone\r\n\r\n\u00a0  stroke 🫀 COVID-19?",
)


def _pipeline(folder: Path, aggregation: str, **options: Any) -> Any:
    model = transformers.AutoModelForTokenClassification.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return transformers.pipeline(
        "token-classification", model=model, tokenizer=tokenizer, aggregation_strategy=aggregation, **options
    )


def _theirs(pipeline: Any, text: str) -> list[tuple[int, int, str]]:
    return [(one["start"], one["end"], one["entity_group"]) for one in pipeline(text)]


TYPES = {"Disease": "condition", "Chemical": "chemical"}


def _ours(classifier: TokenClassifier, text: str) -> list[tuple[int, int, str]]:
    back = {ours: theirs for theirs, ours in TYPES.items()}
    return [(one.start, one.end, back[one.type]) for one in classifier.spans([text])[0]]


@pytest.mark.parametrize("kind", ["bert", "distilbert", "electra"])
@pytest.mark.parametrize("aggregation", ["first", "average", "max"])
def test_same_entities_as_the_pipeline_by_words(made: Made, kind: str, aggregation: str) -> None:
    folder = made(kind)
    classifier, pipeline = TokenClassifier(str(folder), aggregation=aggregation), _pipeline(folder, aggregation)
    found = [_ours(classifier, text) for text in SENTENCES]
    assert found == [_theirs(pipeline, text) for text in SENTENCES]
    assert sum(map(len, found)) > 10


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "electra"])
def test_same_entities_as_the_pipeline_by_tokens(made: Made, kind: str) -> None:
    """Of byte-level BPE the pipeline's spans have the space before a word in them; ours do not."""
    folder = made(kind)
    classifier, pipeline = TokenClassifier(str(folder), aggregation="simple"), _pipeline(folder, "simple")
    # Its two tokens of "α" are two spans, ours one: left out of the comparison.
    for text in SENTENCES[:4] if kind != "roberta" else (SENTENCES[0], SENTENCES[1].rpartition("; ")[0]):
        theirs = [
            (end - len(text[start:end].lstrip()), start + len(text[start:end].rstrip()), name)
            for start, end, name in _theirs(pipeline, text)
        ]
        assert _ours(classifier, text) == [span for span in theirs if span[0] < span[1]]


def test_words_decide_where_the_tokenizer_knows_them(made: Made) -> None:
    assert TokenClassifier(str(made("bert"))).aggregation == "first"
    assert TokenClassifier(str(made("roberta"))).aggregation == "first"


@pytest.mark.parametrize("kind", ["bert", "roberta", "electra"])
def test_every_entity_of_a_long_note_is_its_characters(made: Made, kind: str) -> None:
    generator = random.Random(1)
    words = " ".join(SENTENCES).split(" ")
    text = ""
    while len(text) < 50_000:
        text += generator.choice(words) + generator.choice([" ", "  ", "\n", ", ", " ", ""])
    found = TokenClassifier(str(made(kind))).spans([text])[0]
    assert len(found) > 2000
    assert all(text[one.start : one.end] == one.text == one.text.strip() != "" for one in found)
    assert all(first.end <= second.start for first, second in itertools.pairwise(found))
    parts = 50
    counts = [sum(one.start * parts // len(text) == part for one in found) for part in range(parts)]
    assert min(counts) > 0, "no part of the note is left out"


def test_a_result_does_not_depend_on_the_texts_beside_it(made: Made) -> None:
    classifier = TokenClassifier(str(made("bert")), batch_size=3)
    alone = [classifier.spans([text])[0] for text in SENTENCES]
    assert classifier.spans(SENTENCES) == alone
    assert classifier.spans(["", "   ", *SENTENCES])[2:] == alone
    assert classifier.spans([]) == []


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_a_sequence_has_the_same_bits_in_any_batch_and_with_any_threads(made: Made, dtype: str) -> None:
    """So that a run that is cut off and goes on in other batches writes the same bytes. 37 * 80 GELUs part unevenly."""
    model = TokenClassifier(str(made("bert")), dtype=dtype).model
    generator = random.Random(5)
    sequences = [[generator.randrange(4, 150) for _ in range(length)] for length in (37, 3, 62, 1, 40, 40, 17) * 9]
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = [model.logits([sequence])[0] for sequence in sequences]
        for count, size in ((1, 16), (2, 64), (3, 5)):
            torch.set_num_threads(count)
            model.batch_size = size
            assert all(map(torch.equal, model.logits(sequences), alone))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "electra"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_logits_are_those_of_transformers(made: Made, kind: str, dtype: str) -> None:
    folder = made(kind)
    classifier = TokenClassifier(str(folder), dtype=dtype)
    model = transformers.AutoModelForTokenClassification.from_pretrained(folder).eval()
    sequences = [[5, 6, 7], list(range(4, 44)), [9]]
    found = classifier.model.logits(sequences)
    least = {"float32": 0.9999, "bfloat16": 0.999, "int8": 0.99}[dtype]
    for ids, logits in zip(sequences, found, strict=True):
        with torch.no_grad():
            wanted = model(input_ids=torch.tensor([ids])).logits[0]
        assert logits.shape == wanted.shape
        assert torch.cosine_similarity(logits.flatten(), wanted.flatten(), dim=0) > least
        if dtype == "float32":
            torch.testing.assert_close(logits, wanted, atol=1e-4, rtol=1e-4)


def test_a_window_never_cuts_a_word_and_each_token_is_asked_once() -> None:
    from medvllm.tasks.model_ner_windows import windows

    generator = random.Random(0)
    for _ in range(300):
        words: list[int] = []
        for word in range(generator.randrange(0, 60)):
            words += [word] * generator.choice([1, 1, 1, 2, 3, 9])
        capacity = generator.randrange(4, 40)
        overlap = generator.randrange(0, capacity // 2)
        found = windows(words, capacity=capacity, overlap=overlap)
        asked = [at for one in found for at in range(one.own_start, one.own_stop)]
        assert asked == list(range(len(words)))
        for one in found:
            assert one.start <= one.own_start <= one.own_stop <= one.stop <= one.start + capacity


def test_windows_are_few_and_of_one_length() -> None:
    """What the model computes is the text, what neighbours share, and no more than a token a window."""
    from medvllm.tasks.model_ner_windows import windows

    for count, overlap in itertools.product([101, 155, 156, 330, 1000, 12_345], [1, 8, 32]):
        found = windows(list(range(count)), capacity=100, overlap=overlap)
        lengths = [one.stop - one.start for one in found]
        assert len(found) == -(-(count - overlap) // (100 - overlap))
        assert max(lengths) - min(lengths) <= len(found)
        assert sum(lengths) <= count + (len(found) - 1) * overlap + len(found)
        assert all(after.start + overlap <= one.stop for one, after in itertools.pairwise(found))


def test_confidence_follows_the_temperature_of_the_folder(made: Made, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(made("bert"), folder)
    sharp = TokenClassifier(str(folder)).spans(SENTENCES)
    (folder / "medvllm_ner.json").write_text(json.dumps({"temperature": 4.0, "max_length": 32, "stride": 4}))
    soft = TokenClassifier(str(folder)).spans(SENTENCES)
    first = [one for text in sharp[:1] for one in text]
    assert all(0 < one.confidence <= 1 for one in first if one.confidence is not None)
    mean = lambda texts: sum(one.confidence or 0 for text in texts for one in text) / sum(map(len, texts))  # noqa: E731
    assert mean(soft) < mean(sharp) - 0.1
    (folder / "medvllm_ner.json").write_text('{"temperature": 0}')
    with pytest.raises(MedvllmError, match=r"medvllm_ner.json must hold"):
        TokenClassifier(str(folder))


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ("O B-D I-D I-D", [(1, 4)]),
        ("I-D I-D O I-D", [(0, 2), (3, 4)]),
        ("B-D B-D I-D I-C", [(0, 1), (1, 3), (3, 4)]),
        ("S-D B-D E-D S-D", [(0, 1), (1, 3), (3, 4)]),
        ("U-D B-D L-D I-D", [(0, 1), (1, 3), (3, 4)]),
        ("B-D I-D E-D E-D", [(0, 3), (3, 4)]),
        ("D D O C", [(0, 2), (3, 4)]),
        ("O O O O", []),
    ],
)
def test_schemes(labels: str, expected: list[tuple[int, int]]) -> None:
    from medvllm.tasks.model_ner_labels import parse_label
    from medvllm.tasks.model_ner_spans import Units, decode

    names = sorted(set(labels.split()))
    parsed = [parse_label(name) for name in names]
    units = Units([0, 1, 2, 3], [1, 2, 3, 4], [0, 1, 2, 3], [1, 2, 3, 4])
    numbers = [names.index(label) for label in labels.split()]
    found = decode(numbers, units, [one.tag for one in parsed], [one.name for one in parsed])
    assert [(span.start, span.end) for span in found] == expected


def test_labels_by_the_table_and_the_users_own() -> None:
    from medvllm.tasks.model_ner_labels import label_table

    labels = ["O", "B-Sign_symptom", "I-Disease_disorder", "B-DRUG", "B-Dosage", "LABEL_7"]
    table = label_table(labels, model="'m'")
    assert table.types == [None, "symptom", "condition", "medication", None, None]
    assert table.unused == ["Dosage", "LABEL_7"]
    own = label_table(
        labels, {"Dosage": "lab_value", "LABEL_7": "B-test", "DRUG": None, "B-Sign_symptom": "O"}, model="'m'"
    )
    assert own.types == [None, None, "condition", None, "lab_value", "test"]
    assert own.tags == ["O", "O", "I", "B", "B", "B"]
    bare = label_table(["LABEL_0", "LABEL_1", "LABEL_2"], {"LABEL_1": "B-test", "LABEL_2": "I-test"}, model="'m'")
    assert (bare.tags[1:], bare.names[1:], bare.types[1:]) == (["B", "I"], ["test", "test"], ["test", "test"])
    with pytest.raises(MedvllmError, match="the label map names 'Drug', but the labels of 'm' are O, B-Sign_symptom"):
        label_table(labels, {"Drug": "medication"}, model="'m'")
    with pytest.raises(MedvllmError, match=r"the labels of 'm' have no names \(LABEL_0, LABEL_1\); .*--label-map"):
        label_table(["LABEL_0", "LABEL_1"], model="'m'")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "expected an object"),
        ('{"Disease": "illness"}', "'Disease' is given 'illness'; the types are condition"),
        ('{"Disease": 3}', "'Disease' must be given a type or null, got 3"),
    ],
)
def test_a_broken_label_map_is_refused(tmp_path: Path, content: str, message: str) -> None:
    from medvllm.tasks.model_ner_labels import read_label_map

    (tmp_path / "map.json").write_text(content)
    with pytest.raises(MedvllmError, match=message):
        read_label_map(tmp_path / "map.json")


def _processor(
    folder: Path | TokenClassifier, text: str, spans: list[tuple[str, str, float]], **options: Any
) -> list[Any]:
    """The entities of a processor whose model finds `spans`, each the first place of its words."""
    from medvllm.tasks.entities import Entity

    classifier = TokenClassifier(str(folder)) if isinstance(folder, Path) else folder
    processor = ModelNERProcessor(classifier, **options)
    found = [
        Entity(words, kind, text.index(words), text.index(words) + len(words), confidence)
        for words, kind, confidence in spans
    ]
    entities = processor.entities_of(text, sorted(found, key=lambda one: one.start))
    return processor.link_entities(entities)


def test_links_and_assertion_are_the_processors(made: Made) -> None:
    text = "Denies hypertension. Mother had stroke. On metformin 500 mg BID."
    spans = [("hypertension", "condition", 0.9), ("stroke", "condition", 0.8), ("metformin", "chemical", 0.7)]
    hypertension, stroke, metformin = _processor(made("bert"), text, spans)
    assert hypertension.negation == "negated"
    assert {link.code for link in hypertension.ontology_links} >= {"C0020538"}
    assert stroke.experiencer == "family"
    assert metformin.type == "medication"  # the vocabulary's word for it
    assert metformin.ontology_links


def test_an_ensemble_has_what_either_is_sure_of(made: Made) -> None:
    text = "Patient with hypertension and zorbitis on metformin 500 mg BID. Na 140 mmol/L."
    found = _processor(made("bert"), text, [("zorbitis", "condition", 0.97)], ensemble=True)
    assert {(one.text, one.type) for one in found} >= {
        ("hypertension", "condition"),
        ("zorbitis", "condition"),
        ("metformin", "medication"),
    }
    assert any(one.type == "lab_value" for one in found)
    assert all(text[one.start : one.end] == one.text for one in found)
    doubtful = _processor(made("bert"), text, [("Patient", "condition", 0.1)], ensemble=True)
    assert "Patient" not in {one.text for one in doubtful}


def test_a_type_that_the_user_gave_stays_in_an_ensemble(made: Made) -> None:
    """Our own detection calls metformin a medication, hypertension a condition."""
    text = "Patient with hypertension on metformin 500 mg BID."
    spans = [("hypertension", "symptom", 0.9), ("metformin", "chemical", 0.9)]
    for label_map, wanted in (({}, "medication"), ({"Chemical": "chemical"}, "chemical")):
        classifier = TokenClassifier(str(made("bert")), label_map={"Disease": "symptom", **label_map})
        found = _processor(classifier, text, spans, ensemble=True)
        assert {one.text: one.type for one in found if one.text in text.split()} == {
            "hypertension": "symptom",
            "metformin": wanted,
        }


@pytest.mark.parametrize("scheme", ["O B-D I-D B-C I-C", "O B-D I-D E-D S-D", "O B-D L-D U-D I-D"])
def test_viterbi_is_the_best_of_all_sequences_that_keep_to_the_scheme(scheme: str) -> None:
    from medvllm.tasks.model_ner_labels import parse_label
    from medvllm.tasks.model_ner_spans import best_labels

    parsed = [parse_label(label) for label in scheme.split()]
    tags, names = [one.tag for one in parsed], [one.name for one in parsed]

    def keeps(path: tuple[int, ...]) -> bool:
        inside = ""
        for label in path:
            if tags[label] in "IE" and inside != names[label]:
                return False
            if inside and "E" in tags and tags[label] not in "IE":
                return False
            inside = names[label] if tags[label] in "BI" else ""
        return not (inside and "E" in tags)

    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        logits = torch.randn(5, len(tags), generator=generator)
        scores = logits.log_softmax(-1)
        paths = filter(keeps, itertools.product(range(len(tags)), repeat=5))
        wanted = max(paths, key=lambda path: sum(float(scores[at, label]) for at, label in enumerate(path)))
        assert best_labels(logits, tags, names, "viterbi") == list(wanted)
        assert best_labels(logits, tags, names, "greedy") == logits.argmax(-1).tolist()


def test_an_end_that_nothing_can_precede_is_never_chosen() -> None:
    """As where the user's label map takes away the beginning."""
    from medvllm.tasks.model_ner_spans import best_labels

    logits = torch.tensor([[0.0, 1.0, 5.0], [0.0, 1.0, 5.0]])
    assert best_labels(logits, ["O", "S", "E"], ["", "a", "a"], "viterbi") == [1, 1]


def test_half_a_character_is_read_as_an_unknown_one(made: Made) -> None:
    """JSON can hold it: "\\ud800"; the places of the others stay."""
    classifier = TokenClassifier(str(made("roberta")))
    text = "Patient with \ud800 hypertension \U0001f600\udc00 denies chest pain."
    found = classifier.spans([text])[0]
    assert found
    assert all(one.text == text[one.start : one.end] for one in found)
    plain = classifier.spans([text.replace("\ud800", "\ufffd").replace("\udc00", "\ufffd")])[0]
    assert [(one.start, one.end, one.confidence) for one in found] == [
        (one.start, one.end, one.confidence) for one in plain
    ]


def test_a_document_is_made_consistent() -> None:
    from medvllm.tasks.entities import Entity
    from medvllm.tasks.model_ner_document import consistent

    text = "Chronic zorbitis syndrome (CZS) and Kelpin. CZS again; kelpin, kelpin, kelpin. " + "low low low low. " * 3

    def spans(*words: tuple[str, int]) -> list[Entity]:
        found = []
        for surface, place in words:
            start = -1
            for _ in range(place):
                start = text.index(surface, start + 1)
            found.append(Entity(surface, "condition", start, start + len(surface), 0.9))
        return sorted(found, key=lambda one: one.start)

    given = spans(("Chronic zorbitis syndrome", 1), ("Kelpin", 1), ("kelpin", 1), ("kelpin", 2), ("low", 3))
    found = [(one.start, one.text) for one in consistent(text, given)]
    assert [words for _, words in found] == ["Chronic zorbitis syndrome", "CZS", "Kelpin", "CZS", *["kelpin"] * 3]
    assert all(text[start : start + len(words)] == words for start, words in found)
    assert consistent("", []) == []


def test_consistency_takes_time_linear_in_the_text() -> None:
    import time

    from medvllm.tasks.entities import Entity
    from medvllm.tasks.model_ner_document import consistent

    def seconds(repeats: int) -> float:
        text = "abc def, kelpin ghi. " * repeats
        entities = [Entity("kelpin", "chemical", 21 * at + 9, 21 * at + 15, 0.9) for at in range(0, repeats, 2)]
        began = time.process_time()
        consistent(text, entities)
        return time.process_time() - began

    seconds(500)
    assert seconds(16_000) < 40 * max(seconds(2_000), 1e-3)
