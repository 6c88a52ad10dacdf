"""Pre-training shards (X) of passages: the job, and what it would take. Where passages come from is passages.py's,
examples are examples.py's, writing and resuming job.py's.

Examples are in the order of their passages: training shuffles while it reads. What is held out goes by article, so that
no article is in both parts, and is a job of its own.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from realm_ds.data.chance import happens
from realm_ds.data.records import passage_uid, record_bytes
from realm_ds.data.tokenizer import load_tokenizer
from realm_ds.prepare.documents import Tally
from realm_ds.prepare.estimate import Estimate, estimate_job
from realm_ds.prepare.examples import ExampleMaker, Unit
from realm_ds.prepare.finders import FinderChoice, open_finder
from realm_ds.prepare.job import ChunkResult, Finished, Output, run_job
from realm_ds.prepare.passages import PassageSource, ReadPassages


@dataclass(frozen=True, kw_only=True)
class Making:
    """What examples are made, and how; travels to worker processes."""

    tokenizer: Path
    finder: FinderChoice
    unit: Unit = "passage"
    held_out_share: float = 0.0
    """Of the articles."""
    is_held_out: bool = False
    """Make examples of the articles that are held out, not of all others."""

    def described(self) -> dict[str, Any]:
        """For the manifest."""
        part = {"held_out_share": self.held_out_share, "is_held_out": self.is_held_out}
        return {**self.finder.described(), "unit": self.unit, **part}

    def wants(self, article: str) -> bool:
        """Is it of this part?"""
        if not self.held_out_share:
            return not self.is_held_out
        return happens(self.held_out_share, "held out", article) == self.is_held_out


def prepare_pretrain(
    source: PassageSource,
    out: Path,
    making: Making,
    *,
    per_shard: int,
    workers: int,
    resume: bool,
    on_progress: Callable[[int], None] = lambda num_examples: None,
) -> Finished:
    """Write the examples of a source's passages; those that are held out, if `making` says so, or all others."""
    return run_job(
        source.chunks(),
        partial(start_work, making, source.reader(), source.is_corpus),
        output=Output(
            folder=out, kind="pretrain", per_shard=per_shard, source=source.name, identity=source.identity,
            fingerprint=load_tokenizer(making.tokenizer).fingerprint,
            settings={**source.settings, **making.described()},
        ),
        workers=workers,
        resume=resume,
        on_progress=on_progress,
        reading=source.tally,
    )  # fmt: skip


def start_work(
    making: Making, open_reader: Callable[[], ReadPassages], is_corpus: bool
) -> Callable[[Any], ChunkResult]:
    """Open what a worker needs. It makes examples of those passages of a chunk that are wanted."""
    read = open_reader()
    maker = ExampleMaker(load_tokenizer(making.tokenizer), open_finder(making.finder), unit=making.unit)

    def make(chunk: Any) -> ChunkResult:
        tally = Tally()
        examples = list(maker.make(read(chunk, making.wants, tally), tally, of_corpus=is_corpus))
        return ChunkResult(
            records=[record_bytes(example) for example in examples],
            keys=[passage_uid(example.id, "") for example in examples],
            tally=tally,
        )

    return make


def estimate_pretrain(
    source: PassageSource, making: Making, *, clock: Callable[[], float] = time.perf_counter
) -> Estimate:
    """By samples of the source."""
    make = start_work(making, source.reader(), source.is_corpus)
    return estimate_job(source.samples(), make, reading=source, clock=clock)
