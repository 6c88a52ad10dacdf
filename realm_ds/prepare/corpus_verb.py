"""`realm-ds prepare corpus` as people see it: progress, what came out, what to do next. The work is corpus.py's."""

import time
from collections.abc import Iterator
from pathlib import Path

from realm_ds.observe.progress import Progress, clock_text, count_text, size_text
from realm_ds.prepare.corpus import Cutting, Estimate, estimate_corpus, prepare_corpus
from realm_ds.prepare.job import Finished
from realm_ds.prepare.sources import Source


def write_corpus(
    source: Source, out: Path, cutting: Cutting, *, per_shard: int, workers: int, resume: bool
) -> None:  # fmt: skip
    """Write the shards, and say what came of it."""
    started_at = time.monotonic()
    with Progress() as progress:
        # In MB: rich's counters stand beside the bar, and bytes would be too many digits.
        total = source.total_bytes
        bar = progress.stage("prepare corpus (MB read)", total=None if total is None else -(-total // 1_000_000))
        num_before: int | None = None

        def tell(num_passages: int) -> None:
            nonlocal num_before
            num_before = num_passages if num_before is None else num_before
            rate = (num_passages - num_before) / max(time.monotonic() - started_at, 1.0)
            said = f"{count_text(num_passages)} passages, {count_text(rate)}/s"
            bar.update(source.bytes_read // 1_000_000, now=said)

        finished = prepare_corpus(
            source, out, cutting, per_shard=per_shard, workers=workers, resume=resume, on_progress=tell
        )
        bar.finish(_result(finished, out))
        for line in finished.tally.lines():
            progress.say(f"    {line}")
    print(f"next: realm-ds prepare pretrain --corpus {out} --tokenizer {cutting.tokenizer} --out {out.parent}/pretrain")


def tell_estimate(source: Source, cutting: Cutting, *, workers: int) -> None:
    """Say what it would take, and write nothing."""
    for line in words(estimate_corpus(source, cutting), source.name, workers=workers):
        print(line)


def _result(finished: Finished, out: Path) -> str:
    manifest = finished.manifest
    size = size_text(sum(entry.num_bytes for entry in manifest.shards))
    was = ", done before" if finished.was_done else ""
    return f"{manifest.count:,} passages in {len(manifest.shards)} tar shards ({size}) in {out}{was}"


def words(estimate: Estimate, name: str, *, workers: int) -> Iterator[str]:
    """An estimate for people, a line each."""
    share = estimate.share
    seen = "all of" if share == 1.0 else "the beginning of" if share is None else f"{share:.2%} of"
    whole = "" if share is not None else " in what was read; how much there is of it is not known"
    share = share or 1.0
    # One process reads, and so many work meanwhile.
    took_s = max(estimate.read_s, estimate.work_s / workers) / share
    rate = estimate.num_passages / estimate.work_s if estimate.work_s else 0.0
    yield f"read for this: {seen} {name}"
    yield f"about {estimate.num_passages / share:,.0f} passages{whole}"
    yield f"time   {clock_text(took_s)} with --workers {workers}: {rate:,.0f} passages/s each"
    yield f"disk   {size_text(round(estimate.num_bytes / share))}"
    yield f"memory {size_text(estimate.worker_bytes)} a worker"
    yield "of what was read:"
    yield from (f"    {line}" for line in estimate.tally.lines())
