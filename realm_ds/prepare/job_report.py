"""A job as people see it: its progress, what came of it, what it would take. The work is job.py's and estimate.py's."""

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from realm_ds.observe.progress import Bar, Progress, about, clock_text, count_text, number_of, size_text
from realm_ds.prepare.documents import Reading
from realm_ds.prepare.estimate import Estimate
from realm_ds.prepare.job import Finished


def tell_job(
    run: Callable[..., Finished], progress: Progress, *, title: str, reading: Reading, record: str, out: Path
) -> None:
    """Run a job, which takes `on_progress`, in sight, and say what came of it; `record` is what people call one."""
    bar = progress.stage(title, total=reading.total, unit=reading.measure)
    finished = run(on_progress=_teller(bar, reading, record))
    manifest = finished.manifest
    size = size_text(sum(entry.num_bytes for entry in manifest.shards))
    was = ", done before" if finished.was_done else ""
    records, shards = number_of(manifest.count, record), number_of(len(manifest.shards), "tar shard")
    bar.finish(f"{records} in {shards} ({size}) in {out}{was}")
    for line in finished.tally.lines():
        progress.say(f"    {line}")


def estimate_lines(estimate: Estimate, name: str, *, counts: Mapping[str, int], workers: int) -> Iterator[str]:
    """An estimate for people, a line each.

    `counts` says what was made of the samples, and of how many of what; its last is what the pace is measured in.
    """
    whole = "" if estimate.share is not None else " in what was read; how much there is of it is not known"
    share = estimate.share or 1.0
    # One process reads, and so many work meanwhile.
    took_s = max(estimate.read_s, estimate.work_s / workers) / share
    *_, paced = counts
    rate = counts[paced] / estimate.work_s if estimate.work_s else 0.0
    yield f"read for this: {share_text(estimate.share)} {name}"
    yield f"about {' of '.join(number_of(round(number / share), what) for what, number in counts.items())}{whole}"
    yield f"time   {clock_text(took_s)} with --workers {workers}: {number_of(round(rate), paced)}/s each"
    yield f"disk   {size_text(round(estimate.num_bytes / share))}"
    yield f"memory {size_text(estimate.worker_bytes)} a worker"
    yield "of what was read:"
    yield from (f"    {line}" for line in estimate.tally.lines())


def share_text(share: float | None) -> str:
    """Which part of a source that is, in front of its name."""
    return "all of" if share == 1.0 else "the beginning of" if share is None else f"{share:.2%} of"


def pace() -> Callable[[int], str]:
    """Tells of a count that grows how fast it does; where it began is no pace of this call: a stopped job had that."""
    started_at = time.monotonic()
    first: int | None = None

    def tell(count: int) -> str:
        nonlocal first
        first = count if first is None else first
        return f"{count_text((count - first) / max(time.monotonic() - started_at, 1.0))}/s"

    return tell


def _teller(bar: Bar, reading: Reading, record: str) -> Callable[[int], None]:
    rate = pace()

    def tell(num_records: int) -> None:
        bar.update(reading.done, now=f"{about(num_records, record)}, {rate(num_records)}")

    return tell
