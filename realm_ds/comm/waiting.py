"""How a rank waits: it polls, sleeps a little longer each time, and gives up at a deadline.

A rank that blocks inside MPI spins on a whole core and slows every other rank of its machine; one that polls with a
growing sleep takes 1 to 4 % of a core.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from realm_ds.errors import IndexFault, RealmError
from realm_ds.observe.waiting import waiting_for as named

SHORTEST_SLEEP_S = 0.05e-3
LONGEST_SLEEP_S = 2e-3
GROWTH = 1 / 32
"""Of a sleep by the time waited so far: late by at most a thirty-second part of it, and by LONGEST_SLEEP_S."""


@dataclass(frozen=True, kw_only=True)
class Clock:
    """Time as a rank sees it; a test hands in its own."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


class Backoff:
    """Sleeps that grow from 0.05 ms to 2 ms with the time waited; `reset` after something was heard."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._slept_s = 0.0

    def reset(self) -> None:
        self._slept_s = 0.0

    def sleep(self) -> None:
        duration_s = min(max(GROWTH * self._slept_s, SHORTEST_SLEEP_S), LONGEST_SLEEP_S)
        self._clock.sleep(duration_s)
        self._slept_s += duration_s


def wait_until(
    is_ready: Callable[[], bool],
    *,
    timeout_s: float,
    waiting_for: str,
    clock: Clock,
    fault: type[RealmError] = IndexFault,
) -> None:
    """Returns once `is_ready()` holds; it is asked at least once, and again after each sleep."""
    deadline = clock.now() + timeout_s
    backoff = Backoff(clock)
    with named(waiting_for):
        while not is_ready():
            if clock.now() >= deadline:
                raise fault(f"waited {timeout_s:g} s for {waiting_for}")
            backoff.sleep()
