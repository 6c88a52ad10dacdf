"""What a job would take, by working on samples of its source for some seconds. How that is told is job_report.py's."""

import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from realm_ds.prepare.documents import Reading, Tally
from realm_ds.prepare.job import ChunkResult

Chunk = TypeVar("Chunk")
SAMPLE_S = 5.0
"""An estimate works for so long."""
TAR_BYTES = 768
"""What a record takes beside its JSON: its header and, on average, half a block."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a job would take, by samples of its source."""

    share: float | None
    """Of the source that the samples are; None where its size is not known."""
    num_records: int
    """Made of them, as all below."""
    num_bytes: int
    """Of the tar shards."""
    read_s: float
    """By the main process."""
    work_s: float
    """By one worker."""
    worker_bytes: int
    """What a worker holds in memory, roughly."""
    tally: Tally


def estimate_job(
    samples: Iterator[Chunk],
    make: Callable[[Chunk], ChunkResult],
    *,
    reading: Reading,
    clock: Callable[[], float] = time.perf_counter,
) -> Estimate:
    """Make records of samples of `reading` for some seconds, in this process, and write nothing."""
    tally, sizes, read_s, work_s = Tally(), list[int](), 0.0, 0.0
    while work_s < SAMPLE_S:
        started_at = clock()
        chunk = next(samples, None)
        read_at = clock()
        read_s += read_at - started_at
        if chunk is None:
            break
        made = make(chunk)
        work_s += clock() - read_at
        tally.absorb(made.tally)
        sizes += [len(record) + TAR_BYTES for record in made.records]
    tally.absorb(reading.tally)
    return Estimate(
        share=reading.share,
        num_records=len(sizes),
        num_bytes=sum(sizes),
        read_s=read_s,
        work_s=work_s,
        worker_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        tally=tally,
    )
