"""Requests that wait together: one call of faiss, and for each the answer that it would have had alone."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realm_ds.errors import IndexFault
from realm_ds.index.answering import Asked, Totals, answer_fetch, answer_queries
from realm_ds.index.exclusion import Exclusion, ngrams_of
from realm_ds.index.factory import IndexSpec
from realm_ds.index.faiss_index import VectorTable
from realm_ds.index.messages import Fetch, Query, Reply
from realm_ds.index.shard import BuiltShard, build_shard
from tests.support.index_cases import make_passages, make_shards

WIDTH = 16
PASSAGES = make_passages(list(range(1, 301)))
SHARD = make_shards(PASSAGES, [])[0]
VECTORS = np.random.default_rng(0).standard_normal((len(PASSAGES), WIDTH)).astype("f4")


def built(factory: str = "Flat") -> BuiltShard:
    return build_shard(SHARD, VectorTable.of(VECTORS), version=2, spec=IndexSpec(factory=factory))


def query(request: int, num_queries: int, **changes: Any) -> Query:
    random = np.random.default_rng(request)
    ngrams = [ngrams_of(np.array(PASSAGES[place].body_ids), 2) for place in random.integers(0, 300, num_queries)]
    exclusion = Exclusion(
        uids_B=random.integers(0, 301, num_queries),
        articles_B=np.zeros(num_queries, dtype=np.int64),
        ngrams_G=np.concatenate([np.zeros(0, np.int64), *ngrams]),
        num_ngrams_B=np.array([len(of_query) for of_query in ngrams], dtype=np.int32),
        ngram=2, most_shared=0.5,
    )  # fmt: skip
    fields = {
        "request": request, "shard": 1, "version": 2, "step": 10 + request, "num_hits": 4, "wants_tokens": 1,
        "is_audit": 0, "vectors_BP": random.standard_normal((num_queries, WIDTH)).astype("f4"), **vars(exclusion),
        **changes,
    }  # fmt: skip
    return Query(**fields)


def answer(queries: list[Query], index: BuiltShard) -> tuple[dict[int, tuple[int, Reply]], Totals]:
    totals = Totals()
    asked = [Asked(source=7 + each.request, query=each, asked_at=0.0) for each in queries]
    answers = answer_queries(asked, built=index, passages=SHARD, totals=totals)
    return {reply.request: (to, reply) for to, reply in answers}, totals


def same(one: Reply, other: Reply) -> bool:
    names = ("places_BK", "uids_BK", "scores_BK", "title_lengths_BK", "body_lengths_BK", "tokens")
    return all(getattr(one, name).tobytes() == getattr(other, name).tobytes() for name in names)


@settings(max_examples=40)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=6))
def test_together_they_get_what_each_would_get_alone_in_one_call(sizes: list[int]):
    index, queries = built(), [query(number, size) for number, size in enumerate(sizes)]
    together, totals = answer(queries, index)
    assert (totals.calls, totals.searches, totals.queries) == (1, len(sizes), sum(sizes))
    for number, each in enumerate(queries):
        to, reply = together[number]
        assert (to, reply.request, reply.step, reply.shard, reply.version) == (7 + number, number, 10 + number, 1, 2)
        assert same(reply, answer([each], index)[0][number][1])


def test_an_approximate_index_answers_one_at_a_time():
    index, queries = built("IVF8,Flat"), [query(0, 5), query(1, 30)]
    together, totals = answer(queries, index)
    assert totals.calls == 2
    assert all(same(together[each.request][1], answer([each], index)[0][each.request][1]) for each in queries)


def test_requests_of_different_kinds_go_in_calls_of_their_own():
    queries = [query(0, 3), query(1, 3, num_hits=7), query(2, 3), query(3, 3, most_shared=0.9)]
    answers, totals = answer(queries, built())
    assert totals.calls == 3
    assert sorted(answers) == [0, 1, 2, 3]
    assert answers[1][1].uids_BK.shape == (3, 7)


def test_replies_without_tokens_have_places_to_fetch_them_by():
    index = built()
    whole = answer([query(0, 6)], index)[0][0][1]
    bare = answer([query(0, 6, wants_tokens=0)], index)[0][0][1]
    assert bare.places_BK.tolist() == whole.places_BK.tolist()
    assert (bare.tokens.size, bare.title_lengths_BK.size) == (0, 0)
    fetched = answer_fetch(
        Fetch(request=0, shard=1, version=2, step=10, wants_vectors=0, places_H=bare.places_BK.ravel()), SHARD, index
    )  # fmt: skip
    assert fetched.tokens.tobytes() == whole.tokens.tobytes()
    assert fetched.body_lengths_H.tolist() == whole.body_lengths_BK.ravel().tolist()
    assert (fetched.request, fetched.shard, fetched.version, fetched.step) == (0, 1, 2, 10)


def test_places_are_of_the_corpus_and_vectors_those_that_are_searched():
    shard = make_shards(PASSAGES, [100])[1]
    index = build_shard(shard, VectorTable.of(VECTORS[100:]), version=2, spec=IndexSpec())
    asked = Asked(source=7, query=query(0, 6, wants_tokens=0, num_hits=250), asked_at=0.0)
    ((_, bare),) = answer_queries([asked], built=index, passages=shard, totals=Totals())
    assert sorted(set(bare.places_BK.ravel().tolist())) == [-1, *range(100, 300)]  # no more than the shard holds
    places_H = np.array([299, 100, 150], np.int32)
    fetch = Fetch(request=0, shard=1, version=2, step=10, wants_vectors=1, places_H=places_H)
    fetched = answer_fetch(fetch, shard, index)
    assert fetched.vectors_HP.tobytes() == VECTORS[places_H].tobytes()
    assert fetched.body_lengths_H.tolist() == [len(PASSAGES[place].body_ids) for place in places_H]
    half = build_shard(
        shard, VectorTable.of(VECTORS[100:], dtype="fp16"), version=2, spec=IndexSpec(vectors="fp16", factory="SQfp16")
    )  # fmt: skip
    rounded = answer_fetch(fetch, shard, half).vectors_HP
    assert rounded.tobytes() == VECTORS[places_H].astype("f2").astype("f4").tobytes()


def test_vectors_that_are_not_held_are_a_fault():
    fetch = Fetch(shard=1, version=2, step=5, wants_vectors=1, places_H=np.zeros(1, np.int32))
    with pytest.raises(IndexFault, match="step 5 fetches vectors of index version 2 of shard 1, which holds it no mor"):
        answer_fetch(fetch, SHARD, None)
    bare = build_shard(
        SHARD, VectorTable.of(VECTORS), version=2, spec=IndexSpec(factory="IVF8,SQ8", rerank=0, keeps_exact=False)
    )  # fmt: skip
    with pytest.raises(
        IndexFault, match=r"version 2 keeps no exact vectors, and they are asked for: set index\.rerank"
    ):
        answer_fetch(fetch, SHARD, bare)


@pytest.mark.parametrize("place", [-1, 300])
def test_places_that_the_shard_does_not_have_are_a_fault(place: int):
    with pytest.raises(IndexFault, match=r"step 5 fetches places .* of shard 1, which holds 0 to 299: a fault"):
        answer_fetch(Fetch(shard=1, step=5, wants_vectors=0, places_H=np.array([place], np.int32)), SHARD, None)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"vectors_BP": np.full((3, WIDTH), np.nan, "f4")}, "the queries hold values that are not finite"),
        ({"vectors_BP": np.zeros((3, 5), "f4")}, r"queries are of shape \(3, 5\), but .* 16 wide"),
        ({"vectors_BP": np.zeros((2, WIDTH), "f4")}, "2 queries came with 3 exclusions"),
        ({"num_hits": 0}, "num_hits=0"),
        ({"num_ngrams_B": np.array([9, 9, 9], np.int32)}, "exclusions of .* a fault of the sender"),
    ],
)
def test_a_bad_query_is_a_fault_that_names_shard_version_rank_and_step(changes: dict[str, Any], says: str):
    with pytest.raises(IndexFault, match=f"shard 1, index version 2, asked by rank 7, step 10: .*{says}"):
        answer([query(0, 3, **changes)], built())


def test_of_several_that_are_searched_together_the_bad_one_alone_is_named():
    bad = query(1, 3, vectors_BP=np.full((3, WIDTH), np.inf, "f4"))
    with pytest.raises(IndexFault, match="asked by rank 8, step 11: the queries hold values that are not finite"):
        answer([query(0, 3), bad, query(2, 3)], built())
