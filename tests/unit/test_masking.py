"""One salient span masked per example and epoch."""

import dataclasses
import itertools
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realm_ds.data.masking import MaskedExample, mask_more, mask_span, masked_examples
from realm_ds.data.records import Example
from realm_ds.data.redeal import StreamState
from realm_ds.errors import DataError
from tests.support.records import SPECIAL, make_example


def masked(
    example: Example, *, query_tokens: int = 96, max_masks: int = 10, seed: int = 0, epoch: int = 0
) -> MaskedExample | None:
    return mask_span(example, special=SPECIAL, query_tokens=query_tokens, max_masks=max_masks, seed=seed, epoch=epoch)


def test_a_span_is_masked() -> None:
    assert masked(make_example(7, num_tokens=6, spans=((1, 3),))) == MaskedExample(
        id="x7",
        ids=(2, 100, 4, 4, 103, 104, 105, 3),
        mask_positions=(2, 3),
        targets=(101, 102),
        origin_uid=8,
        plain_ids=(100, 101, 102, 103, 104, 105),
    )


def test_text_after_the_mask_is_cut_to_the_longest_query() -> None:
    result = masked(make_example(0, num_tokens=9, spans=((2, 4),)), query_tokens=6)
    assert result is not None
    assert result.ids == (2, 100, 101, 4, 4, 3)


def test_a_mask_that_would_be_cut_off_is_not_made() -> None:
    assert masked(make_example(0, spans=((2, 5),)), query_tokens=6) is None
    assert masked(make_example(0, spans=((2, 4),)), query_tokens=6) is not None


def test_a_span_that_fits_is_taken_instead() -> None:
    example = make_example(0, num_tokens=9, spans=((0, 1), (7, 9)))
    assert {masked(example, query_tokens=6, seed=seed).targets for seed in range(20)} == {(100,)}


def test_no_span_no_example() -> None:
    assert masked(make_example(0, spans=())) is None


def test_unknown_words_are_not_asked_for() -> None:
    example = dataclasses.replace(make_example(0, spans=((0, 2),)), ids=(5, SPECIAL.unk, 6))
    assert masked(example) is None


def test_targets_beyond_max_masks_are_masked_but_not_scored() -> None:
    result = masked(make_example(0, num_tokens=6, spans=((1, 5),)), max_masks=2)
    assert result is not None
    assert result.ids == (2, 100, 4, 4, 4, 4, 105, 3)
    assert result.mask_positions == (2, 3)
    assert result.targets == (101, 102)


@given(
    spans=st.lists(st.integers(0, 20), min_size=2, max_size=10, unique=True).map(
        lambda cuts: tuple(itertools.pairwise(sorted(cuts)))
    ),
    query_tokens=st.integers(3, 25),
    max_masks=st.integers(1, 12),
    seed=st.integers(),
    epoch=st.integers(0, 100),
)
def test_masked_examples_hold_together(
    spans: tuple[tuple[int, int], ...], query_tokens: int, max_masks: int, seed: int, epoch: int
) -> None:
    example = make_example(3, num_tokens=20, spans=spans)
    result = masked(example, query_tokens=query_tokens, max_masks=max_masks, seed=seed, epoch=epoch)
    assert result == masked(example, query_tokens=query_tokens, max_masks=max_masks, seed=seed, epoch=epoch)
    if result is None:
        assert all(end > query_tokens - 2 for _, end in spans)
        return
    assert len(result.ids) <= query_tokens
    whole = [SPECIAL.cls, *example.ids[: query_tokens - 2], SPECIAL.sep]
    hidden = [place for place, token in enumerate(result.ids) if token == SPECIAL.mask]
    assert (hidden[0] - 1, hidden[-1]) in spans
    assert [token for token in result.ids if token != SPECIAL.mask] == [
        token for place, token in enumerate(whole) if place not in hidden
    ]
    assert list(result.mask_positions) == hidden[:max_masks]
    assert list(result.targets) == [whole[place] for place in result.mask_positions]


def test_epochs_go_round_the_spans() -> None:
    spans = ((0, 1), (2, 3), (4, 5))
    targets = [masked(make_example(0, spans=spans), epoch=epoch).targets for epoch in range(6)]
    assert set(targets[:3]) == {(100,), (102,), (104,)}
    assert targets[3:] == targets[:3]
    assert len({masked(make_example(0, spans=spans), seed=seed).targets for seed in range(20)}) == 3


def epochs(*examples: Example) -> Iterator[tuple[Example, StreamState]]:
    for epoch in itertools.count():
        for position, example in enumerate(examples, start=1):
            yield example, StreamState(epoch=epoch, position=position)


def all_masked(*examples: Example) -> Iterator[tuple[MaskedExample, StreamState]]:
    return masked_examples(epochs(*examples), special=SPECIAL, query_tokens=96, max_masks=10, seed=0)


def test_examples_without_a_mask_are_left_out() -> None:
    stream = all_masked(make_example(0, spans=()), make_example(1))
    read = list(itertools.islice(stream, 3))
    assert [(example.id, state.epoch, state.position) for example, state in read] == [
        ("x1", 0, 2),
        ("x1", 1, 2),
        ("x1", 2, 2),
    ]


def test_a_stream_without_any_mask_does_not_run_for_ever() -> None:
    with pytest.raises(DataError, match="no pre-training example has a salient span within data.query_tokens=96; rais"):
        next(all_masked(make_example(0, spans=())))


def test_more_masks_for_the_warm_up() -> None:
    stream = [(masked(make_example(number, num_tokens=30)), StreamState(position=number)) for number in range(200)]
    settings = {"special": SPECIAL, "seed": 0, "max_masks": 8}
    assert list(mask_more(stream, longest_rate=0.0, **settings)) == stream
    more = list(mask_more(stream, longest_rate=0.5, **settings))
    for (before, _), (after, _) in zip(stream, more, strict=True):
        assert after.targets[: len(before.targets)] == before.targets
        assert len(after.targets) == len(after.mask_positions) <= 8
        restored = list(after.ids)
        for place, target in zip(after.mask_positions, after.targets, strict=True):
            assert restored[place] == SPECIAL.mask
            restored[place] = target
        assert restored == [SPECIAL.cls, *range(100, 130), SPECIAL.sep]
    added = sum(len(after.targets) - len(before.targets) for (before, _), (after, _) in zip(stream, more, strict=True))
    assert 3 < added / len(stream) < 6
