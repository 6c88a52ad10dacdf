"""A job that is quick to do, and a process of its own that does it: `python -m tests.support.jobs OUT WORKERS KILL_AT`.

Module-level, so that worker processes find it.
"""

import os
import signal
import struct
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from realm_ds.data.records import record_bytes
from realm_ds.errors import DataError
from realm_ds.prepare.documents import Tally
from realm_ds.prepare.job import ChunkResult, Output, run_job
from realm_ds.tether import TAG_VARIABLE, kill_tagged, tagged
from tests.support.records import make_passage

NUM_CHUNKS = 40
REPOSITORY = Path(__file__).parents[2]


def chunks(count: int = NUM_CHUNKS) -> Iterator[int]:
    """Numbers, one a chunk."""
    return iter(range(count))


def start_work(touched: Path | None = None) -> Callable[[int], ChunkResult]:
    """Of a number up to four passages are made, some of them as an earlier number gives them; files in `touched` tell
    which numbers were worked on."""

    def make(number: int) -> ChunkResult:
        if touched is not None:
            (touched / str(number)).touch()
        tally = Tally()
        tally.add("numbers", where=f"number {number}")
        passages = [make_passage((number * number + 11 * place) % 97) for place in range(number * 7 % 5)]
        return ChunkResult(
            records=[record_bytes(passage) for passage in passages],
            keys=[passage.uid for passage in passages],
            tally=tally,
        )

    return make


def start_failing(number: int, how: str) -> Callable[[int], ChunkResult]:
    """As start_work, but one number ends the worker: by an "error", or by the signal of that name."""
    make = start_work()

    def fail(given: int) -> ChunkResult:
        if given == number and how == "error":
            raise DataError(f"number {number} cannot be read; leave it out")
        if given == number:
            os.kill(os.getpid(), signal.Signals[how])
        return make(given)

    return fail


def start_half(number: int, how: str, told: Path) -> Callable[[int], bytes]:
    """Makes 2 MiB of each number; of one only the half is sent, `told` is written, and the worker "dies" or "waits"."""
    send_all = Connection._send_bytes

    def send_half(connection: Connection, data: memoryview) -> None:
        if given[-1] != number:
            send_all(connection, data)
            return
        os.write(connection.fileno(), struct.pack("!i", len(data)) + data[: len(data) // 2])
        told.touch()
        os.kill(os.getpid(), signal.SIGKILL) if how == "dies" else signal.pause()

    def make(number: int) -> bytes:
        given.append(number)
        return bytes(2 << 20)

    given: list[int] = []
    Connection._send_bytes = send_half
    return make


def output(folder: Path, **changes: Any) -> Output:
    """A corpus in shards of four."""
    as_what: dict[str, Any] = {
        "kind": "corpus", "per_shard": 4, "fingerprint": "f", "source": "numbers", "settings": {"passage_tokens": 16},
        "identity": {"files": ["numbers", 40]},
    }  # fmt: skip
    return Output(folder=folder, **(as_what | changes))


def run_and_leave_none(
    command: Sequence[str],
    *,
    meanwhile: Callable[[subprocess.Popen, str], object] = lambda process, tag: None,
    timeout_s: float = 120,
) -> tuple[int, str]:
    """Run a command; `meanwhile` may kill what is tagged so. Returns its code and stderr once all its processes are
    gone, which takes them no time. Whatever fails, none is left."""
    tag = uuid.uuid4().hex
    process = subprocess.Popen(
        [sys.executable, *command], env={**os.environ, TAG_VARIABLE: tag}, cwd=REPOSITORY, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        try:
            meanwhile(process, tag)
            _, told = process.communicate(timeout=timeout_s)
            deadline = time.monotonic() + 10
            while left := tagged(tag):
                assert time.monotonic() < deadline, f"processes outlive the main one: {left}"
                time.sleep(0.01)
        finally:
            kill_tagged(tag)  # before Popen waits for its process, without limit
    return process.returncode, told


def main(folder: str, workers: str, kill_at: str) -> None:
    """Do the job, or go on with it; die at that call of fsync, of which each file that is written has two."""
    left, fsync = int(kill_at), os.fsync

    def fsync_or_die(descriptor: int) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        fsync(descriptor)

    os.fsync = fsync_or_die
    run_job(chunks(), start_work, output=output(Path(folder)), workers=int(workers), resume=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
