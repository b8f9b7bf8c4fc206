"""Processor-only clinical NER: detection, measurements and prescriptions, assertion, ontology links. No torch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from medvllm.ontology.store import OntologyStore
from medvllm.tasks.detection import Detector, Mention
from medvllm.tasks.entities import Entity, OntologyLink

if TYPE_CHECKING:
    from medvllm.tasks.formats.document import Document

__all__ = ["NERProcessor"]


class NERProcessor:
    """Finds clinical entities in text and links them to ontology codes.

    `ontology` names the vocabulary of the links (`medvllm.ontology.store.VOCABULARIES`); with `strict_ontology` a
    concept without a code there gets no link rather than its code in its own vocabulary. `fast` leaves out the
    sequence model and the patterns: dictionary matches only. `nested` also returns spans inside other spans.
    `user_stores` are folders of imported vocabularies, which come before the built-in one.

    Raises:
        MedvllmError: the ontology is unknown, or its store is missing or broken.
    """

    remarks: Sequence[str] = ()  # what a user should know before the first result
    model_version: list[object] | None = None  # what changes with the files of the model, where there is one

    def __init__(
        self,
        *,
        ontology: str = "UMLS",
        strict_ontology: bool = False,
        link: bool = True,
        fast: bool = False,
        nested: bool = False,
        store: OntologyStore | None = None,
        user_stores: Sequence[str | os.PathLike[str]] = (),
    ) -> None:
        self.strict_ontology = strict_ontology
        self.link = link
        self.fast = fast
        self.store = store or OntologyStore.open(user=user_stores)
        self.ontology = self.store.resolve(ontology)
        self._detector = Detector(self.store, mode="fast" if fast else "full")
        self.nested = nested
        self._links: dict[tuple[str, int | None, str], list[OntologyLink]] = {}

    def process(self, text: str) -> list[Entity]:
        """The entities of a text in order of start, linked unless `link` is off."""
        entities = self.extract_entities(text)
        return self.link_entities(entities) if self.link else entities

    def extract_entities(self, text: str) -> list[Entity]:
        """The entities of a text with type, confidence, section and assertion, without links."""
        from medvllm.tasks.assertion import assert_entities

        entities = self.detected(text)
        if not self.fast:
            from medvllm.tasks.patterns import recognize

            entities = recognize(text, entities)
        assert_entities(text, entities)
        return entities

    def detected(self, text: str) -> list[Entity]:
        """What detection finds in a text, without values, times and doses, and not yet asserted."""
        if self.fast or self.nested:  # nested spans overlap, which clean does not expect
            return _entities(text, self._detector.detect(text, nested=self.nested))
        from medvllm.tasks.cleanup import clean
        from medvllm.tasks.line_lists import split_lists

        mentions, phrases = self._detector.detect_with_phrases(text)
        return clean(text, _entities(text, split_lists(text, mentions, phrases)), self.store, phrases)

    def link_entities(self, entities: list[Entity]) -> list[Entity]:
        """Sets `ontology_links` of each entity, best first, an empty list where no code is known; returns them."""
        known = self._links.get
        for entity in entities:
            key = (entity.text, entity.term, entity.type)
            links = known(key)
            if links is None:
                if len(self._links) >= 200_000:  # bounded: a million notes hold more distinct texts than fit
                    self._links.clear()
                links = self._links[key] = self._codes(entity)
            entity.ontology_links = links
        return entities

    def _codes(self, entity: Entity) -> list[OntologyLink]:
        if entity.term is None and entity.type in ("lab_value", "temporal"):
            return []
        own = self.store.get(entity.text) if self.store.layered else None
        if entity.term is None or (own is not None and own >> 32):  # a user's own term comes before any other reading
            term: int | str = entity.text
        else:
            term = self.store.term_id(entity.term)
        return self.store.links(term, ontology=self.ontology, strict=self.strict_ontology, type=entity.type)

    def highlight_entities(self, text: str, entities: Sequence[Entity], *, color: bool = True) -> str:
        """The text with its entities marked for a terminal, with ANSI colours or without."""
        from medvllm.tasks.formats.terminal import highlight

        return highlight(text, entities, color=color)

    def document(self, identifier: str, text: str) -> Document:
        """The text processed, as the output formats take it."""
        from medvllm.tasks.formats.document import Document

        return Document(identifier, text, self.process(text))

    def documents(self, notes: Iterable[tuple[str, str]]) -> Iterator[Document]:
        """The texts (identifier, text) processed one after the other, as `document`."""
        return (self.document(identifier, text) for identifier, text in notes)


def _entities(text: str, mentions: Iterable[Mention]) -> list[Entity]:
    return [
        # All given in their order: half the time of a call with names, 27,000 times a megabyte.
        Entity(text[start:end], name, start, end, confidence, None, "affirmed", "recent", "patient", None, {}, term)
        for start, end, name, confidence, term, _, _ in mentions
    ]
