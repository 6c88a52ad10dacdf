"""Streams: every record once an epoch, readers apart, resuming exact, few shards opened."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realm_ds.data.chance import happens, permutation, pick
from realm_ds.data.redeal import StreamState
from realm_ds.data.shard_writer import write_shards
from realm_ds.data.stream import ExampleStream, PassageStream, RecordStream, grouped_order
from realm_ds.errors import DataError
from tests.support.records import make_example, make_passage, write_corpus
from tests.support.streams import Tracked, stream_of


def take(stream: RecordStream[int], count: int) -> list[int]:
    return [record for record, _ in itertools.islice(stream, count)]


layouts = st.tuples(
    st.lists(st.integers(1, 6), min_size=1, max_size=6),
    st.integers(1, 5),
    st.integers(-3, 2**64),
    st.integers(1, 3),
).filter(lambda layout: sum(layout[0]) >= layout[1])


@given(layout=layouts)
def test_each_record_once_an_epoch(layout: tuple[list[int], int, int, int]) -> None:
    counts, num_readers, seed, window = layout
    streams = [
        stream_of(Tracked(counts), seed=seed, reader=reader, num_readers=num_readers, window=window)
        for reader in range(num_readers)
    ]
    for _ in range(3):
        read = [record for stream in streams for record in take(stream, stream.num_records)]
        assert len(set(read)) == len(read)
        assert 0 <= sum(counts) - len(read) < num_readers


@given(layout=layouts, before=st.integers(0, 40), after=st.integers(1, 20))
def test_resume_is_exact(layout: tuple[list[int], int, int, int], before: int, after: int) -> None:
    counts, num_readers, seed, window = layout
    reader = num_readers - 1
    straight = stream_of(Tracked(counts), seed=seed, reader=reader, num_readers=num_readers, window=window)
    states = [StreamState(), *(state for _, state in itertools.islice(straight, before))]
    resumed = stream_of(Tracked(counts), seed=seed, reader=reader, num_readers=num_readers, window=window)
    resumed.go_on(states[-1:] * num_readers)
    assert list(itertools.islice(resumed, after)) == list(itertools.islice(straight, after))


def test_a_stream_may_go_back() -> None:
    stream = stream_of(Tracked([3, 3, 3]))
    first = take(stream, 20)
    stream.go_on([StreamState()])
    assert take(stream, 20) == first


def test_resuming_reads_one_window() -> None:
    source = Tracked([5] * 20)
    stream = stream_of(source, window=2)
    stream.go_on([StreamState(epoch=3, position=57)])
    next(stream)
    assert len(source.read) == 2


def test_a_reader_opens_only_the_shards_of_its_part() -> None:
    sources = [Tracked([5] * 8) for _ in range(4)]
    for reader, source in enumerate(sources):
        stream = stream_of(source, reader=reader, num_readers=4)
        take(stream, stream.num_records)
    assert [len(source.read) for source in sources] == [2, 2, 2, 2]
    assert sorted(shard for source in sources for shard in source.read) == list(range(8))


def test_epochs_and_seeds_differ() -> None:
    stream = stream_of(Tracked([10, 10]))
    first, second = take(stream, 20), take(stream, 20)
    assert first != second
    assert sorted(first) == sorted(second) == list(range(20))
    assert take(stream_of(Tracked([10, 10]), seed=1), 20) not in (first, second)


def test_left_over_records_differ_by_epoch() -> None:
    stream = stream_of(Tracked([4, 4, 3]), num_readers=2)
    other = stream_of(Tracked([4, 4, 3]), num_readers=2, reader=1)
    left_over = {(set(range(11)) - set(take(stream, 5)) - set(take(other, 5))).pop() for _ in range(20)}
    assert len(left_over) > 3


def test_epoch_of_a_record() -> None:
    stream = stream_of(Tracked([2, 1]))
    states = [state for _, state in itertools.islice(stream, 4)]
    assert [(state.epoch, state.position) for state in states] == [(0, 1), (0, 2), (0, 3), (1, 1)]


def test_more_readers_than_records() -> None:
    with pytest.raises(DataError, match="3 records cannot be dealt out to 4 readers; write more of them, or train"):
        stream_of(Tracked([2, 1]), num_readers=4)


@pytest.mark.parametrize("state", [StreamState(epoch=0, position=4), StreamState(epoch=-1, position=0)])
def test_state_of_another_run(state: StreamState) -> None:
    with pytest.raises(DataError, match=f"epoch {state.epoch}, position {state.position}: a reader has 3 records per"):
        stream_of(Tracked([2, 1])).go_on([state])


def test_examples_from_shards(tmp_path: Path) -> None:
    examples = [make_example(number) for number in range(11)]
    manifest = write_shards(
        examples, tmp_path, kind="pretrain", per_shard=4, tokenizer_fingerprint="f", source="s", settings={}
    )
    streams = [ExampleStream(tmp_path, manifest=manifest, seed=5, reader=n, num_readers=2) for n in range(2)]
    read = [example for stream in streams for example, _ in itertools.islice(stream, 5)]
    assert len({example.id for example in read}) == 10
    assert all(example in examples for example in read)


def test_damaged_shard_is_named_when_reached(tmp_path: Path) -> None:
    manifest = write_corpus(tmp_path, [make_passage(number) for number in range(9)])
    path = tmp_path / "shard-00002.tar"
    data = bytearray(path.read_bytes())
    data[700] ^= 1
    path.write_bytes(data)
    stream = PassageStream(tmp_path, manifest=manifest, seed=0, reader=0, num_readers=1, window_shards=1)
    with pytest.raises(DataError, match="shard-00002.tar: sha256 is"):
        list(itertools.islice(stream, 9))


def test_over_long_passage_is_named_when_reached(tmp_path: Path) -> None:
    manifest = write_corpus(tmp_path, [make_passage(0)])
    with pytest.raises(DataError, match="more than data.passage_tokens=5"):
        next(PassageStream(tmp_path, manifest=manifest, seed=0, reader=0, num_readers=1, max_tokens=5))


def test_passages_of_an_article_come_together(tmp_path: Path) -> None:
    passages = [make_passage(number, article=f"a{number // 10}") for number in range(40)]
    manifest = write_corpus(tmp_path, passages, per_shard=7)
    stream = PassageStream(tmp_path, manifest=manifest, seed=0, reader=0, num_readers=1, passages_per_article=4)
    read = [passage for passage, _ in itertools.islice(stream, 40)]
    assert sorted(passage.uid for passage in read) == list(range(1, 41))
    # Ten passages of an article are groups of 4, 3 and 3.
    runs = [len(list(run)) for _, run in itertools.groupby(passage.article for passage in read)]
    assert min(runs) >= 3
    assert len(runs) > 6


@given(
    articles=st.lists(st.sampled_from("abcde"), max_size=40), group_size=st.integers(1, 5), seed=st.integers(0, 10**6)
)
def test_groups(articles: list[str], group_size: int, seed: int) -> None:
    def shuffle(what_for: str, length: int) -> np.ndarray:
        return permutation(length, seed, what_for)

    order = grouped_order(articles, group_size, shuffle)
    assert sorted(order) == list(range(len(articles)))
    runs = [len(list(run)) for _, run in itertools.groupby(articles[place] for place in order)]
    num_groups = sum(-(-articles.count(article) // group_size) for article in set(articles))
    assert len(runs) <= num_groups
    if group_size == 1:
        assert num_groups == len(articles)


# Chance.


@given(length=st.integers(0, 50), seed=st.integers(-(2**70), 2**70))
def test_permutation_is_one(length: int, seed: int) -> None:
    assert sorted(permutation(length, seed, "x").tolist()) == list(range(length))


def test_permutations_never_change() -> None:
    assert permutation(8, 0, 2, "shards").tolist() == [7, 1, 5, 4, 6, 2, 3, 0]
    assert [pick(10, 0, "span", f"x{number}") for number in range(8)] == [4, 1, 1, 5, 4, 5, 3, 5]


def test_chance_is_fair() -> None:
    picks = np.bincount([pick(4, number, "fair") for number in range(4000)])
    assert picks.min() > 900
    assert 3500 < sum(happens(0.9, number, "fair") for number in range(4000)) < 3700
    assert all(happens(1.0, number) for number in range(100))
    assert not any(happens(0.0, number) for number in range(100))
    firsts = np.bincount([permutation(4, number)[0] for number in range(4000)])
    assert firsts.min() > 900
