"""Endless, shuffled, resumable streams of records from tar shards. What a record becomes is masking.py's and ict.py's.

The order of an epoch is a pure function of (seed, epoch): shards are permuted, dealt into windows of a few shards, and
records are permuted inside a window. That order is cut into equal contiguous parts, one a reader, so a reader opens
only the windows that overlap its part, and holds one window in memory. Resuming reads one window, wherever it is; with
another number of readers, what was unread of the epochs at hand is dealt out anew (redeal.py).
webdataset's own splitting by rank is not used: with RANK set it silently never reads some shards.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Generic, Self, TypeVar

import numpy as np

from realm_ds.data.chance import permutation
from realm_ds.data.records import Example, Passage, example_from_json, passage_from_json
from realm_ds.data.redeal import StreamState, redeal
from realm_ds.data.shards import Manifest, ShardEntry, read_shard, verify_shard
from realm_ds.errors import DataError

Record = TypeVar("Record")
Shuffle = Callable[[str, int], np.ndarray]
"""(what for, how many) to a permutation, the same for the same window of the same epoch."""


class RecordStream(Generic[Record]):
    """Iterator of (record, state after it); `state.epoch` is the epoch of that record.

    Every record is read once per epoch by one reader, save fewer than `num_readers` left over, others each epoch.
    """

    def __init__(
        self,
        counts: Sequence[int],
        *,
        read: Callable[[int], list[Record]],
        arrange: Callable[[Sequence[Record], Shuffle], Iterable[int]],
        seed: int,
        reader: int,
        num_readers: int,
        window_shards: int,
    ) -> None:
        self._total, self._reader, self._num_readers = sum(counts), reader, num_readers
        self.num_records = self._total // num_readers
        """Records of each reader per epoch."""
        if self.num_records == 0:
            raise DataError(
                f"{sum(counts)} records cannot be dealt out to {num_readers} readers; "
                "write more of them, or train with fewer trainers"
            )
        self._counts = np.asarray(counts)
        self._read = read
        self._arrange = arrange
        self._seed = seed
        self._window_shards = window_shards
        self._state = StreamState()
        self._window: list[Record] = []
        self._window_epoch = -1
        self._window_start = 0

    @property
    def state(self) -> StreamState:
        """After the record read last."""
        return self._state

    def go_on(self, states: Sequence[StreamState]) -> None:
        """Go on where all readers of a run left off together; another number of them than now is re-dealt.

        None is the beginning.
        """
        if len(states) not in (0, self._num_readers):
            states = redeal(states, total=self._total, num_readers=self._num_readers)
        self.start_at(states[self._reader] if states else StreamState())

    def start_at(self, state: StreamState) -> None:
        """Go on with the record that followed this state."""
        longest = sum(part.stop - part.start for part in state.rest) if state.rest else self.num_records
        is_within = all(0 <= part.start < part.stop <= self._total and part.epoch >= 0 for part in state.rest)
        if state.epoch < 0 or not 0 <= state.position <= longest or not is_within:
            raise DataError(
                f"a stream cannot go on at epoch {state.epoch}, position {state.position}: a reader has "
                f"{longest} records {'left to share' if state.rest else 'per epoch'}; resume with the shards of the run"
            )
        self._state = state

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> tuple[Record, StreamState]:
        epoch, place, self._state = self._after(self._state)
        in_window = self._window_start <= place < self._window_start + len(self._window)
        if epoch != self._window_epoch or not in_window:
            self._open_window(epoch, place)
        return self._window[place - self._window_start], self._state

    def _after(self, state: StreamState) -> tuple[int, int, StreamState]:
        """(epoch, place in its order, state after it) of the record that follows a state."""
        before = 0
        for part in state.rest:
            if state.position < before + part.stop - part.start:
                place = part.start + state.position - before
                return part.epoch, place, replace(state, epoch=part.epoch, position=state.position + 1)
            before += part.stop - part.start
        epoch, position = state.epoch, state.position
        if state.rest:
            epoch, position = state.rest_until + 1, 0
        elif position == self.num_records:
            epoch, position = epoch + 1, 0
        place = self._reader * self.num_records + position
        return epoch, place, StreamState(epoch=epoch, position=position + 1)

    def _open_window(self, epoch: int, place: int) -> None:
        """Read the window that holds this place of the epoch's order, and put its records in order."""
        order = permutation(len(self._counts), self._seed, epoch, "shards")
        ends = np.cumsum(self._counts[order])
        first = int(np.searchsorted(ends, place, side="right")) // self._window_shards * self._window_shards
        window = order[first : first + self._window_shards].tolist()
        self._window = []  # before the next is read, so that there are never two
        records = [record for shard in window for record in self._read(shard)]

        def shuffle(what_for: str, length: int) -> np.ndarray:
            return permutation(length, self._seed, epoch, first, what_for)

        self._window = [records[number] for number in self._arrange(records, shuffle)]
        self._window_start = int(ends[first - 1]) if first else 0
        self._window_epoch = epoch


