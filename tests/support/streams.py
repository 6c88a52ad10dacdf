"""Streams over shards that are in memory, for tests that count what is read."""

import itertools

from realm_ds.data.order import Order, Slice, Window
from realm_ds.data.stream import RecordStream


class Tracked:
    """Shards of the numbers 0, 1, 2, ... in memory, and which slices of them were read."""

    def __init__(self, counts: list[int]) -> None:
        ends = list(itertools.accumulate(counts))
        self.shards = [list(range(end - count, end)) for count, end in zip(counts, ends, strict=True)]
        self.read: list[Slice] = []

    def __call__(self, window: Window) -> list[int]:
        self.read += window.slices
        records = [record for part in window.slices for record in self.shards[part.shard][part.start : part.stop]]
        return [records[place] for place in window.shuffle("records", len(records))]


def stream_of(
    source: Tracked, *, seed: int = 0, reader: int = 0, num_readers: int = 1, group: int = 1, window: int = 1000
) -> RecordStream[int]:
    counts = [len(shard) for shard in source.shards]
    return RecordStream[int](
        Order(counts=counts, seed=seed, shuffle_shards=group, shuffle_records=window),
        read=source,
        parse=lambda record: record,
        reader=reader,
        num_readers=num_readers,
    )
