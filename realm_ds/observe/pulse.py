"""A thread of every rank that writes down every few seconds that it lives and what it waits for, and its stacks if that
takes too long. It speaks to no other rank: a rank that is stuck in a library still tells where.

`realm-ds watch` reads what it writes.
"""

import faulthandler
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from realm_ds.observe.sinks import Sinks, Value
from realm_ds.observe.waiting import longest_wait

logger = logging.getLogger(__name__)

EVERY_S = 5.0
"""Seconds between two events `alive`: some 3 MB a day of each rank."""


class Pulse:
    """While the block runs. Its methods are for the rank's own thread and cost nothing."""

    def __init__(
        self, sinks: Sinks, log_file: Path, *, stacks_after_s: float, every_s: float = EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._sinks, self._log_file = sinks, log_file
        self._stacks_after_s, self._every_s, self._clock = stacks_after_s, every_s, clock
        self._figures: dict[str, Value] = {}
        self._step_done_at: float | None = None
        self._dumped: set[int] = set()
        self._has_dumped_step = False
        self._written_at = float("-inf")
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)

    def tell(self, **figures: Value) -> None:
        """What the next events say beside."""
        self._figures = figures

    def step_done(self, step: int) -> None:
        """A step has ended, and the next is expected to."""
        self._step_done_at = self._clock()
        self._has_dumped_step = False
        self.tell(last_step=step)

    def steps_over(self) -> None:
        """No further step is expected."""
        self._step_done_at = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over.set()
        self._thread.join()

    def beat(self) -> None:
        """Write an event if one is due, and the stacks if something takes too long."""
        wait = longest_wait(clock=self._clock)
        if self._clock() - self._written_at >= self._every_s:
            self._written_at = self._clock()
            figures: dict[str, Any] = {"rss_gib": psutil.Process().memory_info().rss / 2**30, **self._figures}
            if wait is not None:
                figures |= {"waiting_for": wait.what, "waited_s": wait.seconds}
            self._sinks.write("alive", **figures)
        if wait is not None and wait.seconds > self._stacks_after_s and wait.number not in self._dumped:
            self._dumped.add(wait.number)
            self._dump(f"waits for {wait.what}, for {wait.seconds:.0f} s")
            self._has_dumped_step = True
        done_at = self._step_done_at
        if done_at is not None and self._clock() - done_at > self._stacks_after_s and not self._has_dumped_step:
            self._has_dumped_step = True
            self._dump(f"has ended no step for {self._clock() - done_at:.0f} s, and names no wait")

    def _dump(self, why: str) -> None:
        logger.warning("%s; the stacks of its threads are in %s", why, self._log_file)
        with self._log_file.open("a", encoding="utf-8") as out:
            faulthandler.dump_traceback(file=out)

    def _run(self) -> None:
        while not self._is_over.wait(min(1.0, self._every_s, self._stacks_after_s / 4)):
            try:
                self.beat()
            except OSError:  # a full disk: the rank's own next event tells, and ends the world
                logger.warning("cannot write that this rank lives", exc_info=True)
                return
