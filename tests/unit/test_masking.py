"""One salient span masked per example and epoch; wordpieces and spans at random."""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realm_ds.data.masking import (
    LONGEST_SPAN,
    MaskedExample,
    Masking,
    mask_more,
    mask_random_span,
    mask_span,
    mask_wordpieces,
    masked_examples,
)
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


def all_masked(*examples: Example, masking: Masking | None = None) -> Iterator[tuple[MaskedExample, StreamState]]:
    options = {} if masking is None else {"masking": masking}
    return masked_examples(epochs(*examples), special=SPECIAL, query_tokens=96, max_masks=10, seed=0, **options)


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


def test_more_masks_than_bert_chose() -> None:
    """Other wordpieces than those, whatever stands in their place now."""
    stream = [
        (wordpieces(make_example(number, num_tokens=30)), StreamState(position=number)) for number in range(200)
    ]  # fmt: skip
    more = list(mask_more(stream, special=SPECIAL, longest_rate=0.5, max_masks=12, seed=0))
    added = 0
    for (before, _), (after, _) in zip(stream, more, strict=True):
        assert len(set(after.mask_positions)) == len(after.mask_positions) <= 12
        whole = (SPECIAL.cls, *range(100, 130), SPECIAL.sep)
        assert after.targets == tuple(whole[place] for place in after.mask_positions)
        assert after.mask_positions[: len(before.mask_positions)] == before.mask_positions
        added += len(after.targets) - len(before.targets)
    # A rate of 0.25 on average, of what BERT left of 30: 6 or so, drawn as if it had drawn nothing.
    assert 5 < added / len(stream) < 7


VOCABULARY = 5000


def wordpieces(
    example: Example, *, rate: float = 0.15, max_masks: int = 10, query_tokens: int = 96, seed: int = 0, epoch: int = 0
) -> MaskedExample | None:
    masking = Masking(kind="bert", rate=rate, vocab_size=VOCABULARY)
    return mask_wordpieces(
        example, special=SPECIAL, query_tokens=query_tokens, max_masks=max_masks, seed=seed, epoch=epoch,
        masking=masking,
    )  # fmt: skip


def random_span(
    example: Example, *, max_masks: int = 10, query_tokens: int = 96, seed: int = 0, epoch: int = 0
) -> MaskedExample | None:
    return mask_random_span(
        example, special=SPECIAL, query_tokens=query_tokens, max_masks=max_masks, seed=seed, epoch=epoch
    )


UNKNOWN_OR_NOT = st.lists(st.sampled_from([SPECIAL.unk, *range(200, 230)]), min_size=1, max_size=30)


@given(
    pieces=UNKNOWN_OR_NOT, rate=st.floats(0.01, 1.0), max_masks=st.integers(1, 6), query_tokens=st.integers(3, 40),
    seed=st.integers(), epoch=st.integers(0, 100),
)  # fmt: skip
def test_masked_wordpieces_hold_together(
    pieces: list[int], rate: float, max_masks: int, query_tokens: int, seed: int, epoch: int
) -> None:
    example = dataclasses.replace(make_example(3, spans=()), ids=tuple(pieces), sentences=((0, len(pieces)),))
    settings = {
        "rate": rate, "max_masks": max_masks, "query_tokens": query_tokens, "seed": seed, "epoch": epoch
    }  # fmt: skip
    result = wordpieces(example, **settings)
    assert result == wordpieces(example, **settings)
    kept = pieces[: query_tokens - 2]
    if result is None:
        assert set(kept) == {SPECIAL.unk}
        return
    whole = [SPECIAL.cls, *kept, SPECIAL.sep]
    assert len(result.ids) == len(whole) <= query_tokens
    assert 1 <= len(result.targets) == len(result.mask_positions) <= max_masks
    assert list(result.mask_positions) == sorted(set(result.mask_positions))
    assert list(result.targets) == [whole[place] for place in result.mask_positions]
    assert SPECIAL.unk not in result.targets
    changed = [place for place, piece in enumerate(result.ids) if piece != whole[place]]
    assert set(changed) <= set(result.mask_positions)
    assert all(result.ids[place] not in (SPECIAL.pad, SPECIAL.unk, SPECIAL.cls, SPECIAL.sep) for place in changed)
    assert list(result.plain_ids) == kept


def test_wordpieces_are_chosen_and_replaced_as_often_as_bert_does() -> None:
    count, length = 2000, 40
    results = [wordpieces(make_example(number, num_tokens=length), max_masks=99) for number in range(count)]
    targets = sum(len(result.targets) for result in results)
    assert targets / (count * length) == pytest.approx(0.15, abs=0.005)
    kinds: Counter[str] = Counter()
    for result in results:
        for place, target in zip(result.mask_positions, result.targets, strict=True):
            found = result.ids[place]
            kinds["mask" if found == SPECIAL.mask else "same" if found == target else "other"] += 1
    assert kinds["mask"] / targets == pytest.approx(0.8, abs=0.015)
    assert kinds["other"] / targets == pytest.approx(0.1, abs=0.01)
    places = Counter(place for result in results for place in result.mask_positions)
    assert set(places) == set(range(1, length + 1))
    assert max(places.values()) < 1.4 * min(places.values())


