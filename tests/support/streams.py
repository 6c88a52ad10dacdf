"""Streams over shards that are in memory, for tests that count what is read."""

import itertools

from realm_ds.data.stream import RecordStream


class Tracked:
    """Shards of the numbers 0, 1, 2, ... in memory, and which of them were read."""

    def __init__(self, counts: list[int]) -> None:
        ends = list(itertools.accumulate(counts))
        self.shards = [list(range(end - count, end)) for count, end in zip(counts, ends, strict=True)]
        self.read: list[int] = []

    def __call__(self, shard: int) -> list[int]:
        self.read.append(shard)
        return self.shards[shard]


def stream_of(
    source: Tracked, *, seed: int = 0, reader: int = 0, num_readers: int = 1, window: int = 1
) -> RecordStream[int]:
    return RecordStream[int](
        [len(shard) for shard in source.shards],
        read=source,
        arrange=lambda records, shuffle: shuffle("records", len(records)),
        seed=seed,
        reader=reader,
        num_readers=num_readers,
        window_shards=window,
    )
