"""Worker processes: chunks in, what was made of them out, in the same order. What a chunk is, is not known here.

A worker is a process of its own and a pipe of its own, of which no other process has that end: the end of the pipe is
the end of the worker, in whatever it was stopped. There is no lock that it could take along, as pools have.
"""

import contextlib
import multiprocessing
import os
import signal
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from queue import SimpleQueue
from typing import Any, TypeVar

from realm_ds.errors import DataError
from realm_ds.tether import die_with_parent

Chunk = TypeVar("Chunk")
Result = TypeVar("Result")
IN_FLIGHT = 3
"""Chunks for each worker that are given out and not yet taken back: one in work, one that waits, one that is done."""
END_S = 10.0
"""How long the end of a process is waited for."""


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
    with _team(start_work, workers) as submit:
        ahead: deque[Future[Result]] = deque()
        for chunk in chunks:
            ahead.append(submit(chunk))
            if len(ahead) == IN_FLIGHT * workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


@contextlib.contextmanager
def _team(start_work: Callable[[], Any], workers: int) -> Generator[Callable[[Any], Future[Any]], None, None]:
    team: list[_Worker] = []
    free: SimpleQueue[_Worker] = SimpleQueue()
    # A thread waits for each worker, so that none is idle while this process writes a shard.
    threads = ThreadPoolExecutor(workers)

    def submit(chunk: Any) -> Future[Any]:
        if len(team) < workers:  # here and not in a thread: workers die with the thread that starts them
            team.append(_Worker(start_work))
            free.put(team[-1])
        return threads.submit(work, chunk)

    def work(chunk: Any) -> Any:
        worker = free.get()
        try:
            return worker.make(chunk)
        finally:
            free.put(worker)

    try:
        yield submit
    except _WorkerEnded as end:
        raise DataError(_why_ended(end.process)) from end
    finally:
        # What is still in work is wanted by nobody: the end comes at once, also when it came by Ctrl-C.
        for worker in team:
            worker.process.kill()
        for worker in team:
            worker.process.join(END_S)
        threads.shutdown(wait=False, cancel_futures=True)  # each that waits for a worker met the end of its pipe


class _WorkerEnded(Exception):
    def __init__(self, process: BaseProcess) -> None:
        super().__init__(f"worker process {process.pid}")
        self.process = process


class _Worker:
    """A worker process as the main process sees it."""

    def __init__(self, start_work: Callable[[], Any]) -> None:
        # Spawned, not forked: tokenizers and torch keep threads, which a fork would leave behind in mid-air.
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        # What it starts with goes through our pipe as well: that of multiprocessing, of which this process has the
        # worker's end too, holds 64 KiB, and writing more to a worker that died would never end.
        self._unsent = [start_work]
        self.process = context.Process(target=_serve, args=(theirs, os.getpid()), daemon=True)
        with theirs:  # were it open here as well, the pipe of a worker that died would have no end
            self.process.start()

    def make(self, chunk: Any) -> Any:
        """What the worker makes of a chunk. Raises what it raised, or _WorkerEnded."""
        try:
            while self._unsent:
                self._connection.send(self._unsent.pop())
            self._connection.send(chunk)
            is_made, value = self._connection.recv()
        except (EOFError, OSError) as error:
            raise _WorkerEnded(self.process) from error
        if is_made:
            return value
        raise value


def _why_ended(process: BaseProcess) -> str:
    process.join(END_S)
    code = process.exitcode
    if code == -signal.SIGKILL:
        how = "was killed (SIGKILL), as the kernel does when memory runs out"
    elif code is not None and code < 0:
        how = f"was ended by {signal.Signals(-code).name}"
    else:
        how = f"ended with exit code {code}"
    return f"a worker process {how}; go on with --resume, if it was memory with fewer --workers"


def _serve(connection: Connection, parent: int) -> None:
    """All that a worker process does: what it starts with comes first, then chunks."""
    die_with_parent()
    if os.getppid() != parent:  # it died before that
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all of us: the parent decides
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    make: Callable[[Any], Any] | None = None
    with contextlib.suppress(EOFError, ConnectionError):  # nobody wants more
        start_work = connection.recv()
        while True:
            chunk = connection.recv()
            try:
                make = make or start_work()
                answer = True, make(chunk)
            except Exception as error:
                error.add_note("".join(traceback.format_exception(error)))  # which does not travel along
                answer = False, error
            connection.send(answer)
