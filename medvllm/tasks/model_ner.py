"""Model-backed NER: a Hugging Face token-classification model in place of, or beside, the processor's own detection.

Long texts are read in overlapping windows; every entity has the characters of the text it stands for. Linking and
assertion are those of the processor-only mode.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, cast

import torch

from medvllm.errors import MedvllmError
from medvllm.tasks.batch import NERModel, NEROptions
from medvllm.tasks.encoder_files import find_encoder
from medvllm.tasks.encoder_model import EncoderModel
from medvllm.tasks.entities import Entity
from medvllm.tasks.formats.document import Document
from medvllm.tasks.model_ner_document import consistent
from medvllm.tasks.model_ner_join import join
from medvllm.tasks.model_ner_labels import label_table
from medvllm.tasks.model_ner_settings import NERSettings
from medvllm.tasks.model_ner_spans import (
    AGGREGATIONS,
    Aggregation,
    Decoding,
    aggregate,
    best_labels,
    confidences,
    decode,
    group,
)
from medvllm.tasks.model_ner_windows import TextTokens, tokenize, windows
from medvllm.tasks.ner_processor import NERProcessor
from medvllm.tasks.term_variants import variants

__all__ = ["ModelNERProcessor", "TokenClassifier", "model_processor"]

_KINDS: Final = (("condition", "symptom"), ("chemical", "medication"))
_DEFAULT_STRIDE: Final = 64  # tokens; what neighbouring windows share where a model's folder does not say
_CHARACTERS: Final = 1_000_000  # of texts whose logits are held at once


class TokenClassifier:
    """Spans of a token-classification model, with calibrated confidences.

    Raises:
        MedvllmError: the model can't be found, read or used for NER; its labels mean nothing here.
    """

    def __init__(
        self,
        name: str,
        *,
        label_map: Mapping[str, str | None] | None = None,
        aggregation: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        batch_size: int = 16,
        allow_pickle: bool = False,
        trust_remote_code: bool = False,
    ) -> None:
        """`label_map`: see label_table. `aggregation`: how the tokens of a word agree; None: as the model's folder
        says, else by the first token where the tokenizer parts words from punctuation, else token by token.
        """
        if aggregation is not None and aggregation not in AGGREGATIONS:
            raise MedvllmError(f"--aggregation must be one of {', '.join(AGGREGATIONS)}, got {aggregation!r}")
        files = find_encoder(name, allow_pickle=allow_pickle, trust_remote_code=trust_remote_code)
        settings = NERSettings.read(files.folder)
        files.check_task("ner")
        self.model = EncoderModel(files, "ner", device=device, dtype=dtype, batch_size=batch_size)
        self.table = label_table(self.model.labels, label_map, model=f"'{name}'")
        self.aggregation = cast(Aggregation, aggregation) or settings.aggregation or self._natural_aggregation()
        self.temperature = settings.temperature
        self.document = settings.document
        tagged = all(tag != "I" for tag in self.table.tags) or any(tag == "B" for tag in self.table.tags)
        self.decoding: Decoding = settings.decoding if tagged else "greedy"  # without B nothing could begin
        longest = min(settings.max_length or 512, self.model.max_length)
        self._capacity = longest - self.model.frame.size
        if self._capacity < 1:
            raise MedvllmError(f"model '{name}' reads only {longest} tokens at once, too few for a text")
        stride = settings.stride if settings.stride is not None else _DEFAULT_STRIDE
        self._overlap = min(stride, self._capacity // 4)

    def _natural_aggregation(self) -> Aggregation:
        tokens = tokenize(self.model.tokenizer, "a, b")
        words = {start: word for start, word in zip(tokens.starts, tokens.words, strict=True)}
        return "first" if 1 in words and words[1] != words.get(0) else "simple"

    def spans(self, texts: Sequence[str]) -> list[list[Entity]]:
        """The entities of each text by start: characters, type and confidence; labels without a type are left out."""
        result: list[list[Entity]] = []
        chunk: list[str] = []
        size = 0
        for text in texts:
            chunk.append(text)
            size += len(text)
            if size >= _CHARACTERS:
                result += self._spans(chunk)
                chunk, size = [], 0
        return result + self._spans(chunk)

    def _spans(self, texts: Sequence[str]) -> list[list[Entity]]:
        encoded = [tokenize(self.model.tokenizer, text) for text in texts]
        return [
            self._entities(text, tokens, logits)
            for text, tokens, logits in zip(texts, encoded, self._logits(encoded), strict=True)
        ]

    def _logits(self, encoded: Sequence[TextTokens]) -> list[torch.Tensor]:
        """(tokens, labels) of each text, put together from its windows."""
        frame = self.model.frame
        places: list[tuple[int, int, int, int]] = []
        sequences: list[list[int]] = []
        for number, tokens in enumerate(encoded):
            found = windows(tokens.words, capacity=self._capacity, overlap=self._overlap)
            for start, stop, own_start, own_stop in found:
                sequences.append([*frame.before, *tokens.ids[start:stop], *frame.after])
                places.append((number, own_start, own_stop, len(frame.before) + own_start - start))
        rows = [torch.zeros(len(tokens.ids), len(self.model.labels)) for tokens in encoded]
        for (number, start, stop, at), logits in zip(places, self.model.logits(sequences), strict=True):
            rows[number][start:stop] = logits[at : at + stop - start]
        return rows

    def _entities(self, text: str, tokens: TextTokens, logits: torch.Tensor) -> list[Entity]:
        units = group(tokens, self.aggregation)
        scores = aggregate(logits, units, self.aggregation)
        table = self.table
        labels = best_labels(scores, table.tags, table.names, self.decoding)
        raw = decode(labels, units, table.tags, table.names)
        certain = confidences(scores, labels, raw, temperature=self.temperature)
        return [
            Entity(text[span.start : span.end], kind, span.start, span.end, round(confidence, 4))
            for span, confidence in zip(raw, certain, strict=True)
            if (kind := table.types[span.label]) is not None
        ]

    @property
    def types(self) -> set[str]:
        """The types that the model can find."""
        return {kind for kind in self.table.types if kind is not None}

    def is_given(self, kind: str) -> bool:
        """Whether the user's own table names a type for a label of this type."""
        table = self.table
        return any(given and mine == kind for given, mine in zip(table.given, table.types, strict=True))


