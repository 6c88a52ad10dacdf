"""Endless, shuffled, resumable streams of records. What a record becomes is masking.py's and ict.py's.

The order of an epoch (order.py) is cut into equal contiguous parts, one a reader. A reader opens the windows that
overlap its part: the one at hand is in memory as raw bytes, the next is read behind it by a thread, and a record is
parsed when it is handed out, so that no step of training pays for more than its own. Each record is read once per epoch
by one reader, save fewer than there are readers, others each epoch. A window or group of shards that several readers
share is opened by each: readers times one group is the most that an epoch reads over its own size.
Resuming passes over what stands before the window in each shard of its group, wherever that is; with another number of
readers, what was unread of the epochs at hand is dealt out anew (redeal.py).
webdataset's own splitting by rank is not used: with RANK set it silently never reads some shards.
"""

import threading
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Generic, Self, TypeVar

from realm_ds.data.elsewhere import TIMEOUT_S
from realm_ds.data.order import Order, Shuffle, Slice, Window
from realm_ds.data.read_ahead import read_ahead
from realm_ds.data.records import (
    Example,
    Passage,
    article_bytes,
    example_from_json,
    parse,
    passage_from_json,
)
from realm_ds.data.redeal import Interval, StreamState, redeal
from realm_ds.data.shards import Shards
from realm_ds.data.tar_reader import TarReader
from realm_ds.errors import DataError

Record = TypeVar("Record")
Raw = tuple[int, bytes]
"""A record's number among all, and its JSON."""
SHUFFLE_SHARDS, SHUFFLE_RECORDS = 16, 8192
"""What data.shuffle_shards and data.shuffle_records are unless set."""


