"""The regular expression for dates: every form that docs/data.md lists, every near-miss, and its time."""

import calendar
import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realm_ds.prepare import dates
from realm_ds.prepare.dates import DATE, find_dates

DOCS = Path(__file__).parents[2] / "docs" / "data.md"


def phrases(table: str) -> list[str]:
    """Those of one of the two tables in the section on dates."""
    section = DOCS.read_text().partition("## Dates")[2].partition("\n## ")[0]
    rows = section.partition(f"| {table} | |")[2].partition("\n\n")[0].splitlines()[2:]
    return [phrase.strip() for row in rows for phrase in row.split("|")[2].split(";")]


def found(text: str) -> list[str]:
    return [text[start:end] for start, end, _ in find_dates(text)]


def test_the_tables_are_there() -> None:
    assert len(phrases("taken")) > 60
    assert len(phrases("left")) > 30


@pytest.mark.parametrize("phrase", phrases("taken"))
def test_every_form_in_the_docs_is_one_span(phrase: str) -> None:
    wanted = re.findall(r"\*\*(.*?)\*\*", phrase)
    assert wanted
    assert found(phrase.replace("**", "")) == wanted


@pytest.mark.parametrize("phrase", phrases("left"))
def test_every_near_miss_in_the_docs_is_left(phrase: str) -> None:
    assert found(phrase) == []


@pytest.mark.parametrize("month", calendar.month_name[1:])
@pytest.mark.parametrize("form", ["5 {}", "{} 5, 1962", "{} 1962", "31st of {} 1962", "late {}"])
def test_every_month(month: str, form: str) -> None:
    date = form.format(month)
    assert found(f"it was on {date}, I think") == [date]


@pytest.mark.parametrize("day", ["0 July", "32 July", "July 0", "July 32", "2012-13-01", "2012-12-32", "40/40/2012"])
def test_no_such_day(day: str) -> None:
    assert day not in found(f"it was {day} then")


def test_the_end_of_a_sentence_is_not_of_the_date() -> None:
    assert found("They met in July 1962. It was 44 BC. Then 79 A.D.") == ["July 1962", "44 BC", "79 A.D."]


@pytest.mark.parametrize(
    "text",
    [
        "1" * 200_000,
        "1962-" * 40_000,
        "1,962" * 40_000,
        "5 July " * 30_000,
        "early " * 30_000,
        "the first half of " * 12_000,
        "first and first or first to " * 8_000,
        "19th, " * 30_000,
        "Fri Fri " * 25_000,
        "July-" * 40_000,
        "'" * 200_000,
        " " * 200_000,
        "Jan" * 60_000,
        "1 B. C " * 30_000,
    ],
    ids=lambda text: text[:12],
)
def test_time_is_linear_in_the_length(text: str) -> None:
    """200,000 characters take a fraction of a second; were it quadratic, they would take hours."""
    started_at = time.process_time()
    sum(1 for _ in find_dates(text))
    assert time.process_time() - started_at < 5


ATOMS = [
    "5", "July", "1962", "44", "BC", "A.D.", "early", "mid", "19th", "century", "the", "sixties", "'", "-", "\u2013",
    "/", ",", ".", "Monday", "of", "Q2", "FY", "end of the", "summer", "people", "s",
]  # fmt: skip


@given(
    st.lists(st.sampled_from(ATOMS), max_size=12).flatmap(
        lambda atoms: st.sampled_from(["", " "]).map(lambda joint: joint.join(atoms))
    )
    | st.text(max_size=60)
)
def test_dates_are_whole_words_in_order_and_apart(text: str) -> None:
    last_end = 0
    for start, end, kind in find_dates(text):
        assert last_end <= start < end <= len(text)
        assert kind == "DATE"
        assert text[start:end].strip() == text[start:end]
        assert not text[start - 1 : start].isalnum()
        assert not (text[end : end + 1].isalnum() and text[end - 1].isalnum())
        last_end = end


def without_looking_ahead() -> re.Pattern[str]:
    """DATE without what only saves time."""
    slow = DATE.pattern
    for opening in ("[0-9]", dates._OPENS_A_NAME, dates._OPENS_A_WORD):
        assert slow.count(f"(?={opening})") == 1
        slow = slow.replace(f"(?={opening})", "")
    return re.compile(slow, re.VERBOSE)


SLOW = without_looking_ahead()


@given(st.lists(st.sampled_from([*ATOMS, *phrases("taken")]), max_size=6).map(" ".join))
def test_looking_ahead_changes_nothing(text: str) -> None:
    text = text.replace("**", "")
    assert [match.span() for match in DATE.finditer(text)] == [match.span() for match in SLOW.finditer(text)]
