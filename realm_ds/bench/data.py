"""`realm-ds bench data`: what preparing, reading and streaming text costs, beside a bare tokenizer, tarfile and a step.
The jobs that are timed are data_jobs.py's.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from realm_ds.bench.demo_run import NEVER, DemoRuns
from realm_ds.bench.measure import Bar, Measure, median, spread
from realm_ds.bench.processes import run_alone
from realm_ds.bench.run import Group
from realm_ds.observe import progress

AT_LEAST = Bar(limit=0.8)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is measured."""

    is_quick: bool
    entities: int | None
    """Of the Factbook, whose text it is; None for all."""
    vocabulary: int
    copies: int
    """Of the text, under other titles, for what takes too short else."""
    blocks: int
    steps: int
    """Of the run whose stream is timed."""


FULL = Sizes(is_quick=False, entities=None, vocabulary=16_000, copies=24, blocks=7, steps=300)
QUICK = Sizes(is_quick=True, entities=3, vocabulary=1_000, copies=1, blocks=1, steps=6)


def data_groups(*, is_quick: bool, text: Path | None = None) -> list[Group]:
    """What the verb can measure, over a file of JSON lines or the Factbook."""
    sizes = QUICK if is_quick else FULL
    return [
        Group(
            title="Preparing beside a bare tokenizer", names=("prepare_packing", "prepare_corpus"),
            run=functools.partial(preparing, sizes, text),
        ),
        Group(
            title="Reading beside tarfile", names=("read_passages", "read_examples"),
            run=functools.partial(reading, sizes, text),
        ),
        Group(title="The stream in a run", names=("stream_share",), run=functools.partial(streaming, sizes)),
    ]  # fmt: skip


def preparing(sizes: Sizes, text: Path | None, bar: progress.Bar) -> Sequence[Measure]:
    """Documents to records in one process of one thread; and the whole command with two workers."""
    found = [_alone("pack", sizes, text, threads=1, bar=bar), _alone("prepare", sizes, text, threads=2, bar=bar)]
    what = (
        "from cleaning to the JSON of records, 288 wordpieces a passage, one thread",
        "the whole of `prepare corpus` with 2 workers, from JSON lines to shards and manifest, starting included",
    )
    return [
        Measure(
            name=name, value=median(result["ours_mb_s"]), reference=median(result["bare_mb_s"]), unit="MB/s of text",
            bar=AT_LEAST, is_judged=not sizes.is_quick,
            note=f"{said}; reference: tokenizers.encode_batch of the same text with {threads} thread{'s'[:threads - 1]}"
            f"; {result['characters'] / 1e6:.1f} M characters; {spread(result['ours_mb_s'], result['bare_mb_s'])}",
        )
        for name, result, said, threads in zip(("prepare_packing", "prepare_corpus"), found, what, (1, 2), strict=True)
    ]  # fmt: skip


def reading(sizes: Sizes, text: Path | None, bar: progress.Bar) -> Sequence[Measure]:
    """Records parsed and checked, against the bytes of the members alone."""
    found = _alone("read", sizes, text, threads=1, bar=bar)
    return [
        Measure(
            name=f"read_{kind}", value=median(result["ours"]), reference=median(result["bare"]), unit=f"{kind}/s",
            bar=AT_LEAST, is_judged=not sizes.is_quick,
            note="parsed and checked, sha256 of the shard included; reference: Python's tarfile, which reads the bytes "
            f"of the members and does nothing with them; {result['count']:,} {kind} of {result['wordpieces']:.0f} "
            f"wordpieces; {spread(result['ours'], result['bare'])}",
        )
        for kind, result in found.items()
    ]  # fmt: skip


def streaming(sizes: Sizes, bar: progress.Bar) -> Sequence[Measure]:
    """The share of a training step in which a trainer waits for its examples to be read, masked and collated."""
    runs = DemoRuns(is_quick=sizes.is_quick)
    settings = {
        "pretrain.steps": sizes.steps, "refresh.every_steps": NEVER, "refresh.adopt_after_steps": max(2, sizes.steps),
        "refresh.probe_queries": 0, "pretrain.log_every_steps": 1,
    }  # fmt: skip
    rows = runs.run("observed", settings, bar=bar)["logged"]
    data_ms, step_ms = (math.fsum(row[name] for row in rows) for name in ("data_ms", "step_ms"))
    return [
        Measure(
            name="stream_share", value=100 * data_ms / step_ms, unit="% of a step",
            bar=Bar(limit=1, of="value", side="<="), is_judged=not sizes.is_quick,
            note=f"reading, masking and collating within {len(rows)} steps of {step_ms / len(rows):.0f} ms, opening "
            f"the first window included; the longest took {max(row['data_ms'] for row in rows):.1f} ms; demo recipe "
            "and text, one trainer and one index rank on a core each",
        )
    ]  # fmt: skip


def _alone(job: str, sizes: Sizes, text: Path | None, *, threads: int, bar: progress.Bar) -> dict:
    options = {
        "text": None if text is None else str(text.absolute()), "entities": sizes.entities, "blocks": sizes.blocks,
        "vocabulary": sizes.vocabulary, "copies": sizes.copies, "threads": threads,
    }  # fmt: skip
    return run_alone(f"data_{job}", options, threads=threads, bar=bar)
