"""Which keys came before: a set of 63-bit numbers in 12 to 24 bytes each, where Python's takes 60."""

from array import array


class KeySet:
    """A table with open addressing: a key is in the first slot from its own onwards that was free."""

    def __init__(self) -> None:
        self._slots = array("Q", bytes(8 << 10))
        """A key and one, so that 0 is a free slot."""
        self._num_taken = 0

    def add(self, key: int) -> bool:
        """Take a key; whether it had not come before."""
        entry = key + 1
        slots = self._slots
        last = len(slots) - 1
        slot = entry & last
        while found := slots[slot]:
            if found == entry:
                return False
            slot = (slot + 1) & last
        slots[slot] = entry
        self._num_taken += 1
        if 3 * self._num_taken > 2 * last:
            self._grow()
        return True

    def _grow(self) -> None:
        entries = self._slots
        slots = self._slots = array("Q", bytes(2 * 8 * len(entries)))
        last = len(slots) - 1
        for entry in filter(None, entries):
            slot = entry & last
            while slots[slot]:
                slot = (slot + 1) & last
            slots[slot] = entry
