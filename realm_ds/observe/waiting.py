"""What is this rank waiting for? Every long wait is named here while it lasts, so that a stuck run can be asked."""

import faulthandler
import itertools
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

logger = logging.getLogger(__name__)

LONG_S = 5.0
"""A wait that took longer is worth a line in the log."""

# Without a lock: each step on the dictionary is atomic, and a signal handler may read it at any moment.
_waits: dict[int, tuple[str, float, str]] = {}
_numbers = itertools.count()


@dataclass(frozen=True, kw_only=True)
class Wait:
    """One that goes on now."""

    number: int
    """No other wait of this process has it."""
    what: str
    seconds: float


@contextmanager
def waiting_for(what: str, *, clock: Callable[[], float] = time.monotonic) -> Iterator[None]:
    """Name a wait for as long as the block runs."""
    started_at, number = clock(), next(_numbers)
    _waits[number] = (what, started_at, threading.current_thread().name)
    try:
        yield
    finally:
        del _waits[number]
        took_s = clock() - started_at
        if took_s > LONG_S:
            logger.info("waited %.1f s for %s", took_s, what)


def current_waits(*, clock: Callable[[], float] = time.monotonic) -> list[str]:
    """The waits that go on now, longest first."""
    waits = sorted(_waits.values(), key=lambda wait: wait[1])
    return [f"{what}, for {clock() - started_at:.1f} s (thread {thread})" for what, started_at, thread in waits]


def longest_wait(*, clock: Callable[[], float] = time.monotonic) -> Wait | None:
    """Of those that go on now, the one that has lasted longest."""
    waits = list(_waits.items())
    if not waits:
        return None
    number, (what, started_at, _) = min(waits, key=lambda wait: wait[1][1])
    return Wait(number=number, what=what, seconds=clock() - started_at)


def answer_sigusr2(log_file: Path) -> TextIO:
    """On SIGUSR2 write the waits and every thread's stack to a rank's log; on a crash, the stacks. Main thread only.

    The returned file must stay open as long as the process lives.
    """
    out = log_file.open("a", encoding="utf-8")
    faulthandler.enable(file=out)

    def report(signum: int, frame: object) -> None:
        waits = current_waits() or ["nothing: it is computing"]
        out.write("".join(f"waiting for {wait}\n" for wait in waits))
        out.flush()

    signal.signal(signal.SIGUSR2, report)
    # The stacks come from C, at once, even where the main thread is stuck in a library; then the handler above runs.
    faulthandler.register(signal.SIGUSR2, file=out, chain=True)
    return out
