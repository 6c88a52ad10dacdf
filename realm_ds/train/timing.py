"""Where the time of a step goes. On a GPU the phases are timed by events on its stream, without waiting for it.

What is made of the numbers is loop.py's business.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import torch

Phase = Literal[
    "data", "queries", "wait_for_index", "forward", "backward", "optimizer", "snapshot", "evaluate", "checkpoint"
]
"""`data` is reading, masking and collating; `queries` is embedding and sending them and taking their answers apart.
Fine-tuning embeds them in its forward pass, and marks what in their answers is right."""
PHASES: tuple[Phase, ...] = get_args(Phase)
ON_DEVICE: frozenset[Phase] = frozenset({"forward", "backward", "optimizer"})
"""Phases that a GPU works off after the call that asked for them has returned."""
OTHER = "other"
"""What no phase accounts for. A GPU works while its host prepares: there phases may overlap, and this be below 0."""
TIMES = tuple(f"{name}_ms" for name in (*PHASES, OTHER, "step"))
"""What `StepTimer.drain` gives."""


class StepTimer:
    """Seconds of each phase since the last drain. A phase is timed by whoever knows where it begins and ends."""

    def __init__(self, device: torch.device | None = None, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self._cuda = device if device is not None and device.type == "cuda" else None
        self._clock = clock
        self._seconds: dict[str, float] = dict.fromkeys(PHASES, 0.0)
        self._accounted_s = 0.0
        """Of the host's time, by phases that have ended."""
        self._events: list[tuple[Phase, torch.cuda.Event, torch.cuda.Event]] = []
        self._on_device: tuple[Phase, torch.cuda.Event] | None = None
        """The phase that a GPU is given work of, and since when."""
        self._started_at = clock()

    @contextmanager
    def phase(self, name: Phase) -> Iterator[None]:
        """What the block takes belongs to this phase, without what a phase within it takes."""
        is_on_device = self._cuda is not None and name in ON_DEVICE
        started_at, accounted_s = self._clock(), self._accounted_s
        around = self._turn_to(name if is_on_device else None)
        yield
        self._turn_to(around)
        took_s = self._clock() - started_at
        if not is_on_device:
            self._seconds[name] += took_s - (self._accounted_s - accounted_s)
        self._accounted_s = accounted_s + took_s

    def _turn_to(self, name: Phase | None) -> Phase | None:
        """From here on a GPU is given work of this phase, or none that is timed there. The phase before."""
        before, self._on_device = self._on_device, None
        if before is not None:
            self._events.append((*before, _now_on_device()))
        if name is not None:
            self._on_device = name, _now_on_device()
        return before[0] if before is not None else None

    def add(self, name: Phase, seconds: float) -> None:
        """Seconds that were measured elsewhere."""
        self._seconds[name] += seconds

    def move(self, seconds: float, *, source: Phase, to: Phase) -> None:
        """Seconds that were timed as part of `source`, but belong to `to`."""
        self._seconds[source] -= seconds
        self._seconds[to] += seconds

    def drain(self, num_steps: int) -> dict[str, float]:
        """Milliseconds a step since the last drain: of each phase, of all (`step_ms`), and `other_ms`, the rest, so
        that nothing hides. Waits for a GPU to have done what it was asked for."""
        if self._cuda is not None:
            torch.cuda.synchronize(self._cuda)
        for name, begin, end in self._events:
            self._seconds[name] += begin.elapsed_time(end) / 1e3
        now = self._clock()
        whole_s = now - self._started_at
        parts = {**self._seconds, OTHER: whole_s - sum(self._seconds.values()), "step": whole_s}
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self._events.clear()
        self._started_at = now
        return {f"{name}_ms": 1e3 * seconds / num_steps for name, seconds in parts.items()}


def _now_on_device() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event
