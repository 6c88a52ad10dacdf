"""The most memory that this process and all it started held at once, looked at from outside once a second."""

import threading
from types import TracebackType
from typing import Self

import psutil

EVERY_S = 1.0


class PeakMemory:
    """Adds up the resident memory of the process tree while the block runs; pages shared by two count twice."""

    def __init__(self) -> None:
        self._peak_bytes = 0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="peak-memory", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over.set()
        self._thread.join()

    def peak_gib(self) -> float:
        """So far."""
        return self._peak_bytes / 2**30

    def _watch(self) -> None:
        this = psutil.Process()
        while not self._is_over.wait(EVERY_S):
            self._peak_bytes = max(self._peak_bytes, sum(map(_rss_bytes, [this, *this.children(recursive=True)])))


def _rss_bytes(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:  # It ended in the meantime.
        return 0
