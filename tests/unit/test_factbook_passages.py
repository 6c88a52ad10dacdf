"""The Factbook's passages: nothing is lost, cut or said twice, and everything fits."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realm_ds.data.records import passage_uid
from realm_ds.data.tokenizer import Tokenizer, train_wordpiece
from realm_ds.errors import DataError
from realm_ds.factbook.passages import Article, CutPassage, make_passages

WORDS = ["algeria", "borders", "libya", "since", "1962", "and", "desert", "kassaman", "uninhabitability"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    texts = [" ".join(WORDS) + "., ;: A. B!"] * 3
    return train_wordpiece(iter(texts), vocab_size=200, folder=tmp_path_factory.mktemp("tokenizer"))


def article(*sentences: str, title: str = "Algeria: Capital", lead: str = "Algeria, capital.") -> Article:
    return Article(title=title, article="Algeria", lead=lead, sentences=sentences)


def limit(tokenizer: Tokenizer, of: Article, *, room: int) -> int:
    """max_tokens that leave `room` wordpieces to the sentences."""
    return 3 + len(tokenizer.encode(of.title)) + len(tokenizer.encode(of.lead)) + room


def cut(tokenizer: Tokenizer, *articles: Article, max_tokens: int) -> list[CutPassage]:
    return list(make_passages(articles, tokenizer, max_tokens=max_tokens, dropped=Counter()))


@settings(max_examples=60)
@given(
    sentences=st.lists(
        st.lists(st.sampled_from(WORDS), min_size=1, max_size=9).map(lambda words: " ".join(words) + "."),
        min_size=1,
        max_size=12,
    ),
    max_tokens=st.integers(60, 130),
)
def test_passages_hold_every_sentence_in_order_and_fit(
    tokenizer: Tokenizer, sentences: list[str], max_tokens: int
) -> None:
    cuts = cut(tokenizer, article(*sentences, lead=""), max_tokens=max_tokens)
    texts = [part.passage.text for part in cuts]
    packed = list(dict.fromkeys(brute_force(tokenizer, sentences, room=max_tokens - 3 - title_tokens(tokenizer))))
    assert texts == packed
    for part in cuts:
        passage = part.passage
        assert 3 + len(passage.title_ids) + len(passage.body_ids) <= max_tokens
        assert list(passage.body_ids) == tokenizer.encode(passage.text)
        assert passage.uid == passage_uid(passage.title, passage.text)
        found = [list(passage.body_ids[start:end]) for start, end in passage.sentences]
        assert found == [tokenizer.encode(sentence) for sentence in part.sentences]


def title_tokens(tokenizer: Tokenizer) -> int:
    return len(tokenizer.encode("Algeria: Capital"))


def brute_force(tokenizer: Tokenizer, sentences: list[str], *, room: int) -> list[str]:
    texts: list[str] = []
    for sentence in sentences:
        longer = f"{texts[-1]} {sentence}" if texts else ""
        if texts and len(tokenizer.encode(longer)) <= room:
            texts[-1] = longer
        else:
            texts.append(sentence)
    return texts


def test_the_lead_opens_every_passage_and_belongs_to_its_first_sentence(tokenizer: Tokenizer) -> None:
    two = article("algeria borders libya.", "since 1962 desert.")
    cuts = cut(tokenizer, two, max_tokens=limit(tokenizer, two, room=7))
    assert [part.passage.text for part in cuts] == [
        "Algeria, capital. algeria borders libya.",
        "Algeria, capital. since 1962 desert.",
    ]
    assert all(len(part.passage.sentences) == 1 for part in cuts)


def test_the_same_title_and_text_come_once(tokenizer: Tokenizer) -> None:
    assert len(cut(tokenizer, article("desert."), article("desert."), max_tokens=60)) == 1
    assert len(cut(tokenizer, article("desert."), article("desert.", title="Libya"), max_tokens=60)) == 2


def test_an_over_long_sentence_is_divided_at_its_clauses(tokenizer: Tokenizer) -> None:
    long = article("algeria borders libya, desert and kassaman; since 1962 desert.")
    cuts = cut(tokenizer, long, max_tokens=limit(tokenizer, long, room=10))
    assert [part.passage.text for part in cuts] == [
        "Algeria, capital. algeria borders libya, desert and kassaman.",
        "Algeria, capital. since 1962 desert.",
    ]


def test_brackets_are_kept_whole_where_they_can_be(tokenizer: Tokenizer) -> None:
    long = article("algeria, libya (desert, kassaman), 1962", lead="")
    cuts = cut(tokenizer, long, max_tokens=limit(tokenizer, long, room=8))
    assert [part.passage.text for part in cuts] == ["algeria.", "libya (desert, kassaman).", "1962."]


def test_clauses_that_fit_nowhere_are_left_out_and_counted(tokenizer: Tokenizer) -> None:
    dropped: Counter[str] = Counter()
    long = article("uninhabitability " * 12, "desert.")
    max_tokens = limit(tokenizer, long, room=11)
    cuts = list(make_passages([long], tokenizer, max_tokens=max_tokens, dropped=dropped))
    assert [part.passage.text for part in cuts] == ["Algeria, capital. desert."]
    assert dropped == {"clauses longer than a passage": 1}


def test_an_article_of_nothing(tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match="article 'Algeria: Capital' has no text, it would be a passage of nothing"):
        cut(tokenizer, article(), max_tokens=40)