class ExampleStream(RecordStream[Example]):
    """Examples of a folder of pretrain shards, shard by shard unless `window_shards` says otherwise."""

    def __init__(
        self,
        folder: Path,
        *,
        manifest: Manifest,
        seed: int,
        reader: int,
        num_readers: int,
        window_shards: int = 1,
        verify: bool = True,
    ) -> None:
        super().__init__(
            [entry.count for entry in manifest.shards],
            read=_reader(folder, manifest.shards, lambda data, where: example_from_json(data, where=where), verify),
            arrange=lambda records, shuffle: shuffle("records", len(records)),
            seed=seed,
            reader=reader,
            num_readers=num_readers,
            window_shards=window_shards,
        )


class PassageStream(RecordStream[Passage]):
    """Passages of a folder of corpus shards; those of one article come in groups of up to `passages_per_article`.

    Articles stand side by side in the shards, so a window of several shards is what mixes them. Memory is one window:
    about 10 bytes a wordpiece, so 8 shards of 10,000 long passages take some 250 MB.
    """

    def __init__(
        self,
        folder: Path,
        *,
        manifest: Manifest,
        seed: int,
        reader: int,
        num_readers: int,
        passages_per_article: int = 1,
        max_tokens: int | None = None,
        window_shards: int = 8,
        verify: bool = True,
    ) -> None:
        def parse(data: object, where: str) -> Passage:
            return passage_from_json(data, where=where, max_tokens=max_tokens)

        super().__init__(
            [entry.count for entry in manifest.shards],
            read=_reader(folder, manifest.shards, parse, verify),
            arrange=lambda records, shuffle: grouped_order(
                [record.article for record in records], passages_per_article, shuffle
            ),
            seed=seed,
            reader=reader,
            num_readers=num_readers,
            window_shards=window_shards,
        )


def grouped_order(articles: Sequence[str], group_size: int, shuffle: Shuffle) -> list[int]:
    """All places of `articles`, shuffled, those of one article side by side in groups of at most `group_size`.

    An article is cut into groups of nearly equal size, so that no passage is left alone where it need not be.
    """
    members: dict[str, list[int]] = {}
    for place in shuffle("records", len(articles)).tolist():
        members.setdefault(articles[place], []).append(place)
    groups = [group for places in members.values() for group in np.array_split(places, -(-len(places) // group_size))]
    return [int(place) for number in shuffle("groups", len(groups)) for place in groups[number]]


def _reader(
    folder: Path, entries: Sequence[ShardEntry], parse: Callable[[object, str], Record], verify: bool
) -> Callable[[int], list[Record]]:
    """Reads a shard by its number; its digest is checked the first time."""
    unverified = set(range(len(entries))) if verify else set()

    def read(shard: int) -> list[Record]:
        entry = entries[shard]
        path = folder / entry.name
        if shard in unverified:
            verify_shard(folder, entry)
            unverified.remove(shard)
        return [parse(data, f"{path}, record {key}") for key, data in read_shard(path, count=entry.count)]

    return read
