"""Was this process asked to end? SIGTERM and SIGUSR1 are a notice, not an end: the run decides when it can leave.

What trainers do about it is train/loop.py's business; index and builder ranks only go on until trainers take leave.
"""

import signal

NOTICES = (signal.SIGTERM, signal.SIGUSR1)
"""What batch systems send some time before they kill: `scancel`, `sbatch --signal`, preemption, node drains."""


class Notice:
    """Whether one of them has come. Once it has, it stays so."""

    def __init__(self) -> None:
        self.name = ""
        """Of the first signal."""

    @property
    def is_given(self) -> bool:
        return bool(self.name)

    def listen(self) -> "Notice":
        """From now on these signals are taken down and end nothing. Main thread only."""
        for number in NOTICES:
            signal.signal(number, self._take)
        return self

    def _take(self, number: int, frame: object) -> None:
        # No word to the log: the handler may interrupt the very call that holds the log's lock.
        self.name = self.name or signal.Signals(number).name
