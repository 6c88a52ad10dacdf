"""Texts encoded together have the wordpieces that each has alone."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realm_ds.data.joined import ENOUGH_CHARACTERS, SIGNS, JoinedEncoder
from realm_ds.data.tokenizer import Tokenizer, train_wordpiece

LETTERS = "abé\u0301ßİ 中한हिالع\u200d🙂.,|~'\n"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    texts = ["a b | c ab. aé 中한 हि"] * 3
    return train_wordpiece(iter(texts), vocab_size=150, folder=tmp_path_factory.mktemp("tokenizer"))


@settings(max_examples=300)
@given(texts=st.lists(st.text(st.sampled_from(LETTERS) | st.characters(codec="utf-8"), max_size=30), max_size=12))
def test_as_each_alone(tokenizer: Tokenizer, texts: list[str]) -> None:
    assert tokenizer.encode_all(texts) == [tokenizer.encode(text) for text in texts]


def recording(calls: list[list[str]], *, odd: str = "") -> JoinedEncoder:
    """A letter is a wordpiece, a space parts; `odd` is taken for the sign."""

    def encode_batch(texts: list[str]) -> list[list[int]]:
        calls.append(texts)
        return [[ord("~" if letter == odd else letter) for letter in text if letter != " "] for text in texts]

    return JoinedEncoder(encode_batch, {"~": ord("~")})


def test_texts_with_the_sign_go_alone() -> None:
    calls: list[list[str]] = []
    encoder = recording(calls)
    assert encoder.encode(["a", "b", "~c", "d", "", "e"]) == [[97], [98], [126, 99], [100], [], [101]]
    assert calls[-1] == ["a ~ b", "~c", "d ~  ~ e"]


def test_enough_is_encoded_together_and_no_more() -> None:
    calls: list[list[str]] = []
    encoder = recording(calls)
    texts = ["x" * (ENOUGH_CHARACTERS // 2)] * 5
    assert [len(ids) for ids in encoder.encode(texts)] == [ENOUGH_CHARACTERS // 2] * 5
    assert [text.count("~") for text in calls[-1]] == [1, 1, 0]


def test_what_becomes_the_sign_is_noticed() -> None:
    calls: list[list[str]] = []
    assert recording(calls, odd="b").encode(["a", "b"]) == [[97], [126]]
    assert calls[-1] == ["a", "b"]


def test_a_tokenizer_that_tells_no_sign_gets_texts_one_by_one(tmp_path: Path) -> None:
    calls: list[list[str]] = []

    def encode_batch(texts: list[str]) -> list[list[int]]:
        calls.append(texts)
        return [[len(text)] for text in texts]

    assert JoinedEncoder(encode_batch, {sign: number for number, sign in enumerate(SIGNS)}).encode(["a", "bc"]) == [
        [1], [2],
    ]  # fmt: skip
    assert calls[-1] == ["a", "bc"]
