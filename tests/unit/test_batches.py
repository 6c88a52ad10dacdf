"""Padded batches: the four sequence formats, literally, and buckets of like length."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realm_ds.data.batches import (
    Tokens,
    joint_batch,
    length_buckets,
    mask_targets,
    masked_query_batch,
    pad,
    passage_batch,
    query_batch,
)
from realm_ds.data.masking import MaskedExample
from realm_ds.errors import ConfigError
from tests.support.records import SPECIAL

CLS, SEP, MASK = SPECIAL.cls, SPECIAL.sep, SPECIAL.mask


def masked(*ids: int, positions: tuple[int, ...] = (1,), targets: tuple[int, ...] = (50,)) -> MaskedExample:
    return MaskedExample(id="x", ids=(CLS, *ids, SEP), mask_positions=positions, targets=targets, origin_uid=0)


def check(tokens: Tokens, *, ids: list[list[int]], mask: list[list[int]], types: list[list[int]]) -> None:
    assert tokens.ids_BL.tolist() == ids
    assert tokens.mask_BL.tolist() == mask
    assert tokens.types_BL.tolist() == types
    assert {array.dtype for array in (tokens.ids_BL, tokens.mask_BL, tokens.types_BL)} == {np.dtype(np.int64)}


def test_pad() -> None:
    ids_BL, mask_BL = pad([[5, 6], (), np.array([7], dtype=np.uint16)], pad_id=9)
    assert ids_BL.tolist() == [[5, 6], [9, 9], [7, 9]]
    assert mask_BL.tolist() == [[1, 1], [0, 0], [1, 0]]
    assert pad([])[0].shape == (0, 1)
    assert pad([[], []])[0].tolist() == [[0], [0]]


def test_query_format() -> None:
    check(
        query_batch([(10, 11, 12), (13,)], special=SPECIAL, max_tokens=96),
        ids=[[CLS, 10, 11, 12, SEP], [CLS, 13, SEP, 0, 0]],
        mask=[[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]],
        types=[[0, 0, 0, 0, 0], [0, 0, 0, 0, 0]],
    )


def test_query_is_cut() -> None:
    tokens = query_batch([(10, 11, 12, 13)], special=SPECIAL, max_tokens=5)
    assert tokens.ids_BL.tolist() == [[CLS, 10, 11, 12, SEP]]


def test_masked_query_format() -> None:
    check(
        masked_query_batch([masked(10, MASK, 12), masked(MASK)], special=SPECIAL),
        ids=[[CLS, 10, MASK, 12, SEP], [CLS, MASK, SEP, 0, 0]],
        mask=[[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]],
        types=[[0, 0, 0, 0, 0], [0, 0, 0, 0, 0]],
    )


def test_passage_format_and_the_null_passage() -> None:
    check(
        passage_batch([((20, 21), (30, 31)), ((), ())], special=SPECIAL, max_tokens=288),
        ids=[[CLS, 20, 21, SEP, 30, 31, SEP], [CLS, SEP, SEP, 0, 0, 0, 0]],
        mask=[[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0, 0]],
        types=[[0, 0, 0, 0, 1, 1, 1], [0, 0, 1, 0, 0, 0, 0]],
    )


@pytest.mark.parametrize(
    ("max_tokens", "expected", "types"),
    [
        (7, [CLS, 20, 21, SEP, 30, 31, SEP], [0, 0, 0, 0, 1, 1, 1]),
        (6, [CLS, 20, 21, SEP, 30, SEP], [0, 0, 0, 0, 1, 1]),
        (5, [CLS, 20, 21, SEP, SEP], [0, 0, 0, 0, 1]),
        (4, [CLS, 20, SEP, SEP], [0, 0, 0, 1]),
        (3, [CLS, SEP, SEP], [0, 0, 1]),
    ],
)
def test_the_title_goes_before_the_body(max_tokens: int, expected: list[int], types: list[int]) -> None:
    tokens = passage_batch([((20, 21), (30, 31))], special=SPECIAL, max_tokens=max_tokens)
    check(tokens, ids=[expected], mask=[[1] * max_tokens], types=[types])


def test_joint_format() -> None:
    candidates = [[(), (30, 31)], [(), np.array([40], dtype=np.uint16)]]
    check(
        joint_batch([masked(10, MASK), masked(MASK)], candidates, special=SPECIAL, passage_tokens=288),
        ids=[
            [CLS, 10, MASK, SEP, SEP, 0, 0],
            [CLS, 10, MASK, SEP, 30, 31, SEP],
            [CLS, MASK, SEP, SEP, 0, 0, 0],
            [CLS, MASK, SEP, 40, SEP, 0, 0],
        ],
        mask=[
            [1, 1, 1, 1, 1, 0, 0],
            [1, 1, 1, 1, 1, 1, 1],
            [1, 1, 1, 1, 0, 0, 0],
            [1, 1, 1, 1, 1, 0, 0],
        ],
        types=[
            [0, 0, 0, 0, 1, 0, 0],
            [0, 0, 0, 0, 1, 1, 1],
            [0, 0, 0, 1, 0, 0, 0],
            [0, 0, 0, 1, 1, 0, 0],
        ],
    )


def test_joint_body_is_cut_before_it_is_joined() -> None:
    tokens = joint_batch([masked(10, 11)], [[(30, 31, 32, 33)]], special=SPECIAL, passage_tokens=5)
    assert tokens.ids_BL.tolist() == [[CLS, 10, 11, SEP, 30, 31, 32, SEP]]


def test_mask_targets() -> None:
    examples = [masked(MASK, MASK, positions=(1, 2), targets=(50, 51)), masked(9, MASK, positions=(2,), targets=(52,))]
    targets = mask_targets(examples, max_masks=3)
    assert targets.positions_BM.tolist() == [[1, 2, 0], [2, 0, 0]]
    assert targets.targets_BM.tolist() == [[50, 51, 0], [52, 0, 0]]
    assert targets.weights_BM.tolist() == [[1, 1, 0], [1, 0, 0]]


rows = st.lists(st.lists(st.integers(5, 60000), max_size=8), min_size=1, max_size=8)


@given(titles=rows, bodies=rows, max_tokens=st.integers(3, 20))
def test_passages_against_brute_force(titles: list[list[int]], bodies: list[list[int]], max_tokens: int) -> None:
    pairs = list(zip(titles, bodies, strict=False))
    tokens = passage_batch(pairs, special=SPECIAL, max_tokens=max_tokens)
    for row, (title, body) in enumerate(pairs):
        while 3 + len(title) + len(body) > max_tokens:
            title, body = (title, body[:-1]) if body else (title[:-1], body)
        ids = [CLS, *title, SEP, *body, SEP]
        types = [0] * (len(title) + 2) + [1] * (len(body) + 1)
        left = tokens.ids_BL.shape[1] - len(ids)
        assert tokens.ids_BL[row].tolist() == ids + [0] * left
        assert tokens.types_BL[row].tolist() == types + [0] * left
        assert tokens.mask_BL[row].tolist() == [1] * len(ids) + [0] * left
    assert tokens.mask_BL[:, -1].any()


@given(lengths=st.lists(st.integers(0, 30), max_size=60), max_tokens=st.integers(1, 100))
def test_buckets(lengths: list[int], max_tokens: int) -> None:
    if max(lengths, default=0) > max_tokens:
        with pytest.raises(ConfigError, match=f"a batch has index.embed_batch_tokens={max_tokens}; set that to at"):
            length_buckets(lengths, max_tokens=max_tokens)
        return
    batches = length_buckets(lengths, max_tokens=max_tokens)
    assert sorted(place for batch in batches for place in batch.tolist()) == list(range(len(lengths)))
    sizes = [len(batch) * max(lengths[place] for place in batch) for batch in batches]
    assert all(size <= max_tokens for size in sizes)
    longest = [max(1, *(lengths[place] for place in batch)) for batch in batches]
    assert longest == sorted(longest, reverse=True)
    assert all(
        np.array_equal(*pair) for pair in zip(batches, length_buckets(lengths, max_tokens=max_tokens), strict=True)
    )


def test_too_long_for_a_bucket() -> None:
    with pytest.raises(ConfigError, match="sequence 1 has 9 wordpieces, but a batch .*=8; set that to at least 9"):
        length_buckets([3, 9, 4], max_tokens=8)