class RecordStream(Generic[Record]):
    """Iterator of (record, state after it); `state.epoch` is the epoch of that record."""

    def __init__(
        self,
        order: Order,
        *,
        read: Callable[[Window], Sequence[Any]],
        parse: Callable[[Any], Record],
        reader: int,
        num_readers: int,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """`read` gives what stands at the places of a window, in order, and `parse` makes a record of one of them."""
        self._total, self._reader, self._num_readers = sum(order.counts), reader, num_readers
        self.num_records = self._total // num_readers
        """Records of each reader per epoch."""
        if self.num_records == 0:
            raise DataError(
                f"{self._total} records cannot be dealt out to {num_readers} readers; "
                "write more of them, or train with fewer trainers"
            )
        self._order, self._read, self._parse, self._timeout_s = order, read, parse, timeout_s
        self._records = self._from(StreamState())

    def go_on(self, states: Sequence[StreamState]) -> None:
        """Go on where all readers of a run left off together; another number of them than now is re-dealt.

        None is the beginning.
        """
        if len(states) not in (0, self._num_readers):
            states = redeal(states, total=self._total, num_readers=self._num_readers)
        self._start_at(states[self._reader] if states else StreamState())

    def _start_at(self, state: StreamState) -> None:
        """Go on with the record that followed this state."""
        longest = sum(part.stop - part.start for part in state.rest) if state.rest else self.num_records
        is_within = all(0 <= part.start < part.stop <= self._total and part.epoch >= 0 for part in state.rest)
        if state.epoch < 0 or not 0 <= state.position <= longest or not is_within:
            raise DataError(
                f"a stream cannot go on at epoch {state.epoch}, position {state.position}: a reader has "
                f"{longest} records {'left to share' if state.rest else 'per epoch'}; resume with the shards of the run"
            )
        self._records = self._from(state)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> tuple[Record, StreamState]:
        return next(self._records)

    def _from(self, state: StreamState) -> Iterator[tuple[Record, StreamState]]:
        """All records that follow a state, without end."""
        windows = ((run, window) for run in self._runs(state) for window in self._order.windows(run.part))
        for run, window, raws in read_ahead(
            windows,
            lambda pair: (*pair, self._read(pair[1])),
            timeout_s=self._timeout_s,
            what="reading the next records from tar shards",
        ):
            first, last = max(window.start, run.part.start), min(window.stop, run.part.stop)
            for place in range(first, last):
                position = run.before.position + place + 1 - run.part.start
                yield self._parse(raws[place - window.start]), replace(run.before, position=position)
            del raws  # before the next is waited for, so that there are never three

    def _runs(self, state: StreamState) -> Iterator["_Run"]:
        """What this reader reads from a state on: what is left of a rest, or of an epoch, then plain epochs."""
        before = 0
        for part in state.rest:
            start, before = before, before + part.stop - part.start
            if state.position < before:
                done = max(state.position - start, 0)
                yield _Run(
                    part=replace(part, start=part.start + done),
                    before=replace(state, epoch=part.epoch, position=start + done),
                )
        epoch, position = (state.rest_until + 1, 0) if state.rest else (state.epoch, state.position)
        while True:
            start = self._reader * self.num_records
            if position < self.num_records:
                part = Interval(epoch=epoch, start=start + position, stop=start + self.num_records)
                yield _Run(part=part, before=StreamState(epoch=epoch, position=position))
            epoch, position = epoch + 1, 0


@dataclass(frozen=True, kw_only=True)
class _Run:
    """Places of one epoch that are read one after the other."""

    part: Interval
    before: StreamState
    """The state before the first of them."""


class MemoryStream(RecordStream[Record]):
    """Records that are in memory anyway, shuffled as one window."""

    def __init__(self, records: Sequence[Record], *, seed: int, reader: int, num_readers: int) -> None:
        order = Order(counts=[len(records)], seed=seed, shuffle_shards=1, shuffle_records=len(records))
        super().__init__(
            order,
            read=lambda window: window.shuffle("records", len(records)).tolist(),
            parse=lambda place: records[place],
            reader=reader,
            num_readers=num_readers,
        )


class ExampleStream(RecordStream[Example]):
    """Examples of pre-training shards."""

    def __init__(
        self,
        shards: Shards,
        *,
        seed: int,
        reader: int,
        num_readers: int,
        shuffle_shards: int = SHUFFLE_SHARDS,
        shuffle_records: int = SHUFFLE_RECORDS,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        def parsed(raw: Raw) -> Example:
            where = shards.where(raw[0])
            return example_from_json(parse(raw[1], where=where), where=where)

        super().__init__(
            _order(shards, seed=seed, shuffle_shards=shuffle_shards, shuffle_records=shuffle_records),
            read=_WindowReader(shards, lambda records, shuffle: shuffle("records", len(records)).tolist()),
            parse=parsed,
            reader=reader,
            num_readers=num_readers,
            timeout_s=timeout_s,
        )


class PassageStream(RecordStream[Passage]):
    """Passages of corpus shards; those of one article and window come in groups of up to `passages_per_article`."""

    def __init__(
        self,
        shards: Shards,
        *,
        seed: int,
        reader: int,
        num_readers: int,
        passages_per_article: int = 1,
        max_tokens: int | None = None,
        shuffle_shards: int = SHUFFLE_SHARDS,
        shuffle_records: int = SHUFFLE_RECORDS,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        def parsed(raw: Raw) -> Passage:
            where = shards.where(raw[0])
            return passage_from_json(parse(raw[1], where=where), where=where, max_tokens=max_tokens)

        def arrange(records: Sequence[Raw], shuffle: Shuffle) -> Iterable[int]:
            return grouped_order([article_bytes(data) for _, data in records], passages_per_article, shuffle)

        super().__init__(
            _order(shards, seed=seed, shuffle_shards=shuffle_shards, shuffle_records=shuffle_records),
            read=_WindowReader(shards, arrange),
            parse=parsed,
            reader=reader,
            num_readers=num_readers,
            timeout_s=timeout_s,
        )


def grouped_order(articles: Sequence[Hashable], group_size: int, shuffle: Shuffle) -> list[int]:
    """All places of `articles`, shuffled, those of one article side by side in groups of at most `group_size`.

    An article is cut into groups of nearly equal size, so that no passage is left alone where it need not be.
    """
    members: dict[Hashable, list[int]] = {}
    for place in shuffle("records", len(articles)).tolist():
        members.setdefault(articles[place], []).append(place)
    groups = []
    for places in members.values():
        count, num_groups = len(places), -(-len(places) // group_size)
        cuts = [count * number // num_groups for number in range(num_groups + 1)]
        groups += [places[start:stop] for start, stop in pairwise(cuts)]
    return [place for number in shuffle("groups", len(groups)).tolist() for place in groups[number]]


def _order(shards: Shards, *, seed: int, shuffle_shards: int, shuffle_records: int) -> Order:
    counts = [entry.count for entry in shards.manifest.shards]
    return Order(counts=counts, seed=seed, shuffle_shards=shuffle_shards, shuffle_records=shuffle_records)


class _WindowReader:
    """Reads windows from tar shards. A shard stays open while the windows that follow one another go on in it."""

    def __init__(self, shards: Shards, arrange: Callable[[Sequence[Raw], Shuffle], Iterable[int]]) -> None:
        self._shards, self._arrange = shards, arrange
        self._open: dict[int, TarReader] = {}
        self._verified: set[int] = set()
        self._lock = threading.Lock()  # where a stream is sent elsewhere, its old thread may still be reading

    def __call__(self, window: Window) -> list[Raw]:
        with self._lock:
            for shard in self._open.keys() - {part.shard for part in window.slices}:
                self._open.pop(shard).close()
            records = [raw for part in window.slices if part.start < part.stop for raw in self._read(part)]
        return [records[place] for place in self._arrange(records, window.shuffle)]

    def _read(self, part: Slice) -> list[Raw]:
        reader = self._open.pop(part.shard, None)
        if reader is None or reader.position > part.start:
            reader = self._shards.open(part.shard, verify=part.shard not in self._verified)
            self._verified.add(part.shard)
        reader.skip(part.start - reader.position)
        first = self._shards.firsts[part.shard]
        records = [(first + number, reader.next()) for number in range(part.start, part.stop)]
        if part.stop < self._shards.manifest.shards[part.shard].count:
            self._open[part.shard] = reader
        else:
            reader.close()
        return records