class ModelNERProcessor(NERProcessor):
    """An NERProcessor whose entities come from a model; with `ensemble` from both."""

    def __init__(self, classifier: TokenClassifier, *, ensemble: bool = False, **options: Any) -> None:
        """`options` are those of NERProcessor, without `fast` and `nested`."""
        super().__init__(**options)
        if self.fast or self.nested:
            raise MedvllmError("'fast' and 'nested' are of the processor-only mode; leave them out with a model")
        self.classifier = classifier
        self.ensemble = ensemble
        if unused := classifier.table.unused:
            shown = ", ".join(unused[:8]) + (", …" if len(unused) > 8 else "")
            self.remarks = [f"labels without a type here are left out: {shown}; --label-map FILE.json gives them one"]
        self.model_version = [
            [path.name, path.stat().st_size, path.stat().st_mtime_ns]
            for path in sorted(classifier.model.folder.iterdir())
            if path.suffix in (".json", ".safetensors", ".bin", ".txt")
        ]
        self._known: dict[str, int | None] = {}

    def extract_entities(self, text: str) -> list[Entity]:
        """The entities of a text with type, confidence, section and assertion, without links."""
        return self.entities_of(text, self.classifier.spans([text])[0])

    def documents(self, notes: Iterable[tuple[str, str]]) -> Iterator[Document]:
        """The texts (identifier, text) processed together, as the output formats take them."""
        notes = list(notes)
        found = self.classifier.spans([text for _, text in notes])
        for (identifier, text), entities in zip(notes, found, strict=True):
            entities = self.entities_of(text, entities)
            yield Document(identifier, text, self.link_entities(entities) if self.link else entities)

    def entities_of(self, text: str, entities: list[Entity]) -> list[Entity]:
        """The entities that the model found in a text, in order: looked up, joined with our own, asserted."""
        from medvllm.tasks.assertion import assert_entities

        if self.classifier.document:
            entities = consistent(text, entities)
        for entity in entities:
            self._look_up(entity)
        if self.ensemble:
            from medvllm.tasks.patterns import recognize

            types = self.classifier.types
            given = {kind for kind in types if self.classifier.is_given(kind)}
            entities = recognize(text, join(entities, self.detected(text), types=types, given=given))
        assert_entities(text, entities)
        return entities

    def _look_up(self, entity: Entity) -> None:
        """The term of the vocabulary, and by it condition or symptom, chemical or medication."""
        surface = entity.text
        if surface not in self._known:
            if len(self._known) >= 50_000:
                self._known.clear()
            found = self.store.get(surface)
            if found is None:
                others = (self.store.get(other) for other in variants(surface))
                found = next((term for term in others if term is not None), None)
            self._known[surface] = found
        entity.term = self._known[surface]
        if entity.term is None or self.classifier.is_given(entity.type):
            return
        kind = self.store.term_type(entity.term)
        if kind is not None and any(kind in same and entity.type in same for same in _KINDS):
            entity.type = kind


def model_processor(options: NEROptions, model: NERModel) -> ModelNERProcessor:
    """The processor that the options describe.

    Raises:
        MedvllmError: see TokenClassifier.
    """
    classifier = TokenClassifier(
        model.name,
        label_map=dict(model.label_map),
        aggregation=model.aggregation,
        device=model.device,
        dtype=model.dtype,
        batch_size=model.batch_size,
        allow_pickle=model.allow_pickle,
        trust_remote_code=model.trust_remote_code,
    )
    return ModelNERProcessor(
        classifier,
        ensemble=model.ensemble,
        ontology=options.ontology,
        strict_ontology=options.strict_ontology,
        link=options.link,
        fast=options.fast,
        nested=options.nested,
        user_stores=options.user_stores,
    )
