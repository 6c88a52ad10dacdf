"""Another number of readers in mid-epoch: brute force over every record of every epoch, through several changes."""

import itertools
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realm_ds.data.redeal import Interval, StreamState, redeal
from realm_ds.data.stream import PassageStream
from realm_ds.errors import DataError
from tests.support.records import make_passage, write_corpus
from tests.support.streams import Tracked, stream_of


@dataclass
class Reading:
    """Readers of one stream, each with what it has read so far and where it stands."""

    counts: list[int]
    states: list[StreamState]
    read: list[tuple[int, int]] = field(default_factory=list)
    """(epoch, record), of all readers."""

    def go_on(self, num_readers: int, steps: list[int], *, seed: int, group: int, window: int) -> None:
        """`num_readers` readers go on together, each for a number of records of its own."""
        states = list(self.states or [StreamState()] * num_readers)
        if len(states) != num_readers:
            states = list(redeal(states, total=sum(self.counts), num_readers=num_readers))
        for reader in range(num_readers):
            stream = stream_of(
                Tracked(self.counts), seed=seed, reader=reader, num_readers=num_readers, group=group, window=window
            )
            stream.go_on(self.states)
            for record, state in itertools.islice(stream, steps[reader % len(steps)]):
                self.read.append((state.epoch, record))
                states[reader] = state
        self.states = states


changes = st.lists(
    st.tuples(st.integers(1, 5), st.lists(st.integers(0, 40), min_size=1, max_size=5)), min_size=1, max_size=5
)


@settings(max_examples=200)
@given(counts=st.lists(st.integers(1, 6), min_size=1, max_size=6).filter(lambda c: sum(c) >= 5), changes=changes,
       seed=st.integers(0, 99), group=st.integers(1, 3), window=st.integers(1, 20))  # fmt: skip
def test_nothing_is_read_twice_or_left_out_when_readers_come_and_go(
    counts: list[int], changes: list[tuple[int, list[int]]], seed: int, group: int, window: int
) -> None:
    """T readers, then T', T'', ..., each as far as it likes; in the end all read on until the epochs are full."""
    reading, total = Reading(counts, []), sum(counts)
    changed_in = set()
    for num_readers, steps in changes:
        if reading.states and len(reading.states) != num_readers:
            changed_in |= {part.epoch for part in rest_of(reading.states, total=total, num_readers=num_readers)}
        reading.go_on(num_readers, steps, seed=seed, group=group, window=window)
    assert max(Counter(reading.read).values(), default=1) == 1
    newest = max(state.epoch for state in reading.states)
    last_readers = len(reading.states)
    while any(state.epoch <= newest for state in reading.states):
        reading.go_on(last_readers, [1], seed=seed, group=group, window=window)
    seen = Counter(reading.read)
    assert max(seen.values()) == 1
    for epoch in range(newest + 1):
        missing = total - sum(1 for found, _ in seen if found == epoch)
        # An epoch in which the number changed is whole; any other lacks fewer records than it had readers.
        assert missing == 0 if epoch in changed_in else missing < 5


def rest_of(states: list[StreamState], *, total: int, num_readers: int) -> list[Interval]:
    dealt = redeal(states, total=total, num_readers=num_readers)
    return [part for state in dealt for part in state.rest]


@given(changes=changes, seed=st.integers(0, 9))
def test_shares_are_of_one_size(changes: list[tuple[int, list[int]]], seed: int) -> None:
    reading = Reading([4, 3, 5], [])
    for num_readers, steps in changes:
        reading.go_on(num_readers, steps, seed=seed, group=2, window=3)
        dealt = redeal(reading.states, total=12, num_readers=3)
        sizes = [sum(part.stop - part.start for part in state.rest) for state in dealt]
        assert max(sizes) - min(sizes) <= 1


def test_a_change_before_the_first_record_is_none() -> None:
    assert redeal([StreamState()] * 3, total=10, num_readers=2) == (StreamState(), StreamState())


def test_a_change_between_epochs_deals_plainly() -> None:
    """Nobody has begun epoch 1. What was left over of epoch 0 stays so, fewer records than there were readers."""
    states = [StreamState(epoch=0, position=3)] * 3
    assert redeal(states, total=9, num_readers=2) == (StreamState(position=4), StreamState(position=4))
    assert redeal(states, total=11, num_readers=2) == (StreamState(position=5), StreamState(position=5))


def test_readers_in_two_epochs() -> None:
    """Reader 0 of two has begun epoch 1; of 0, reader 1 lacks the last two places and nobody had the eleventh."""
    states = [StreamState(epoch=1, position=1), StreamState(epoch=0, position=3)]
    dealt = redeal(states, total=11, num_readers=3)
    assert [[(part.epoch, part.start, part.stop) for part in state.rest] for state in dealt] == [
        [(0, 8, 11), (1, 1, 2)],
        [(1, 2, 6)],
        [(1, 6, 11)],
    ]
    assert [state.rest_until for state in dealt] == [1, 1, 1]


def test_a_rest_of_other_shards_is_refused() -> None:
    state = StreamState(rest=(Interval(epoch=0, start=2, stop=9),))
    with pytest.raises(DataError, match="a reader has 7 records left to share; resume with the shards of the run"):
        stream_of(Tracked([2, 1])).go_on([state])


def test_passages_and_examples_are_re_dealt_alike(tmp_path: Path) -> None:
    passages = [make_passage(number, article=f"a{number // 5}") for number in range(23)]
    corpus = write_corpus(tmp_path, passages, per_shard=4)

    def open_stream(reader: int, num_readers: int, states: list[StreamState]) -> PassageStream:
        stream = PassageStream(
            corpus, seed=1, reader=reader, num_readers=num_readers, passages_per_article=2,
            shuffle_shards=2, shuffle_records=4,
        )  # fmt: skip
        stream.go_on(states)
        return stream

    first = [list(itertools.islice(open_stream(reader, 2, []), 4 + reader)) for reader in range(2)]
    states = [read[-1][1] for read in first]
    second = [list(itertools.islice(open_stream(reader, 3, states), 5)) for reader in range(3)]
    uids = [passage.uid for read in (*first, *second) for passage, state in read if state.epoch == 0]
    assert sorted(uids) == sorted({passage.uid for passage in passages})
