"""The order in which an epoch reads its records: a pure function of (seed, epoch). Reading them is stream.py's.

Shards are permuted and taken in groups. The windows of a group follow one another, and window j of n takes the j-th of
n slices of each of its shards; the records of a window are permuted. So a window holds records from all over the
corpus, though each of the shards of its group is read forward, and once. Windows laid side by side are the line of
places that readers share (redeal.py).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from realm_ds.data.chance import permutation
from realm_ds.data.redeal import Interval

Shuffle = Callable[[str, int], np.ndarray]
"""(what for, how many) to a permutation, the same for the same window of the same epoch."""


@dataclass(frozen=True, kw_only=True)
class Slice:
    """Records start..stop-1 of a shard."""

    shard: int
    start: int
    stop: int


@dataclass(frozen=True, kw_only=True)
class Window:
    """Places start..stop-1 of an epoch's order, and the records that are permuted there."""

    epoch: int
    start: int
    stop: int
    slices: tuple[Slice, ...]
    """One for each shard of the group; of one with fewer records than there are windows it may be empty."""
    shuffle: Shuffle


@dataclass(frozen=True, kw_only=True)
class Order:
    """How the records of some shards are shuffled."""

    counts: Sequence[int]
    """Records of each shard."""
    seed: int
    shuffle_shards: int
    """Shards of a group."""
    shuffle_records: int
    """Of a window, and at most one more for each of its shards."""

    def windows(self, part: Interval) -> Iterator[Window]:
        """The windows that hold these places of an epoch, in order; all of each."""
        shards = permutation(len(self.counts), self.seed, part.epoch, "shards")
        start = 0
        for first in range(0, len(shards), self.shuffle_shards):
            group = shards[first : first + self.shuffle_shards]
            counts = np.asarray(self.counts)[group]
            num_windows = -(-int(counts.sum()) // self.shuffle_records)
            for number in range(num_windows):
                lows, highs = counts * number // num_windows, counts * (number + 1) // num_windows
                stop = start + int((highs - lows).sum())
                if max(start, part.start) < min(stop, part.stop):
                    yield Window(
                        epoch=part.epoch,
                        start=start,
                        stop=stop,
                        slices=tuple(
                            Slice(shard=shard, start=low, stop=high)
                            for shard, low, high in zip(group.tolist(), lows.tolist(), highs.tolist(), strict=True)
                        ),
                        shuffle=partial(_shuffled, self.seed, part.epoch, start),
                    )
                start = stop


def _shuffled(seed: int, epoch: int, start: int, what_for: str, length: int) -> np.ndarray:
    return permutation(length, seed, epoch, start, what_for)
