"""`realm-ds prepare pretrain` as people see it: progress, what came out, what to do next. The work is pretrain.py's."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from realm_ds.data.tokenizer import load_tokenizer
from realm_ds.errors import ConfigError
from realm_ds.observe.progress import Progress, clock_text, count_text
from realm_ds.prepare.examples import SPANS
from realm_ds.prepare.job import Finished
from realm_ds.prepare.passages import CorpusPassages, PassageSource
from realm_ds.prepare.pretrain import Estimate, Making, estimate_pretrain, prepare_pretrain


def write_pretrain(
    corpus: Path, out: Path, making: Making, *, held_out: Path | None, per_shard: int, workers: int, resume: bool
) -> None:
    """Write what is held out, then all other examples, and say what came of it."""
    if held_out == out:
        raise ConfigError(f"--held-out {held_out} is --out as well: name two folders")
    making = replace(making, finder=making.finder.at_hand())
    parts = [(out, making)] if held_out is None else [(held_out, replace(making, is_held_out=True)), (out, making)]
    with Progress() as progress:
        for folder, part in parts:
            _write_part(
                _open(corpus, part), folder, part, progress, per_shard=per_shard, workers=workers, resume=resume
            )
    named = {"corpus": corpus, "pretrain": out, "held_out": held_out, "tokenizer": making.tokenizer}
    print(f"next: realm-ds pretrain {' '.join(f'data.{name}={path}' for name, path in named.items() if path)}")


def _write_part(
    source: PassageSource,
    folder: Path,
    making: Making,
    progress: Progress,
    *,
    per_shard: int,
    workers: int,
    resume: bool,
) -> None:
    bar = progress.stage(f"prepare {folder.name}", total=source.total)
    started_at = time.monotonic()

    def tell(num_examples: int) -> None:
        rate = source.done / max(time.monotonic() - started_at, 1.0)
        bar.update(source.done, now=f"{count_text(rate)} passages/s, {count_text(num_examples)} examples")

    finished = prepare_pretrain(
        source, folder, making, per_shard=per_shard, workers=workers, resume=resume, on_progress=tell
    )
    bar.finish(_result(finished, folder))
    for line in finished.tally.lines():
        progress.say(f"    {line}")


def tell_estimate(corpus: Path, making: Making, *, workers: int) -> None:
    """Say what it would take, and write nothing."""
    making = replace(making, finder=making.finder.at_hand())
    for line in _words(estimate_pretrain(_open(corpus, making), making), workers=workers):
        print(line)


def _open(corpus: Path, making: Making) -> CorpusPassages:
    return CorpusPassages(corpus, fingerprint=load_tokenizer(making.tokenizer).fingerprint)


def _result(finished: Finished, folder: Path) -> str:
    manifest = finished.manifest
    size = sum(entry.num_bytes for entry in manifest.shards)
    was = ", done before" if finished.was_done else ""
    return f"{manifest.count:,} examples in {len(manifest.shards)} tar shards ({_bytes(size)}) in {folder}{was}"


def _words(estimate: Estimate, *, workers: int) -> Iterator[str]:
    num_spans = sum(number for what, number in estimate.tally.counts.items() if what.startswith(SPANS))
    took_s = estimate.num_passages / (estimate.passages_per_s * workers)
    yield f"{estimate.num_passages:,} passages, about {estimate.num_examples:,} examples"
    yield f"time   {clock_text(took_s)} with --workers {workers}: {estimate.passages_per_s:,.0f} passages/s each"
    yield f"disk   {_bytes(estimate.num_bytes)}"
    yield f"memory {_bytes(estimate.worker_bytes)} a worker"
    yield f"of the samples, with {num_spans:,} spans:"
    yield from (f"    {line}" for line in estimate.tally.lines())


def _bytes(number: float) -> str:
    """1.4 GB, 312 MB."""
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.1f} MB"
