"""Exact search by blocks against brute force: block edges, threads, orders that are hard on it, ties, halves."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realm_ds.index import exact
from realm_ds.index.exact import NOWHERE, ExactSearch, use_threads


@pytest.fixture(autouse=True)
def one_thread_after():
    yield
    use_threads(1)


@settings(max_examples=150)
@given(
    st.integers(0, 200), st.integers(0, 40), st.integers(1, 30), st.integers(1, 4), st.integers(1, 60),
    st.sampled_from(["random", "rising", "falling", "equal"]), st.sampled_from(["f4", "f2"]), st.integers(0, 99),
)  # fmt: skip
def test_the_best_are_found_whatever_the_blocks_threads_and_order(
    num_passages, num_queries, num_hits, num_threads, block, order, dtype, seed
):
    random = np.random.default_rng(seed)
    vectors = random.integers(-4, 5, size=(num_passages, 3)).astype(dtype)
    if order in ("rising", "falling"):
        vectors = np.arange(1, num_passages + 1).astype(dtype)[:, None] * np.ones(3, dtype)
        vectors = vectors if order == "rising" else vectors[::-1].copy()
    elif order == "equal":
        vectors[:] = 1
    queries = random.integers(-4, 5, size=(num_queries, 3)).astype("f4")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact, "LEAST_PASSAGES", block)
        patch.setattr(exact, "MOST_PASSAGES", block)
        patch.setattr(exact, "LEAST_SCORES", 1)
        use_threads(num_threads)
        scores, places = ExactSearch(vectors).search(queries, num_hits)
    wanted = queries @ vectors.astype("f4").T
    kept = min(num_hits, num_passages)
    assert scores.shape == places.shape == (num_queries, num_hits)
    assert (scores.dtype, places.dtype) == (np.float32, np.int64)
    assert scores[:, :kept].tolist() == (-np.sort(-wanted, axis=1))[:, :kept].tolist()
    assert (places[:, kept:] == NOWHERE).all()
    assert (scores[:, kept:] == -np.inf).all()
    for row in range(num_queries):  # ties may be any of the equal ones, but each once
        found = places[row, :kept].tolist()
        assert len(set(found)) == kept
        assert [wanted[row, place] for place in found] == scores[row, :kept].tolist()


def test_threads_give_what_one_gives():
    random = np.random.default_rng(0)
    vectors, queries = random.standard_normal((70_000, 16)).astype("f4"), random.standard_normal((64, 16)).astype("f4")
    use_threads(1)
    alone = ExactSearch(vectors).search(queries, 8)[1]
    use_threads(2)
    assert ExactSearch(vectors).search(queries, 8)[1].tolist() == alone.tolist()
    assert alone[:5].tolist() == np.argsort(-(queries[:5] @ vectors.T), axis=1)[:, :8].tolist()


def test_vectors_may_be_filled_after_it_is_made():
    vectors = np.zeros((3, 2), "f4")
    search = ExactSearch(vectors)
    vectors[1] = 5
    assert search.search(np.ones((1, 2), "f4"), 1)[1].tolist() == [[1]]
