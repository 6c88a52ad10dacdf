"""Passages of documents: no word is lost, everything fits, and wordpieces are those of the text."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realm_ds.data.records import Passage, passage_uid
from realm_ds.data.tokenizer import Tokenizer, train_wordpiece
from realm_ds.prepare.documents import Document, Tally
from realm_ds.prepare.packing import LEAST_TOKENS, divide, make_passages
from realm_ds.prepare.sentences import clean, split_sentences

WORDS = ["algeria", "Borders", "libya,", "since", "1962", "and", "désert;", "kassaman", "uninhabitability", "(oran)"]
SPECIAL = ("[MASK]", "[SEP]", "[CLS]", "[PAD]", "[UNK]")
LETTERS = "abé\u0301ñßİŉ 中国。，한국어हिन्दी।العربية؟Ως\u200c\u200d🙂.,;:!?-()[]'\"0 "


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    texts = [" ".join(WORDS) + "., ;: A. B! 中国한국 हिन्दी العربية é ñ"] * 3
    return train_wordpiece(iter(texts), vocab_size=260, folder=tmp_path_factory.mktemp("tokenizer"))


def document(text: str, *, title: str = "Algeria") -> Document:
    return Document(id="dz", title=title, text=text, where="a:1")


def passages_of(tokenizer: Tokenizer, *documents: Document, max_tokens: int = 64) -> tuple[list[Passage], Tally]:
    tally = Tally()
    return list(make_passages(documents, tokenizer, max_tokens=max_tokens, tally=tally)), tally


def check(tokenizer: Tokenizer, passage: Passage, *, max_tokens: int) -> None:
    assert 3 + len(passage.title_ids) + len(passage.body_ids) <= max_tokens
    assert list(passage.title_ids) == tokenizer.encode(passage.title)
    assert list(passage.body_ids) == tokenizer.encode(passage.text)
    special = tokenizer.special
    assert {special.pad, special.cls, special.sep, special.mask}.isdisjoint(passage.title_ids + passage.body_ids)
    assert passage.uid == passage_uid(passage.title, passage.text)
    starts, ends = zip(*passage.sentences, strict=True)
    assert (0, *ends) == (*starts, len(passage.body_ids))
    assert all(start < end for start, end in passage.sentences)


sentence_lists = st.lists(
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=7).map(lambda words: f"{' '.join(words).capitalize()}."),
    min_size=1,
    max_size=20,
)


@settings(max_examples=60)
@given(sentences=sentence_lists, max_tokens=st.integers(110, 140))
def test_packed_as_the_original_does(tokenizer: Tokenizer, sentences: list[str], max_tokens: int) -> None:
    passages, tally = passages_of(tokenizer, document(" ".join(sentences)), max_tokens=max_tokens)
    expected: list[str] = []
    for sentence in sentences:
        longer = f"{expected[-1]} {sentence}" if expected else ""
        if expected and 3 + len(tokenizer.encode("Algeria")) + len(tokenizer.encode(longer)) <= max_tokens:
            expected[-1] = longer
        else:
            expected.append(sentence)
    assert [passage.text for passage in passages] == expected
    assert tally.counts == {"documents": 1}
    for passage in passages:
        check(tokenizer, passage, max_tokens=max_tokens)
        assert len(passage.sentences) == len(split_sentences(passage.text))
        assert passage.article == "dz"


@settings(max_examples=300)
@given(
    text=st.lists(st.sampled_from([*LETTERS, *SPECIAL]) | st.characters(codec="utf-8"), max_size=120)
    .map("".join)
    .map(lambda text: text * 3),
    title=st.lists(st.sampled_from([*LETTERS, *SPECIAL]), max_size=40).map("".join),
    max_tokens=st.integers(LEAST_TOKENS, 60),
)
def test_any_text_fits_and_its_wordpieces_are_its_own(
    tokenizer: Tokenizer, text: str, title: str, max_tokens: int
) -> None:
    passages, _ = passages_of(tokenizer, document(text, title=title), max_tokens=max_tokens)
    for passage in passages:
        check(tokenizer, passage, max_tokens=max_tokens)
    found = [token for passage in passages for token in passage.body_ids]
    whole = [
        token
        for sentence in split_sentences(clean(text, tally=Tally(), where=""))
        for token in tokenizer.encode(sentence)
    ]
    if max_tokens >= 50:  # no word of these has more wordpieces than fit
        assert found == whole


@given(words=st.lists(st.sampled_from(WORDS), max_size=120), room=st.integers(12, 40))
def test_pieces_of_a_long_sentence(tokenizer: Tokenizer, words: list[str], room: int) -> None:
    text = " ".join(words)
    pieces = list(divide(text, tokenizer, room=room))
    assert " ".join(piece for piece, _ in pieces) == text
    assert all(ids == tokenizer.encode(piece) and len(ids) <= room for piece, ids in pieces)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("since 1962 and since 1962; and since, 1962 and", ["since 1962 and since 1962;", "and since, 1962 and"]),
        ("since 1962 and since, 1962 and since, 1962", ["since 1962 and since,", "1962 and since, 1962"]),
        ("since 1962 since 1962 (oran since 1962 oran)", ["since 1962 since 1962", "(oran since 1962 oran)"]),
        ("since 1962 since 1962 and since 1962 since 1962", ["since 1962 since 1962", "and since 1962 since 1962"]),
        ("since 1962 since 1962 since 1962 since 1962 since", ["since 1962 since 1962 since 1962 since 1962", "since"]),
        ("中国中国中国中国中国", ["中国中国中国中国", "中国"]),
    ],
)
def test_where_a_long_sentence_is_divided(tokenizer: Tokenizer, text: str, pieces: list[str]) -> None:
    assert [piece for piece, _ in divide(text, tokenizer, room=8)] == pieces


def test_a_word_longer_than_a_passage_is_divided_within(tokenizer: Tokenizer) -> None:
    word = "blyn" * 15
    assert len(tokenizer.encode(word)) > 29
    passages, _ = passages_of(tokenizer, document(f"since {word} 1962", title=""), max_tokens=32)
    assert "".join(passage.text for passage in passages).replace(" ", "") == f"since{word}1962"
    for passage in passages:
        check(tokenizer, passage, max_tokens=32)


def test_a_title_takes_no_more_than_half(tokenizer: Tokenizer) -> None:
    passages, tally = passages_of(tokenizer, document("since 1962", title="algeria \n\0" * 60), max_tokens=35)
    check(tokenizer, passages[0], max_tokens=35)
    assert passages[0].title.split() == ["algeria"] * (16 // len(tokenizer.encode("algeria")))
    assert tally.counts["titles cut"] == 1
    assert tally.first["titles cut"] == "a:1"


def test_passages_cross_no_documents_and_empty_ones_are_counted(tokenizer: Tokenizer) -> None:
    texts = ["since 1962", " \n ", "", "\u0301 \0", "since"]
    passages, tally = passages_of(tokenizer, *(document(text) for text in texts))
    assert [passage.text for passage in passages] == ["since 1962", "since"]
    assert tally.counts == {"documents": 2, "documents without text": 3, "control characters left out": 1}


def test_documents_that_are_equal_are_two(tokenizer: Tokenizer) -> None:
    same = document("since 1962")
    assert len(passages_of(tokenizer, same, same, document("since 1962"))[0]) == 3


@pytest.mark.parametrize("unit", ["since ", "中", "blyn", "a.b;"])
def test_a_line_without_end_is_encoded_in_parts(
    tokenizer: Tokenizer, unit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    encode_all, encode_with_words = tokenizer.encode_all, tokenizer.encode_with_words

    def watch_all(texts: Sequence[str]) -> list[list[int]]:
        assert max(map(len, texts)) <= 20_000
        sizes.append(sum(map(len, texts)))
        return encode_all(texts)

    def watch_one(text: str) -> tuple[list[int], list[tuple[int, int]], list[int | None]]:
        sizes.append(len(text))
        return encode_with_words(text)

    monkeypatch.setattr(tokenizer, "encode_all", watch_all)
    monkeypatch.setattr(tokenizer, "encode_with_words", watch_one)
    length = 250_000
    passages, _ = passages_of(tokenizer, document(unit * (length // len(unit))), max_tokens=288)
    assert max(sizes) <= 220_000
    assert sum(sizes) <= 2 * length + 100  # linear: all of it twice at most
    assert sum(len(passage.text.replace(" ", "")) for passage in passages) == length // len(unit) * len(unit.strip())
