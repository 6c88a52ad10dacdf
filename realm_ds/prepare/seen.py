"""Which keys came before: a set of 63-bit numbers in little more than 8 bytes each, where Python's takes 60."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Keys = npt.NDArray[np.int64]
LARGEST_MERGE = 1 << 22
"""Sorted arrays are merged until one has so many keys: a merge holds both and the result."""


class SeenKeys:
    """Sorted arrays, merged like the digits of a binary counter: each key is moved a logarithmic number of times."""

    def __init__(self) -> None:
        self._arrays: list[Keys] = []

    def __len__(self) -> int:
        return sum(map(len, self._arrays))

    @property
    def num_bytes(self) -> int:
        """What they take in memory."""
        return sum(array.nbytes for array in self._arrays)

    @property
    def num_arrays(self) -> int:
        """How many arrays are searched for a key."""
        return len(self._arrays)

    def add(self, keys: Sequence[int] | Keys) -> npt.NDArray[np.bool_]:
        """Take keys; for each whether it had not come before, in earlier calls or earlier in this one."""
        batch = np.asarray(keys, dtype=np.int64)
        ascending, places = np.unique(batch, return_index=True)
        is_new = np.ones(len(ascending), dtype=np.bool_)
        for array in self._arrays:
            found = np.minimum(np.searchsorted(array, ascending), len(array) - 1)
            is_new &= array[found] != ascending
        first = np.zeros(len(batch), dtype=np.bool_)
        first[places] = is_new
        self._push(ascending[is_new])
        return first

    def _push(self, array: Keys) -> None:
        while (
            self._arrays
            and len(array) + len(self._arrays[-1]) <= LARGEST_MERGE
            and 2 * len(array) > len(self._arrays[-1])
        ):
            array = np.concatenate([self._arrays.pop(), array])
            array.sort(kind="stable")  # finds the two runs and merges them
        if len(array):
            self._arrays.append(array)
