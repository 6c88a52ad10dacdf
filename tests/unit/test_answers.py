"""Answer scoring against cases worked by hand."""

import unicodedata

import pytest

from realm_ds.eval.answers import exact_match, holds_answer, normalise, token_f1


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
    assert exact_match("the Swiss franc", ["euro", "Swiss Franc"])
    assert not exact_match("franc", ["euro", "Swiss Franc"])
    assert not exact_match("franc", [])
    assert exact_match(unicodedata.normalize("NFC", "Bogotá"), [unicodedata.normalize("NFD", "bogotá")])
    assert not exact_match("Bogota", ["Bogotá"])  # as REALM's authors score; DPR's script would accept it


def test_token_f1_by_hand() -> None:
    assert token_f1("Mont Blanc peak", ["Mont Blanc"]) == pytest.approx(2 * 2 / (3 + 2))
    assert token_f1("Mont Blanc", ["Everest", "the Mont"]) == pytest.approx(2 * 1 / (2 + 1))  # the best answer counts
    assert token_f1("b b", ["b"]) == pytest.approx(2 / 3)  # a word is shared as often as both have it
    assert token_f1("x", ["y"]) == 0.0
    assert token_f1("", ["y"]) == 0.0
    assert token_f1("the", ["a"]) == 1.0  # both are nothing once normalised
    assert token_f1("x", []) == 0.0


def test_holds_answer_wants_whole_words() -> None:
    assert holds_answer(normalise("The capital is Niamey."), ["niamey"])
    assert not holds_answer(normalise("Nigeria borders Benin"), ["Niger"])
    assert holds_answer(normalise("an area of 1,234 sq km"), ["1,234 sq km"])
    assert not holds_answer(normalise("a b"), ["the", ""])  # nothing is held nowhere
