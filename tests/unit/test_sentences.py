"""Clean text and its sentences: in every script, nothing lost, in time that grows with the length."""

import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realm_ds.prepare.documents import Tally
from realm_ds.prepare.sentences import clean, split_sentences


def cleaned(text: str) -> tuple[str, dict[str, int]]:
    tally = Tally()
    return clean(text, tally=tally, where="a:1"), dict(tally.counts)


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One came. Two went! Why? Nobody knew.", ["One came.", "Two went!", "Why?", "Nobody knew."]),
        ("In the 3rd century B.C. Rome rose. It fell.", ["In the 3rd century B.C. Rome rose.", "It fell."]),
        ("Donald J. Trump met Dr. Smith of the U.S. Senate.", ["Donald J. Trump met Dr. Smith of the U.S. Senate."]),
        ("Brig. Gen. Lee v. Grant, Vol. 3, No. 5, on Jan. 5.", ["Brig. Gen. Lee v. Grant, Vol. 3, No. 5, on Jan. 5."]),
        ("Ada (b. 1815, d. 1852) of St. Ives (c. 1900).", ["Ada (b. 1815, d. 1852) of St. Ives (c. 1900)."]),
        ("Ash et al. (2009) at Apple Inc. Park.", ["Ash et al. (2009) at Apple Inc. Park."]),
        ("Cars, etc. People left the U.S. In May it", ["Cars, etc.", "People left the U.S.", "In May it"]),
        ("At 25 \u00b0C. Due to it, 5\u00b0W. Oslo", ["At 25 \u00b0C.", "Due to it, 5\u00b0W.", "Oslo"]),
        ("George I. He sold Art. They said no. Oh!", ["George I.", "He sold Art.", "They said no.", "Oh!"]),
        ("John D. The Jr. However, Dr. The Ltd. x", ["John D.", "The Jr.", "However, Dr. The Ltd. x"]),
        ("It grew 3.5 percent. (See below.) Then", ["It grew 3.5 percent.", "(See below.)", "Then"]),
        ('He said "no." She left.', ['He said "no."', "She left."]),
        ("a heading\na line, 5 m. high", ["a heading", "a line, 5 m. high"]),
        (" \n ", []),
        ("¿Qué? ¡Sí! Él vino.", ["¿Qué?", "¡Sí!", "Él vino."]),
        ("Он пришёл. Она ушла, т. е. уехала.", ["Он пришёл.", "Она ушла, т. е. уехала."]),
        ("北京是首都。它很大！“是吗？”他问。", ["北京是首都。", "它很大！", "“是吗？”", "他问。"]),
        ("東京は首都。「はい。」と言う", ["東京は首都。", "「はい。」", "と言う"]),
        ("من أين؟ من هنا. نعم", ["من أين؟", "من هنا.", "نعم"]),
        ("यह घर है। वह बड़ा है॥ हाँ", ["यह घर है।", "वह बड़ा है॥", "हाँ"]),
    ],
)
def test_sentences(text: str, sentences: list[str]) -> None:
    assert split_sentences(text) == sentences


@given(text=st.text(st.sampled_from("ab AB.!?\"')(1\n。」؟।") | st.characters(codec="utf-8"), max_size=80))
def test_no_letter_is_lost(text: str) -> None:
    sentences = split_sentences(text)
    assert "".join("".join(sentences).split()) == "".join(text.split())
    assert all(sentence == sentence.strip() != "" for sentence in sentences)


@pytest.mark.parametrize("unit", ["A. ", "Dr. ", "(((", "a.)", ".", "。", "x ", "' "])
def test_time_grows_with_the_length(unit: str) -> None:
    def took_s(length: int) -> float:
        started_at = time.process_time()
        split_sentences(unit * (length // len(unit)))
        return time.process_time() - started_at

    # A square would take 64 times as long, not 8.
    assert took_s(400_000) < 24 * max(min(took_s(50_000) for _ in range(3)), 0.002)


@pytest.mark.parametrize(
    ("text", "expected", "counts"),
    [
        ("plain\ntext", "plain\ntext", {}),
        ("a\r\nb\rc\x0bd\x0ce\x85f\u2028g\u2029h", "a\nb\nc\nd\ne\nf\ng\nh", {}),
        ("a\tb\u00a0c\u3000d  e   f\u2009", "a b c d e f ", {}),
        ("a\0b\x1bc\x7fd", "abcd", {"control characters left out": 3}),
        ("co\u00adop\u200ber\u202eate\ufeff", "cooperate", {"invisible characters left out": 4}),
        ("caf\ufffd\ud800\udfff", "caf", {"unreadable characters left out": 3}),
        ("می\u200cخواهم क्\u200dष", "می\u200cخواهم क्\u200dष", {}),
        ("e\u0301 é", "e\u0301 é", {}),
    ],
)
def test_clean(text: str, expected: str, counts: dict[str, int]) -> None:
    assert cleaned(text) == (expected, counts)


@given(text=st.text(max_size=60))
def test_what_is_clean_stays_and_can_be_written(text: str) -> None:
    once, _ = cleaned(text)
    once.encode()
    assert cleaned(once) == (once, {})
    assert not any(unicodedata.category(letter) == "Cc" for letter in once.replace("\n", ""))
    assert "  " not in once


def test_where_it_was_met_first() -> None:
    tally = Tally()
    clean("a\0", tally=tally, where="a:1")
    clean("b\0", tally=tally, where="a:2")
    assert list(tally.lines()) == ["control characters left out: 2 (first: a:1)"]
