"""Worker processes: chunks in, what was made of them out, in the same order. What a chunk is, is not known here."""

import contextlib
import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from realm_ds.errors import DataError
from realm_ds.tether import die_with_parent

Chunk = TypeVar("Chunk")
Result = TypeVar("Result")
IN_FLIGHT = 3
"""Chunks for each worker that are given out and not yet taken back: one in work, one that waits, one that is done."""


def available_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))


def work_in_order(
    chunks: Iterable[Chunk], start_work: Callable[[], Callable[[Chunk], Result]], *, workers: int
) -> Generator[Result, None, None]:
    """What `start_work()` makes of each chunk, in order, by so many processes; 0: in this one.

    Memory is bounded: chunks are read IN_FLIGHT for each worker ahead. Close the generator, and no worker is left.
    """
    if workers == 0:
        yield from map(start_work(), chunks)
        return
    with _pool(start_work, workers) as submit:
        ahead: deque[Future[Result]] = deque()
        for chunk in chunks:
            ahead.append(submit(chunk))
            if len(ahead) == IN_FLIGHT * workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


@contextlib.contextmanager
def _pool(start_work: Callable[[], Any], workers: int) -> Generator[Callable[[Any], Future[Any]], None, None]:
    _start_tracker()
    # Spawned, not forked: tokenizers and torch keep threads, which a fork would leave behind in mid-air.
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_begin, initargs=(start_work, os.getpid())
    )
    others = set(multiprocessing.active_children())
    ours: set[BaseProcess] = set()

    def submit(chunk: Any) -> Future[Any]:
        future = pool.submit(_work, chunk)
        if len(ours) < workers:
            ours.update(set(multiprocessing.active_children()) - others)
        return future

    try:
        yield submit
    except BrokenProcessPool as error:
        raise DataError(_why_broken(ours)) from error
    finally:
        # What is still in work is wanted by nobody: the end comes at once, also when it came by Ctrl-C.
        for process in ours:
            process.kill()
        pool.shutdown()


def _start_tracker() -> None:
    """Python's own process that clears away the semaphores of a pool whose process was killed, and warns of them: that
    is what it is there for, and nobody needs to read it."""
    sys.warnoptions.append("ignore::UserWarning:multiprocessing.resource_tracker")
    try:
        resource_tracker.ensure_running()
    finally:
        sys.warnoptions.pop()


def _why_broken(workers: Iterable[BaseProcess]) -> str:
    codes = []
    for process in workers:
        process.join(10)
        codes.append(process.exitcode)
    # The pool ends the others itself, by SIGTERM.
    code = next((code for code in codes if code not in (None, 0, -signal.SIGTERM)), None)
    if code == -signal.SIGKILL:
        how = "was killed (SIGKILL), as the kernel does when memory runs out"
    elif code is not None and code < 0:
        how = f"was ended by {signal.Signals(-code).name}"
    else:
        how = f"ended with exit code {code}"
    return f"a worker process {how}; go on with --resume, if it was memory with fewer --workers"


_start_work: Callable[[], Callable[[Any], Any]]
_make: Callable[[Any], Any] | None = None
"""Of a worker process: what its chunks are given to."""


def _begin(start_work: Callable[[], Callable[[Any], Any]], parent: int) -> None:
    global _start_work
    die_with_parent()
    if os.getppid() != parent:  # it died before that
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all of us: the parent decides
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    _start_work = start_work


def _work(chunk: Any) -> Any:
    # Started here and not in _begin, so that its errors come back as they are.
    global _make
    if _make is None:
        _make = _start_work()
    return _make(chunk)
