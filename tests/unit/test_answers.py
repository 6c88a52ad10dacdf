"""What an answer is, and scoring, against cases worked by hand."""

import unicodedata

import pytest

from realm_ds.data.answers import AnswerFinder, answer_pattern, holds_answer, normalise
from realm_ds.data.records import Question
from realm_ds.errors import DataError
from realm_ds.eval.answers import is_right, token_f1


def _asked(*answers: str, is_regex: bool = False) -> Question:
    return Question(id="1", question="?", answers=answers, is_regex=is_regex)


@pytest.mark.parametrize(
    ("raw", "wanted"),
    [
        ("The  U.S. Dollar (USD)", "us dollar usd"),
        ("1,234.5 sq km", "12345 sq km"),
        ("an  apple\na day", "apple day"),
        ("Theatre", "theatre"),  # an article inside a word stays
        ("the-end", "theend"),  # punctuation goes before articles do
        ("¿Qué?", "¿" + unicodedata.normalize("NFD", "qué")),  # only ASCII punctuation; accents stay
        ("", ""),
        ("The", ""),
    ],
)
def test_normalise(raw: str, wanted: str) -> None:
    assert normalise(raw) == wanted


def test_exact_match_takes_any_answer() -> None:
    assert is_right("the Swiss franc", _asked("euro", "Swiss Franc"))
    assert not is_right("franc", _asked("euro", "Swiss Franc"))
    assert not is_right("franc", _asked())
    assert is_right(unicodedata.normalize("NFC", "Bogotá"), _asked(unicodedata.normalize("NFD", "bogotá")))
    assert not is_right("Bogota", _asked("Bogotá"))  # as REALM's authors score; DPR's script would accept it


def test_token_f1_by_hand() -> None:
    assert token_f1("Mont Blanc peak", _asked("Mont Blanc")) == pytest.approx(2 * 2 / (3 + 2))
    assert token_f1("Mont Blanc", _asked("Everest", "the Mont")) == pytest.approx(
        2 * 1 / (2 + 1)
    )  # the best answer counts
    assert token_f1("b b", _asked("b")) == pytest.approx(2 / 3)  # a word is shared as often as both have it
    assert token_f1("x", _asked("y")) == 0.0
    assert token_f1("", _asked("y")) == 0.0
    assert token_f1("the", _asked("a")) == 1.0  # both are nothing once normalised
    assert token_f1("x", _asked()) == 0.0


def test_holds_answer_wants_whole_words() -> None:
    assert holds_answer("The capital is Niamey.", _asked("niamey"))
    assert not holds_answer("Nigeria borders Benin", _asked("Niger"))
    assert holds_answer("an area of 1,234 sq km", _asked("1,234 sq km"))
    assert not holds_answer("a b", _asked("the", ""))  # nothing is held nowhere


@pytest.mark.parametrize("is_regex", [False, True])
def test_texts_are_looked_at_up_to_the_first_that_holds_an_answer(
    monkeypatch: pytest.MonkeyPatch, is_regex: bool
) -> None:
    texts = {9: "The Rhine.", 4: "Basel", 7: "the rhine, again", 1: "Basel"}
    normalised: list[str] = []
    monkeypatch.setattr("realm_ds.data.answers.normalise", lambda text: normalised.append(text) or normalise(text))
    finder, rhine, basel = AnswerFinder(texts), _asked("rhine", is_regex=is_regex), _asked("Basel", is_regex=is_regex)
    assert finder.holding(texts, rhine, at_least=0) == [True]
    assert finder.holding(texts, rhine, at_least=3) == [True, False, True]
    assert finder.holding(texts, basel, at_least=1) == [False, True]
    assert finder.holding([9, 7], basel, at_least=1) == [False, False]
    assert finder.holding(texts, basel, at_least=4) == [False, True, False, True]
    if not is_regex:  # each text once, though some were looked at five times
        assert set(normalised) == {*texts.values(), "rhine"}
        assert [normalised.count(text) for text in ("The Rhine.", "the rhine, again")] == [1, 1]


def test_a_regex_is_matched_at_the_start_of_a_prediction_and_searched_in_a_text() -> None:
    feet = _asked(r"20,?320 f(ee|oo)t", r"the\s+summit", is_regex=True)
    assert is_right("20320 FEET high", feet)
    assert is_right("The  Summit", feet)
    assert not is_right("at 20,320 feet", feet)
    assert holds_answer("It is 20,320 feet high.", feet)
    assert not holds_answer("It is 20320ft high.", feet)
    assert (token_f1("20,320 foot", feet), token_f1("20,320", feet)) == (1.0, 0.0)


def test_a_regex_that_never_ends_is_found_nowhere_and_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("realm_ds.data.answers.LONGEST_MATCH_S", 1e-3)
    monkeypatch.setattr("realm_ds.data.answers._given_up", set())
    endless = _asked(r"(a|aa)+$", r"a b", is_regex=True)  # the first tries every way to cut 60 letters up
    text = "a" * 60 + " b"
    assert holds_answer(text, endless)  # by its other answer
    assert is_right("a b", endless)
    assert not is_right("b a", endless)
    assert [record.getMessage()[:45] for record in caplog.records] == ["the answer '(a|aa)+$' takes more than 0.001 s"]


@pytest.mark.parametrize("regex", ["(", "*", "a{99999999999}", "(?P<n>a"])
def test_what_is_no_regex_is_named(regex: str) -> None:
    with pytest.raises(DataError, match=r"the answer '.*' is no regular expression \(.*\); mend it or leave it out"):
        answer_pattern(regex)
