"""What a regex needs is in every text that it matches."""

import re
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from realm_ds.prepare.regex_literals import fold, required_literals

_ATOMS = st.sampled_from(["a", "b", "Sk", "\u017f", "\u0130i", "\u03a3", ".", r"\d", "[ab]", r"\b", "^", "(?i:k)", "K"])
_REGEXES = st.recursive(
    _ATOMS,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map("".join),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: f"({'|'.join(parts)})"),
        st.tuples(inner, st.sampled_from(["*", "+?", "?", "{2}", "{0,2}"])).map(lambda part: f"(?:{part[0]}){part[1]}"),
        inner.map(lambda part: f"(?={part})"),
    ),
    max_leaves=8,
)
_TEXTS = st.text(alphabet="abskSK1 \u017f\u0131\u0130\u212a\u03c3\u03c2\u03a3", max_size=12)


@given(_REGEXES, st.lists(_TEXTS, max_size=10))
@example("(a|b){2}", ["AB"])
@example("\u03c3k", ["a\u03c2\u212a"])
def test_whatever_matches_holds_a_literal(regex: str, texts: list[str]) -> None:
    literals = required_literals(regex)
    for text in texts:
        if literals is not None and re.search(regex, text, re.IGNORECASE | re.MULTILINE):
            assert any(literal in fold(text) for literal in literals)


@pytest.mark.parametrize(
    ("regex", "wanted"),
    [
        ("20,?320 f(ee|oo)t", {"320 F"}),
        ("(new york|lima) city", {" CITY"}),
        ("x*(lima|bogot\u00e1)", {"LIMA", "BOGOT\u00c1"}),
        (r"\d+ (km|miles)?", {" "}),
        (r"\d+", None),
        ("lima|.*", None),
        ("(?!lima)", None),
    ],
)
def test_the_longest_are_taken(regex: str, wanted: set[str] | None) -> None:
    assert required_literals(regex) == wanted


def test_letters_that_a_regex_takes_for_one_are_folded_to_one() -> None:
    letters = [letter for letter in map(chr, range(sys.maxunicode + 1)) if letter.lower() != letter.upper()]
    every = "".join(letters)
    for letter in letters[::7]:
        for alike in re.findall(re.escape(letter), every, re.IGNORECASE):
            assert fold(alike) == fold(letter), (letter, alike)
