"""Named entities by spaCy, with pipelines made here of rules: no model is needed."""

from pathlib import Path

import pytest

from realm_ds.errors import ConfigError
from realm_ds.prepare.entities import ENTITY_TYPES, chosen_types, spacy_finder
from realm_ds.prepare.spans import Span

spacy = pytest.importorskip("spacy")


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Finds a few entities by a list, and would fail if any other pipe of it ran."""
    nlp = spacy.blank("en")
    ruler = nlp.add_pipe("entity_ruler")
    ruler.add_patterns([
        {"label": "GPE", "pattern": "the Sudan"},
        {"label": "GPE", "pattern": "Peru"},
        {"label": "PERSON", "pattern": "Knox"},
        {"label": "ORG", "pattern": "Knox's"},
        {"label": "CARDINAL", "pattern": "seven"},
    ])  # fmt: skip
    nlp.add_pipe("sentencizer")
    folder = tmp_path_factory.mktemp("pipeline")
    nlp.to_disk(folder)
    return str(folder)


def test_entities_are_found_by_type_without_article_and_possessive(pipeline: str) -> None:
    find = spacy_finder(pipeline)
    assert find(["In the Sudan and Peru seven won.", "", "It is Knox's now."]) == [
        [Span(7, 12, "GPE"), Span(17, 21, "GPE")],
        [],
        [Span(6, 10, "ORG")],
    ]
    assert find([]) == []


def test_types_can_be_chosen(pipeline: str) -> None:
    assert spacy_finder(pipeline, entity_types=["CARDINAL"])(["In Peru seven won."]) == [[Span(8, 13, "CARDINAL")]]
    with pytest.raises(
        ConfigError, match=r"--entity-types GPE,TOWN: .* has no type TOWN; choose from CARDINAL, GPE, ORG"
    ):
        spacy_finder(pipeline, entity_types=["GPE", "TOWN"])


def test_the_usual_types_are_those_of_both_vocabularies() -> None:
    assert chosen_types([], offered=["PER", "LOC", "DATE"], model="m") == {"PER", "LOC"}
    assert "DATE" not in ENTITY_TYPES
    with pytest.raises(ConfigError, match="m has none of the usual types of entities .* from DATE"):
        chosen_types([], offered=["DATE"], model="m")
    with pytest.raises(ConfigError, match="it finds no entities, name another model"):
        chosen_types([], offered=[], model="m")


def test_only_what_finds_entities_runs(pipeline: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refuses:
        def __call__(self, document: object) -> object:
            raise AssertionError("not this pipe")

    monkeypatch.setattr("spacy.pipeline.Sentencizer.__call__", Refuses())
    monkeypatch.setattr("spacy.pipeline.Sentencizer.pipe", Refuses())
    assert spacy_finder(pipeline)(["Peru"]) == [[Span(0, 4, "GPE")]]


def test_a_pipeline_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match=r"--model xx_none: no spaCy pipeline of that name .*spacy download xx_none"):
        spacy_finder("xx_none")


def test_a_pipeline_without_entities(tmp_path: Path) -> None:
    nlp = spacy.blank("en")
    nlp.add_pipe("sentencizer")
    nlp.to_disk(tmp_path)
    with pytest.raises(ConfigError, match=r"nothing in it finds entities \(it has sentencizer\); name a pipeline with"):
        spacy_finder(str(tmp_path))


def test_without_spacy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "spacy", None)
    with pytest.raises(ConfigError, match=r"--spans spacy needs spaCy: pip install 'realm-ds\[ner\]'"):
        spacy_finder("en_core_web_sm")
