"""`realm-ds prepare pretrain` as people see it: progress, what came out, what to do next. The work is pretrain.py's."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from realm_ds.errors import ConfigError
from realm_ds.observe.progress import Bar, Progress, clock_text, count_text, size_text
from realm_ds.prepare.job import Finished
from realm_ds.prepare.passages import PassageSource
from realm_ds.prepare.pretrain import Estimate, Making, estimate_pretrain, prepare_pretrain


def write_pretrain(
    open_source: Callable[[], PassageSource],
    out: Path,
    making: Making,
    *,
    corpus: Path | None,
    held_out: Path | None,
    per_shard: int,
    workers: int,
    resume: bool,
) -> None:
    """Write what is held out, if anything is, then all other examples, and say what came of it."""
    if held_out == out:
        raise ConfigError(f"--held-out {held_out} is --out as well: name two folders")
    making = replace(making, finder=making.finder.at_hand())
    parts = [(out, making)] if held_out is None else [(held_out, replace(making, is_held_out=True)), (out, making)]
    with Progress() as progress:
        for folder, part in parts:
            source = open_source()
            bar = progress.stage(f"prepare {folder.name} ({source.measure})", total=source.total)
            tell = _teller(bar, source)
            finished = prepare_pretrain(
                source, folder, part, per_shard=per_shard, workers=workers, resume=resume, on_progress=tell
            )
            bar.finish(_result(finished, folder))
            for line in finished.tally.lines():
                progress.say(f"    {line}")
    named = {"corpus": corpus or "...", "pretrain": out, "held_out": held_out, "tokenizer": making.tokenizer}
    folders = " ".join(f"data.{name}={path}" for name, path in named.items() if path is not None)
    print(f"next: realm-ds ict {folders}, then realm-ds pretrain")


def tell_estimate(source: PassageSource, making: Making, *, workers: int) -> None:
    """Say what it would take, and write nothing."""
    making = replace(making, finder=making.finder.at_hand())
    for line in _words(estimate_pretrain(source, making), source.name, workers=workers):
        print(line)


def _teller(bar: Bar, source: PassageSource) -> Callable[[int], None]:
    started_at = time.monotonic()
    num_before: int | None = None

    def tell(num_examples: int) -> None:
        nonlocal num_before
        num_before = num_examples if num_before is None else num_before
        rate = (num_examples - num_before) / max(time.monotonic() - started_at, 1.0)
        bar.update(source.done, now=f"{count_text(num_examples)} examples, {count_text(rate)}/s")

    return tell


def _result(finished: Finished, folder: Path) -> str:
    manifest = finished.manifest
    size = size_text(sum(entry.num_bytes for entry in manifest.shards))
    was = ", done before" if finished.was_done else ""
    return f"{manifest.count:,} examples in {len(manifest.shards)} tar shards ({size}) in {folder}{was}"


def _words(estimate: Estimate, name: str, *, workers: int) -> Iterator[str]:
    share = estimate.share
    seen = "the beginning of" if share is None else f"{share:.2%} of"
    whole = "" if share is not None else " in what was read; how much there is of it is not known"
    share = share or 1.0
    # One process reads, and so many work meanwhile.
    took_s = max(estimate.read_s, estimate.work_s / workers) / share
    rate = estimate.num_passages / estimate.work_s if estimate.work_s else 0.0
    yield f"read for this: {seen} {name}"
    yield f"about {estimate.num_examples / share:,.0f} examples of {estimate.num_passages / share:,.0f} passages{whole}"
    yield f"time   {clock_text(took_s)} with --workers {workers}: {rate:,.0f} passages/s each"
    yield f"disk   {size_text(round(estimate.num_bytes / share))}"
    yield f"memory {size_text(estimate.worker_bytes)} a worker"
    yield "of what was read:"
    yield from (f"    {line}" for line in estimate.tally.lines())
