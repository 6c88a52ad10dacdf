"""What is excluded, against sets and loops; and that the shard then finds others in its place."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realm_ds.data.records import NO_ARTICLE, NO_UID, article_id
from realm_ds.errors import IndexFault
from realm_ds.index.exclusion import Exclusion, exclude_nothing, ngrams_of
from realm_ds.index.factory import IndexSpec
from realm_ds.index.faiss_index import VectorTable
from realm_ds.index.messages import NO_HIT
from realm_ds.index.passages import PassageShard
from realm_ds.index.shard import build_shard
from tests.support.records import make_passage

Ids = tuple[int, ...]


def exclusion(
    uids: list[int], articles: list[str], texts: list[Ids], *, ngram: int = 2, most_shared: float = 0.5
) -> Exclusion:
    ngrams = [ngrams_of(np.array(ids), ngram) for ids in texts]
    return Exclusion(
        uids_B=np.array(uids, dtype=np.int64),
        articles_B=np.array([article_id(article) for article in articles], dtype=np.int64),
        ngrams_G=np.concatenate(ngrams),
        num_ngrams_B=np.array([len(of_query) for of_query in ngrams], dtype=np.int32),
        ngram=ngram,
        most_shared=most_shared,
    )


def shared(text: Ids, body: Ids, ngram: int) -> float:
    """The share of the text's distinct n-grams that the body holds."""
    wanted = {text[place : place + ngram] for place in range(len(text) - ngram + 1)}
    there = {body[place : place + ngram] for place in range(len(body) - ngram + 1)}
    return len(wanted & there) / len(wanted) if wanted else 0.0


def passage(uid: int, article: str, body: Ids):
    made = make_passage(uid)
    return made.__class__(
        **{**vars(made), "uid": uid, "article": article, "title_ids": (9,) * (uid % 3), "body_ids": body,
           "sentences": ((0, len(body)),)}
    )  # fmt: skip


BODIES = st.lists(st.integers(1, 4), min_size=1, max_size=9).map(tuple)


@settings(max_examples=150)
@given(
    st.lists(st.tuples(st.sampled_from("abc"), BODIES), min_size=1, max_size=14),
    st.lists(st.tuples(st.integers(0, 16), st.sampled_from(["", "a", "b"]), BODIES), max_size=5),
    st.sampled_from([1, 2, 3]),
    st.sampled_from([0.2, 0.5, 0.9, 1.0]),
    st.integers(1, 8),
)
def test_the_shard_returns_the_best_of_what_is_not_excluded(corpus, queries, ngram, most_shared, num_hits):
    passages = [passage(number + 1, article, body) for number, (article, body) in enumerate(corpus)]
    shard = PassageShard.from_passages(passages, start=0)
    random = np.random.default_rng(len(corpus))
    vectors = random.integers(-3, 4, size=(len(passages), 3)).astype(np.float32)
    asked = random.integers(-3, 4, size=(len(queries), 3)).astype(np.float32)
    built = build_shard(shard, VectorTable.of(vectors), version=0, spec=IndexSpec())
    uids, articles, texts = ([query[part] for query in queries] for part in range(3))
    out = exclusion(uids, articles, texts, ngram=ngram, most_shared=most_shared) if queries else exclude_nothing(0)
    found = built.search(asked, num_hits=num_hits, exclusion=out)
    for row, (uid, article, text) in enumerate(queries):
        left = [
            (-float(asked[row] @ vector), one.uid)
            for one, vector in zip(passages, vectors, strict=True)
            if one.uid != uid and (not article or one.article != article)
            and shared(text, one.body_ids, ngram) <= most_shared
        ]  # fmt: skip
        best = [uid for _, uid in sorted(left)][:num_hits]
        assert found.uids_BK[row].tolist() == best + (num_hits - len(best)) * [NO_HIT]


def test_ngrams_of_one_query_are_not_taken_for_those_of_another():
    """A corpus and queries that keys of too simple a form once mixed up."""
    passages = [passage(number + 1, "a", body) for number, body in enumerate([(1,), (4, 3), (1,), (1,), (1,), (1,)])]
    shard = PassageShard.from_passages(passages, start=0)
    out = exclusion(5 * [0], 5 * [""], [(1,), (1, 3), (1,), (1,), (1,)], most_shared=0.2)
    assert not out.of(np.tile(np.arange(6), (5, 1)), shard).any()


def test_rows_of_an_exclusion_keep_their_own_ngrams():
    whole = exclusion([1, 2, 3], ["a", "", "b"], [(1, 2, 3), (4,), (5, 6)])
    part = whole.at(np.array([2, 0]))
    assert part.uids_B.tolist() == [3, 1]
    assert part.articles_B.tolist() == [article_id("b"), article_id("a")]
    assert part.num_ngrams_B.tolist() == [1, 2]
    assert part.ngrams_G.tolist() == [*ngrams_of(np.array([5, 6]), 2), *ngrams_of(np.array([1, 2, 3]), 2)]
    assert len(whole.at(np.array([], dtype=int))) == 0


def test_ngrams_are_distinct_ascending_and_of_the_length_asked_for():
    assert len(ngrams_of(np.array([1, 2, 1, 2, 1]), 2)) == 2
    assert len(ngrams_of(np.array([1, 2]), 3)) == 0
    found = ngrams_of(np.arange(50), 5)
    assert len(found) == 46
    assert (np.diff(found) > 0).all()
    # uint16 as the index keeps them and int64 as the trainer does are the same wordpieces.
    assert ngrams_of(np.array([60000, 7], dtype=np.uint16), 2).tolist() == ngrams_of(np.array([60000, 7]), 2).tolist()


def test_what_does_not_fit_together_is_a_fault():
    nothing = np.zeros(2, dtype=np.int64)
    with pytest.raises(IndexFault, match="with 3 n-grams hold 1: a fault of the sender"):
        Exclusion(
            uids_B=nothing, articles_B=nothing, ngrams_G=np.zeros(1, dtype=np.int64),
            num_ngrams_B=np.array([1, 2], dtype=np.int32),
        )  # fmt: skip
    with pytest.raises(IndexFault, match="index.ngram is 1 to 512"):
        Exclusion(
            uids_B=nothing, articles_B=nothing, ngrams_G=nothing[:0], num_ngrams_B=np.zeros(2, dtype=np.int32), ngram=0
        )
    assert (NO_UID, NO_ARTICLE, article_id("")) == (0, 0, 0)
