"""Statements and questions of the demo, and that training tells nothing that is held out."""

import pytest

from realm_ds.factbook.facts import Fact
from realm_ds.factbook.questions import Secrets, is_in_wording, questions_of, split_of, statements_of

NAMES = {
    "Algeria": "Algeria",
    "Libya": "Libya",
    "Guinea": "Guinea",
    "Guinea-Bissau": "Guinea-Bissau",
    "United Kingdom": "United Kingdom",
    "UK": "United Kingdom",
}


def fact(entity: str, field: str, *answers: str, subjects: tuple[str, ...] = (), **slots: str) -> Fact:
    return Fact(
        entity=entity,
        subjects=subjects or (entity,),
        slots={"e": entity, **slots},
        field=field,
        answers=answers,
        homes=((entity, field, ""),),
    )


def test_a_statement_knows_where_its_answer_stands() -> None:
    said = statements_of(fact("the Gambia", "capital", "Banjul"), limit=99, seed=0)
    assert len(said) >= 3
    assert {statement.text[slice(*statement.span)] for statement in said} == {"Banjul"}
    assert {statement.answer for statement in said} == {"Banjul"}
    assert all(statement.text[0].isupper() for statement in said)
    assert len({statement.id for statement in said}) == len(said)


def test_wordings_are_chosen_by_hash_and_limited() -> None:
    capital = fact("Algeria", "capital", "Algiers")
    assert statements_of(capital, limit=2, seed=1) == statements_of(capital, limit=2, seed=1)
    assert len(questions_of(capital, limit=1, seed=1)) == 1
    drawn = {questions_of(capital, limit=1, seed=seed)[0].text for seed in range(30)}
    assert len(drawn) == len(questions_of(capital, limit=99, seed=0))


def test_each_of_several_true_answers_is_told() -> None:
    said = statements_of(fact("Algeria", "neighbour", "Libya", "Mali"), limit=99, seed=0)
    assert {statement.answer for statement in said} == {"Libya", "Mali"}
    assert {s.answer for s in statements_of(fact("Algeria", "chief of state", "A TEB", "TEB"), limit=9, seed=0)} == {
        "A TEB"
    }


def test_splits_have_their_shares_and_follow_the_seed() -> None:
    facts = [fact(f"E{number}", "capital", "x") for number in range(3000)]
    splits = [split_of(one, seed=0) for one in facts]
    assert splits == [split_of(one, seed=0) for one in facts]
    assert splits != [split_of(one, seed=1) for one in facts]
    assert 0.66 < splits.count("train") / 3000 < 0.74
    assert 0.07 < splits.count("dev") / 3000 < 0.13


@pytest.mark.parametrize(
    ("text", "is_told"),
    [
        ("Libya shares a land border with Algeria.", True),  # from the other side
        ("In Libya, north of ALGERIA, it rains.", True),
        ("Libya is large.", False),
        ("Algeria is large.", False),
        ("Algerian and Libyan", False),
    ],
)
def test_a_border_is_told_from_either_side(text: str, is_told: bool) -> None:
    secrets = Secrets([fact("Algeria", "neighbour", "Libya", "Mali")], NAMES)
    assert (secrets.told(text) is not None) == is_told


def test_a_text_about_an_entity_tells_without_naming_it() -> None:
    secrets = Secrets([fact("Algeria", "chief of state", "Abdelmadjid TEBBOUNE", "TEBBOUNE")], NAMES)
    assert secrets.told("Tebboune was elected.") is None
    assert secrets.told("Tebboune was elected.", about=("Algeria",)) is not None


def test_other_names_of_an_entity_count() -> None:
    secrets = Secrets([fact("United Kingdom", "capital", "London")], NAMES)
    assert secrets.told("the UK is ruled from London") is not None


def test_a_name_within_a_name_tells_nothing() -> None:
    secrets = Secrets([fact("Guinea-Bissau", "neighbour", "Guinea"), fact("Guinea", "capital", "Conakry")], NAMES)
    assert secrets.told("Guinea-Bissau is small.") is None
    assert secrets.told("Guinea-Bissau is not Conakry.") is None
    assert secrets.told("Guinea-Bissau borders Guinea.") is not None


def test_the_length_of_a_border_is_told_only_with_both_sides() -> None:
    border = fact("Algeria and Libya", "border length", "989 km", subjects=("Algeria", "Libya"), f="Libya")
    secrets = Secrets([border], NAMES)
    assert secrets.told("Algeria and Libya, 989 km") is border
    assert secrets.told("Algeria, 989 km") is None


def test_an_answer_that_stands_in_the_question_is_seen() -> None:
    assert is_in_wording(fact("Aruba", "legislature", "Legislature"))
    assert not is_in_wording(fact("Aruba", "legislature", "Parliament of Aruba"))


def test_ids_name_the_entity_and_the_field() -> None:
    assert questions_of(fact("Algeria", "capital", "Algiers"), limit=1, seed=0)[0].id.startswith("Algeria/capital/q")
