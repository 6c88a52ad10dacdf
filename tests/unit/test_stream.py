"""Streams: every record once an epoch, readers apart, resuming exact, few shards opened."""

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realm_ds.config.schema import DataConfig
from realm_ds.data.chance import happens, permutation, pick
from realm_ds.data.order import Order
from realm_ds.data.places import Place
from realm_ds.data.redeal import Interval, StreamState
from realm_ds.data.shard_writer import write_shards
from realm_ds.data.shards import open_shards
from realm_ds.data.stream import (
    SHUFFLE_RECORDS,
    SHUFFLE_SHARDS,
    ExampleStream,
    MemoryStream,
    PassageStream,
    RecordStream,
    grouped_order,
)
from realm_ds.errors import DataError
from tests.support.records import make_example, make_passage, write_corpus
from tests.support.streams import Tracked, stream_of


def take(stream: RecordStream[int], count: int) -> list[int]:
    return [record for record, _ in itertools.islice(stream, count)]


layouts = st.fixed_dictionaries(
    {
        "counts": st.lists(st.integers(1, 6), min_size=1, max_size=6),
        "num_readers": st.integers(1, 5),
        "seed": st.integers(-3, 2**64),
        "group": st.integers(1, 4),
        "window": st.integers(1, 12),
    }
).filter(lambda layout: sum(layout["counts"]) >= layout["num_readers"])


def streams_of(layout: dict[str, Any], records: type[Tracked] = Tracked) -> list[RecordStream[int]]:
    """All readers of a layout."""
    given = {**layout}
    counts = given.pop("counts")
    return [stream_of(records(counts), reader=reader, **given) for reader in range(layout["num_readers"])]


