"""Work that training must not wait for, done one job after the other in a thread: hashing, making durable, publishing.

In order: what was handed in first is on the disk first, so a snapshot is there before the checkpoint that needs it. The
thread speaks neither MPI nor torch.distributed. What jobs do is checkpoint.py's and refresh.py's business.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from realm_ds.comm.waiting import Clock, wait_until
from realm_ds.errors import CheckpointError, RealmError
from realm_ds.files import is_disk_full


class Writer:
    """A queue of jobs with at most one of each kind in it: what they hold in memory is bounded."""

    def __init__(self, *, timeout_s: float, clock: Clock | None = None) -> None:
        """No job is waited for longer than `timeout_s`."""
        self._timeout_s, self._clock = timeout_s, clock or Clock()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="writer")
        self._newest: dict[str, Future[None]] = {}
        self._fault: tuple[str, Exception] | None = None

    def submit(self, kind: str, job: Callable[[], None]) -> None:
        """Queue a job, once the one before it of its kind is done. Raises as `check` does."""
        self.wait_for(kind)
        self._newest[kind] = self._thread.submit(self._run, kind, job)

    def check(self) -> None:
        """Raise what a job has failed with: CheckpointError, or the OSError of a full disk. It costs nothing."""
        if self._fault is None:
            return
        kind, fault = self._fault
        if isinstance(fault, RealmError) or is_disk_full(fault):
            raise fault
        raise CheckpointError(
            f"the {kind} could not be written ({type(fault).__name__}: {fault}): mend that, then go on with --resume"
        ) from fault

    def wait_for(self, kind: str) -> None:
        """Returns once no job of this kind is queued or at work. Raises as `check` does."""
        job = self._newest.get(kind)
        if job is not None:
            wait_until(
                job.done, timeout_s=self._timeout_s, waiting_for=f"the {kind} before this one to be on the disk",
                clock=self._clock, fault=CheckpointError,
            )  # fmt: skip
        self.check()

    def drain(self) -> None:
        """Returns once all is done: before a run ends, and before others read what it wrote. Raises as `check` does."""
        for kind in tuple(self._newest):
            self.wait_for(kind)

    def close(self) -> None:
        """Drop what is queued and end the thread."""
        self._thread.shutdown(cancel_futures=True)

    def _run(self, kind: str, job: Callable[[], None]) -> None:
        if self._fault is not None:
            return  # What comes after a failure may lean on it: a checkpoint without its snapshot is none.
        try:
            job()
        except Exception as fault:
            self._fault = (kind, fault)
