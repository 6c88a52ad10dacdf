"""The rule-based finder of salient spans, on texts made by hand and on texts made at random."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realm_ds.prepare.spans import salient_spans, single_names


def found(text: str, *known: str) -> list[str]:
    return [text[start:end] for start, end in salient_spans(text, known=frozenset(known))]


@pytest.mark.parametrize(
    "date",
    [
        "5 July 1962",
        "5-7 July 1962",
        "July 5, 1962",
        "July 1962",
        "5 July",
        "mid-July 1962",
        "1962",
        "1992-98",
        "1990s",
        "late 1990s",
        "mid-to-late 1990s",
        "19th century",
        "3rd century B.C.",
        "44 B.C.",
    ],
)
def test_every_documented_form_of_a_date_is_one_span(date: str) -> None:
    assert found(f"it was founded in the {date}, as they say") == [date]


@pytest.mark.parametrize(
    "number",
    [
        "2,908 m",
        "2.4 million sq km",
        "99%",
        "7.5 percent",
        "$3.2 billion",
        "US$40",
        "100,000",
        "12 million",
        "18 years",
    ],
)
def test_a_number_is_found_with_its_unit(number: str) -> None:
    assert found(f"it has about {number} in all") == [number]


def test_a_number_without_a_unit_is_no_span() -> None:
    assert found("there are 58 of them and 7 more") == []


def test_a_year_is_no_span_where_it_counts_something() -> None:
    assert found("it is 1962 km long") == ["1962 km"]


def test_a_name_of_several_words_is_one_span() -> None:
    text = "they bought it from the Bank of the West Indies and Jean de la Fontaine in the end"
    assert found(text) == ["Bank of the West Indies", "Jean de la Fontaine"]


def test_a_single_capitalised_word_opening_a_sentence_counts_only_if_known() -> None:
    text = "Algeria won. Widespread protests broke out."
    assert found(text) == []
    assert found(text, "Algeria") == ["Algeria"]


def test_surnames_in_capitals_count_wherever_they_stand() -> None:
    assert found("BOUTEFLIKA resigned.") == ["BOUTEFLIKA"]


def test_function_words_and_possessives_are_not_part_of_a_name() -> None:
    assert found("In the end The Hague Court met; In New Zealand's south it rains") == ["Hague Court", "New Zealand"]


def test_a_date_is_not_also_a_name() -> None:
    assert found("the treaty of 12 March 1968 holds") == ["12 March 1968"]


def test_single_names_are_those_seen_within_sentences() -> None:
    texts = ["it fell to Peru.", "and then Peru fell.", "Widespread unrest came.", "only Chile once"]
    assert single_names(texts) == {"Peru"}


@given(
    st.lists(
        st.sampled_from(
            [
                "In",
                "the",
                "5 July 1962",
                "1990s",
                "Algeria",
                "TEBBOUNE",
                "of",
                "12%",
                "$3 billion",
                ".",
                "'s",
                "\n",
                "-",
            ]
        ),
        max_size=12,
    ).map(" ".join)
    | st.text(max_size=60)
)
def test_spans_lie_within_the_text_sorted_apart_and_not_empty(text: str) -> None:
    last_end = 0
    for start, end in salient_spans(text):
        assert last_end <= start < end <= len(text)
        assert text[start:end].strip() == text[start:end]
        last_end = end
