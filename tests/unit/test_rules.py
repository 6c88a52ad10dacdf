"""Names and quantities by rule, on texts made by hand and on texts made at random."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realm_ds.prepare.rules import find_names_and_quantities, salient_spans, single_names


def found(text: str, *known: str) -> list[str]:
    return [text[start:end] for start, end, _ in salient_spans(text, known=frozenset(known))]


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


def test_a_comma_behind_a_number_is_not_of_it() -> None:
    assert found("in all 7,500, inhabitants said") == ["7,500"]


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


def test_a_name_ends_where_a_date_begins() -> None:
    assert found("they joined Mongolia's June 2021 talks") == ["Mongolia", "June 2021"]


def test_initials_are_of_a_name_but_do_not_join_sentences() -> None:
    assert found("the pen of J.R.R. Tolkien and of George W. Bush") == ["J.R.R. Tolkien", "George W. Bush"]
    assert found("the U.S. Army fought in World War I. The end") == ["U.S. Army", "World War I"]
    assert found("it was 500 B.C. Norse Men came") == ["500 B.C.", "Norse Men"]


@pytest.mark.parametrize(
    "name",
    [
        "J. K. Rowling",
        "Ludwig van Beethoven",
        "New York City",
        "St. Louis",
        "Mt. Pelion",
        "U.S.",
        "U.S.S.R.",
        "U.S. Fish and Wildlife Service",
        "Sammy Davis, Jr.",
        "Apple Inc.",
        "Bosnia and Herzegovina",
        "Saint Vincent and the Grenadines",
        "Alexander the Great",
        "Newcastle upon Tyne",
        "C\u00f4te d'Ivoire",
        "Santa Mar\u00eda de los \u00c1ngeles",
        "Johnson & Johnson",
        'William "Duff" Armstrong',
        "Women's World Cup",
        "Golfers' Association",
        "St. Patrick's Day",
        "Blu-ray",
        "Academy Award for Best Picture",
        "Stratford-upon-Avon",
        "Flannery O'Connor",
        "BBC TV",
        "USA Today",
        "Theresa May",
    ],
)
def test_a_name_is_not_cut(name: str) -> None:
    assert found(f"it was {name} in the end") == [name]
    assert found(f"it was {name}, in the end") == [name]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("then Dr. Smith met Prime Minister John Major and Sir Paul", ["Smith", "John Major", "Paul"]),
        (
            "a Frank Sinatra-style singer of pro-British, Brazilian-made shirts",
            ["Frank Sinatra", "British", "Brazilian"],
        ),
        (
            "with NASA's Apollo Program and Vancouver Canucks' Marek Malik",
            ["NASA", "Apollo Program", "Vancouver Canucks", "Marek Malik"],
        ),
        ("at Tobago The share, and when Peru It fell", ["Tobago", "Peru"]),
        ("that President March and the King, part II, on TV at 3 GHz", []),
        ("then SEE ALSO and EXTERNAL LINKS came", []),
        ("Does Nuclear Power help? Unlike Peru", ["Nuclear Power", "Peru"]),
        ("he went to Paris ten times for Best", ["Paris", "Best"]),
    ],
)
def test_what_is_around_a_name_is_not_of_it(text: str, names: list[str]) -> None:
    assert found(text) == names


def test_a_run_of_too_many_capitalised_words_is_no_name() -> None:
    assert found("see " + " ".join(["Word"] * 7)) == []


@pytest.mark.parametrize("opening", ["* Having", "yes: Having", 'he said. "Having'])
def test_a_word_behind_a_mark_opens_a_sentence(opening: str) -> None:
    assert found(f"so {opening} it is") == []


def test_single_names_are_those_seen_within_sentences_and_never_in_lower_case() -> None:
    texts = ["it fell to Peru.", "and then Peru fell.", "Widespread unrest came.", "only Chile once"]
    texts += ["the State and the State, a state", "so Ada King met Don King"]
    assert single_names(texts) == {"Peru", "King"}


def test_the_sentences_at_hand_say_what_is_a_name() -> None:
    sentences = ["Knox ran.", "so Knox and Knox ran.", "Running is 7 km."]
    kinds = [
        [(s[start:end], kind) for start, end, kind in spans]
        for s, spans in zip(sentences, find_names_and_quantities(sentences), strict=True)
    ]
    assert kinds == [[("Knox", "NAME")], [("Knox", "NAME"), ("Knox", "NAME")], [("7 km", "QUANTITY")]]
    assert find_names_and_quantities(sentences[:1]) == [[]]
    assert find_names_and_quantities([]) == []


@pytest.mark.parametrize(
    "text",
    [
        "1" * 200_000, "1," * 100_000, "The " * 50_000, "Of The " * 30_000, "A.B." * 50_000, "A" * 200_000,
        "(" * 200_000, '("A ' * 50_000, "Aa of " * 30_000,
        "A-" * 100_000, "A'" * 100_000, "Aa The " * 30_000, "St. " * 50_000, "U.S." * 50_000, 'A "B" ' * 30_000,
        "Dr. Sir " * 25_000, "12.5 million " * 15_000,
    ],
    ids=lambda text: text[:8],
)  # fmt: skip
def test_time_is_linear_in_the_length(text: str) -> None:
    """200,000 characters take a fraction of a second; were it quadratic, they would take hours."""
    started_at = time.process_time()
    find_names_and_quantities([text])
    assert time.process_time() - started_at < 5


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
    for start, end, _ in salient_spans(text):
        assert last_end <= start < end <= len(text)
        assert text[start:end].strip() == text[start:end]
        last_end = end