def order_by_hand(counts: list[int], *, seed: int, epoch: int, group: int, window: int) -> list[int]:
    """All records in the order in which an epoch reads them."""
    firsts = [sum(counts[:shard]) for shard in range(len(counts))]
    shards, order = permutation(len(counts), seed, epoch, "shards").tolist(), []
    for some in (shards[first : first + group] for first in range(0, len(shards), group)):
        num_windows = math.ceil(sum(counts[shard] for shard in some) / window)
        for j in range(num_windows):
            cuts = [(shard, counts[shard] * j // num_windows, counts[shard] * (j + 1) // num_windows) for shard in some]
            records = [firsts[shard] + number for shard, low, high in cuts for number in range(low, high)]
            order += [records[n] for n in permutation(len(records), seed, epoch, len(order), "records")]
    return order


@given(layout=layouts, epoch=st.integers(0, 3))
def test_the_order_is_that_of_ten_lines(layout: dict[str, Any], epoch: int) -> None:
    given = {**layout}
    num_readers = given.pop("num_readers")
    order = order_by_hand(epoch=epoch, **given)
    assert sorted(order) == list(range(sum(layout["counts"])))
    for reader, stream in enumerate(streams_of(layout)):
        share = len(order) // num_readers
        stream.go_on([StreamState(epoch=epoch)] * num_readers)
        assert take(stream, stream.num_records) == order[reader * share : (reader + 1) * share]


@given(layout=layouts)
def test_each_record_once_an_epoch(layout: dict[str, Any]) -> None:
    streams = streams_of(layout)
    for _ in range(3):
        read = [record for stream in streams for record in take(stream, stream.num_records)]
        assert len(set(read)) == len(read)
        assert 0 <= sum(layout["counts"]) - len(read) < layout["num_readers"]


@given(layout=layouts, before=st.integers(0, 40), after=st.integers(1, 20))
def test_resume_is_exact(layout: dict[str, Any], before: int, after: int) -> None:
    straight, resumed = streams_of(layout)[-1], streams_of(layout)[-1]
    states = [StreamState(), *(state for _, state in itertools.islice(straight, before))]
    resumed.go_on(states[-1:] * layout["num_readers"])
    assert list(itertools.islice(resumed, after)) == list(itertools.islice(straight, after))


def test_a_stream_may_go_back() -> None:
    stream = stream_of(Tracked([3, 3, 3]))
    first = take(stream, 20)
    stream.go_on([StreamState()])
    assert take(stream, 20) == first


def test_resuming_reads_one_window_and_the_next() -> None:
    source = Tracked([5] * 20)
    stream = stream_of(source, group=2)
    stream.go_on([StreamState(epoch=3, position=57)])
    next(stream)
    assert len(source.read) <= 4


def test_a_reader_reads_only_the_windows_of_its_part() -> None:
    sources = [Tracked([5] * 8) for _ in range(4)]
    for reader, source in enumerate(sources):
        stream = stream_of(source, reader=reader, num_readers=4)
        # The last record is not drawn: the next epoch's window would be read ahead with it.
        take(stream, stream.num_records // 2)
    assert [len(source.read) for source in sources] == [2, 2, 2, 2]
    assert sorted(part.shard for source in sources for part in source.read) == list(range(8))


class Held:
    """Raw records that are counted as long as they are there."""

    def __init__(self) -> None:
        self.alive = self.most = 0

    def one(self, record: int) -> "HeldRecord":
        self.alive += 1
        self.most = max(self.most, self.alive)
        return HeldRecord(self, record)


class HeldRecord:
    def __init__(self, held: Held, record: int) -> None:
        self.held, self.record = held, record

    def __del__(self) -> None:
        self.held.alive -= 1


shapes = st.fixed_dictionaries(
    {
        "counts": st.lists(st.integers(0, 30), min_size=1, max_size=12).filter(any),
        "shuffle_shards": st.integers(1, 5),
        "shuffle_records": st.integers(1, 40),
        "seed": st.integers(0, 9),
    }
)


@given(shape=shapes)
def test_no_more_than_two_windows_are_held(shape: dict[str, Any]) -> None:
    source, held, order = Tracked(shape["counts"]), Held(), Order(**shape)
    stream = RecordStream[int](
        order, read=lambda window: [held.one(record) for record in source(window)], parse=lambda raw: raw.record,
        reader=0, num_readers=1,
    )  # fmt: skip
    take(stream, 2 * sum(order.counts))
    assert 0 < held.most <= 2 * (order.shuffle_records + order.shuffle_shards)


@given(shape=shapes)
def test_windows_are_bounded_and_take_a_slice_of_every_shard_of_a_group(shape: dict[str, Any]) -> None:
    order = Order(**shape)
    total, num_shards = sum(order.counts), len(order.counts)
    windows = list(order.windows(Interval(epoch=0, start=0, stop=total)))
    assert [window.start for window in windows] == [0, *(window.stop for window in windows[:-1])]
    last_group = num_shards % order.shuffle_shards or order.shuffle_shards
    for window in windows:
        assert 0 < window.stop - window.start <= order.shuffle_records + order.shuffle_shards
        assert len({part.shard for part in window.slices}) in (min(order.shuffle_shards, num_shards), last_group)
    read = [(part.shard, n) for window in windows for part in window.slices for n in range(part.start, part.stop)]
    assert sorted(read) == [(shard, n) for shard, count in enumerate(order.counts) for n in range(count)]


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


def test_what_config_and_streams_take_unless_told_is_the_same() -> None:
    defaults = {name: field.default for name, field in DataConfig.model_fields.items()}
    assert (defaults["shuffle_shards"], defaults["shuffle_records"]) == (SHUFFLE_SHARDS, SHUFFLE_RECORDS)


def test_more_readers_than_records() -> None:
    with pytest.raises(DataError, match="3 records cannot be dealt out to 4 readers; write more of them, or train"):
        stream_of(Tracked([2, 1]), num_readers=4)


@pytest.mark.parametrize("state", [StreamState(epoch=0, position=4), StreamState(epoch=-1, position=0)])
def test_state_of_another_run(state: StreamState) -> None:
    with pytest.raises(DataError, match=f"epoch {state.epoch}, position {state.position}: a reader has 3 records per"):
        stream_of(Tracked([2, 1])).go_on([state])


def test_examples_from_shards(tmp_path: Path) -> None:
    examples = [make_example(number) for number in range(11)]
    write_shards(examples, tmp_path, kind="pretrain", per_shard=4, tokenizer_fingerprint="f", source="s", settings={})
    shards = open_shards(tmp_path, kind="pretrain", fingerprint="f")
    streams = [ExampleStream(shards, seed=5, reader=n, num_readers=2, shuffle_records=3) for n in range(2)]
    read = [example for stream in streams for example, _ in itertools.islice(stream, 5)]
    assert len({example.id for example in read}) == 10
    assert all(example in examples for example in read)


def test_damaged_shard_is_named_when_reached(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path, [make_passage(number) for number in range(9)])
    path = tmp_path / "shard-00002.tar"
    data = bytearray(path.read_bytes())
    data[700] ^= 1
    path.write_bytes(data)
    stream = PassageStream(corpus, seed=0, reader=0, num_readers=1, shuffle_shards=1)
    place = permutation(3, 0, 0, "shards").tolist().index(2)
    assert len(take(stream, 3 * place)) == 3 * place
    with pytest.raises(DataError, match="shard-00002.tar: sha256 is"):
        next(stream)


def test_over_long_passage_is_named_when_reached(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path, [make_passage(0)])
    with pytest.raises(DataError, match="shard-00000.tar, record 000000000: .*more than data.passage_tokens=5"):
        next(PassageStream(corpus, seed=0, reader=0, num_readers=1, max_tokens=5))


@pytest.mark.parametrize("is_elsewhere", [False, True])
def test_a_shard_is_opened_once_an_epoch_and_once_more_to_resume(tmp_path: Path, is_elsewhere: bool) -> None:
    corpus = write_corpus(tmp_path, [make_passage(number) for number in range(40)], per_shard=10)
    opened: list[str] = []
    place = Counting("https://host/x", opener=lambda url: (tmp_path / url.rpartition("/")[2]).open("rb"))
    shards = replace(corpus, place=place if is_elsewhere else Counting(tmp_path))
    shards.place.opened = opened

    def stream() -> PassageStream:
        return PassageStream(shards, seed=0, reader=0, num_readers=1, shuffle_shards=2, shuffle_records=5)

    read = list(itertools.islice(stream(), 34))  # in the last window but one
    assert sorted(opened) == sorted(entry.name for entry in shards.manifest.shards)
    for position in (3, 17, 30):
        resumed = stream()
        resumed.go_on([read[position - 1][1]])
        assert list(itertools.islice(resumed, 34 - position)) == read[position:]


class Counting(Place):
    """A place that notes what is opened."""

    opened: list[str]

    def open(self, name: str, **how: int) -> BinaryIO:
        self.opened.append(name)
        return super().open(name, **how)


def test_passages_of_an_article_come_together(tmp_path: Path) -> None:
    passages = [make_passage(number, article=f"a{number // 10}") for number in range(40)]
    corpus = write_corpus(tmp_path, passages, per_shard=7)
    stream = PassageStream(corpus, seed=0, reader=0, num_readers=1, passages_per_article=4)
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


@given(count=st.integers(1, 30), num_readers=st.integers(1, 4))
def test_records_in_memory_are_a_stream_too(count: int, num_readers: int) -> None:
    if count < num_readers:
        return
    records = [f"r{number}" for number in range(count)]
    streams = [MemoryStream(records, seed=1, reader=n, num_readers=num_readers) for n in range(num_readers)]
    for _ in range(2):
        read = [record for stream in streams for record, _ in itertools.islice(stream, count // num_readers)]
        assert len(set(read)) == len(read) == count // num_readers * num_readers


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
