"""Named entities by a spaCy pipeline, and which types of entities are salient. The only door to spaCy.

REALM's tagger was a BERT trained on CoNLL-2003: persons, organisations, places, and the rest that has a name. Those are
ENTITY_TYPES, in the words of OntoNotes, which spaCy's English pipelines are trained on, and of CoNLL. Dates are
dates.py's, and counts are left.
"""

import re
from collections.abc import Collection, Sequence
from typing import Any

from realm_ds.errors import ConfigError
from realm_ds.prepare.spans import Span, SpanFinder, apart

ENTITY_TYPES = (
    "PERSON", "NORP", "FAC", "ORG", "GPE", "LOC", "PRODUCT", "EVENT", "WORK_OF_ART", "LANGUAGE", "PER", "MISC",
)  # fmt: skip
DEFAULT_PIPELINE = "en_core_web_sm"
BATCH_SENTENCES = 128
_ENTITIES = "doc.ents"
_AROUND_A_NAME = re.compile(r"(?:[Tt]he |[Aa]n? )?(.*?)(?:['\u2019]s?)?\s*", re.DOTALL)


def spacy_finder(pipeline: str, *, entity_types: Sequence[str] = ()) -> SpanFinder:
    """A finder of the entities of a pipeline, installed or in a folder; no types: those of ENTITY_TYPES it knows.

    Articles before an entity and the possessive behind it are left out, as in CoNLL-2003.
    """
    nlp = _load(pipeline)
    offered = {label for name in nlp.pipe_names for label in nlp.get_pipe(name).labels}
    wanted = chosen_types(entity_types, offered=offered, model=pipeline)

    def find(sentences: Sequence[str]) -> list[list[Span]]:
        # In a zone, so that the words of a corpus are not all kept in the vocabulary.
        with nlp.memory_zone():
            return [_spans(document, wanted) for document in nlp.pipe(sentences, batch_size=BATCH_SENTENCES)]

    return find


def chosen_types(asked: Sequence[str], *, offered: Collection[str], model: str) -> frozenset[str]:
    """The types of entities to take from a model; none asked for: those of ENTITY_TYPES that it has."""
    chosen = frozenset(asked or ENTITY_TYPES).intersection(offered)
    if missing := [kind for kind in asked if kind not in chosen]:
        raise ConfigError(
            f"--entity-types {','.join(asked)}: {model} has no type {', '.join(missing)}; "
            f"choose from {', '.join(sorted(offered))}"
        )
    if not chosen:
        raise ConfigError(
            f"{model} has none of the usual types of entities ({', '.join(ENTITY_TYPES)}); choose with --entity-types "
            f"from {', '.join(sorted(offered)) or 'none: it finds no entities, name another model'}"
        )
    return chosen


def _load(pipeline: str) -> Any:
    """The pipeline with nothing in it but what finds entities."""
    try:
        import spacy
    except ImportError as error:
        raise ConfigError(
            "--spans spacy needs spaCy: pip install 'realm-ds[ner]'; --spans rules does without"
        ) from error
    try:
        nlp = spacy.load(pipeline)
    except OSError as error:
        installed = ", ".join(spacy.util.get_installed_models()) or "none"
        raise ConfigError(
            f"--model {pipeline}: no spaCy pipeline of that name (installed: {installed}) and no folder of one; get it "
            f"with `python -m spacy download {pipeline}`, or by pip from github.com/explosion/spacy-models"
        ) from error
    finding = {name for name in nlp.pipe_names if _ENTITIES in nlp.get_pipe_meta(name).assigns}
    if not finding:
        raise ConfigError(
            f"--model {pipeline}: nothing in it finds entities (it has {', '.join(nlp.pipe_names) or 'no pipes'}); "
            f"name a pipeline with `ner`, such as {DEFAULT_PIPELINE}"
        )
    # A pipe may hand its vectors on to others (tok2vec, transformer).
    feeding = {
        name for name in nlp.pipe_names if finding.intersection(getattr(nlp.get_pipe(name), "listening_components", ()))
    }
    for name in set(nlp.pipe_names) - finding - feeding:
        nlp.remove_pipe(name)
    nlp.max_length = 2**31 - 1  # sentences are short, but one word of one may be anything
    return nlp


def _spans(document: Any, wanted: frozenset[str]) -> list[Span]:
    spans = []
    for entity in document.ents:
        if entity.label_ in wanted:
            match = _AROUND_A_NAME.fullmatch(entity.text)
            assert match is not None
            spans.append(Span(entity.start_char + match.start(1), entity.start_char + match.end(1), entity.label_))
    return apart(spans)