def test_random_wordpieces_are_of_the_whole_vocabulary_but_special_tokens() -> None:
    masking = Masking(kind="bert", rate=1.0, vocab_size=12)
    others: set[int] = set()
    for number in range(300):
        example = dataclasses.replace(make_example(number, num_tokens=10), ids=(11,) * 10)
        result = mask_wordpieces(
            example, special=SPECIAL, query_tokens=96, max_masks=10, seed=0, epoch=0, masking=masking
        )
        assert result is not None
        others |= set(result.ids[1:-1]) - {SPECIAL.mask}
    assert others == set(range(12)) - {SPECIAL.pad, SPECIAL.unk, SPECIAL.cls, SPECIAL.sep, SPECIAL.mask}


def test_too_many_wordpieces_are_left_as_they_are() -> None:
    """Not masked without being scored, as in a span: nothing would be learnt from that."""
    results = [wordpieces(make_example(number, num_tokens=20), rate=1.0, max_masks=3) for number in range(400)]
    assert {len(result.targets) for result in results} == {3}
    places = Counter(place for result in results for place in result.mask_positions)
    assert min(places[place] for place in range(1, 21)) > 30


@given(
    pieces=UNKNOWN_OR_NOT, max_masks=st.integers(1, 6), query_tokens=st.integers(3, 40), seed=st.integers(),
    epoch=st.integers(0, 100),
)  # fmt: skip
def test_random_spans_hold_together(
    pieces: list[int], max_masks: int, query_tokens: int, seed: int, epoch: int
) -> None:
    example = dataclasses.replace(make_example(3, spans=()), ids=tuple(pieces), sentences=((0, len(pieces)),))
    result = random_span(example, max_masks=max_masks, query_tokens=query_tokens, seed=seed, epoch=epoch)
    assert result == random_span(example, max_masks=max_masks, query_tokens=query_tokens, seed=seed, epoch=epoch)
    kept = pieces[: query_tokens - 2]
    if result is None:
        assert set(kept) == {SPECIAL.unk}
        return
    whole = [SPECIAL.cls, *kept, SPECIAL.sep]
    hidden = [place for place, piece in enumerate(result.ids) if piece == SPECIAL.mask]
    assert 1 <= len(hidden) <= LONGEST_SPAN
    assert hidden == list(range(hidden[0], hidden[-1] + 1))
    assert SPECIAL.unk not in [whole[place] for place in hidden]
    assert [piece for place, piece in enumerate(result.ids) if place not in hidden] == [
        piece for place, piece in enumerate(whole) if place not in hidden
    ]
    assert list(result.mask_positions) == hidden[:max_masks]
    assert list(result.targets) == [whole[place] for place in result.mask_positions]


def test_random_spans_have_spanberts_lengths_and_start_anywhere() -> None:
    count, length = 4000, 30
    results = [random_span(make_example(number, num_tokens=length)) for number in range(count)]
    lengths = Counter(len(result.targets) for result in results)
    weights = {n: 0.2 * 0.8 ** (n - 1) for n in range(1, 11)}
    for n, weight in weights.items():
        assert lengths[n] / count == pytest.approx(weight / sum(weights.values()), abs=0.025)
    assert sum(n * found for n, found in lengths.items()) / count == pytest.approx(3.8, abs=0.15)
    starts = Counter(result.mask_positions[0] for result in results if len(result.targets) == 1)
    assert set(starts) == set(range(1, length + 1))


def test_a_span_is_as_long_as_there_is_room_for() -> None:
    unknown = dataclasses.replace(make_example(0), ids=(200, 201, SPECIAL.unk, 202, 203, 204, SPECIAL.unk))
    results = [random_span(unknown, seed=seed) for seed in range(60)]
    assert max(len(result.targets) for result in results) == 3
    assert {result.targets for result in results if len(result.targets) == 3} == {(202, 203, 204)}


@pytest.mark.parametrize("kind", ["salient", "bert", "random_span"])
def test_masks_differ_by_epoch_unless_told_not_to(kind: str) -> None:
    example = make_example(0, num_tokens=40, spans=tuple((start, start + 1) for start in range(0, 40, 2)))
    settings = {"kind": kind, "vocab_size": VOCABULARY}
    again = [masked for masked, _ in itertools.islice(all_masked(example, masking=Masking(**settings)), 6)]
    same = all_masked(example, masking=Masking(**settings, again_each_epoch=False))
    assert len({result.mask_positions for result in again}) == 6
    assert [masked for masked, _ in itertools.islice(same, 6)] == [again[0]] * 6


@pytest.mark.parametrize("kind", ["bert", "random_span"])
def test_random_masks_need_no_salient_spans(kind: str) -> None:
    masking = Masking(kind=kind, vocab_size=VOCABULARY)
    unknown = dataclasses.replace(make_example(0), ids=(SPECIAL.unk,) * 4)
    (first, _), *_ = itertools.islice(all_masked(unknown, make_example(1, spans=()), masking=masking), 2)
    assert first.id == "x1"
    with pytest.raises(
        DataError,
        match=rf"no pre-training example has a known wordpiece within data.query_tokens=96 \(pretrain.masking={kind}\)",
    ):
        next(all_masked(unknown, masking=masking))
