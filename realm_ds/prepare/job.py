"""Records made from chunks of work by several processes, and written as tar shards in order; resumable after a kill.

The main process reads chunks and writes shards, worker processes make records of chunks (workers.py). The bytes that
come out depend on the chunks and on what is made of them, not on how many workers there are nor on how often the job
was stopped: after each shard a journal says how far it is (journal.py).
"""

import itertools
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from realm_ds.data.shard_writer import ShardWriter
from realm_ds.data.shards import MANIFEST, Kind, Manifest, open_shards
from realm_ds.errors import DataError
from realm_ds.prepare.documents import Tally
from realm_ds.prepare.identity import digest_of, refuse_unknown
from realm_ds.prepare.journal import Journal, Position
from realm_ds.prepare.key_set import KeySet
from realm_ds.prepare.unfinished import GO_ON, Job, refuse_another_job
from realm_ds.prepare.workers import work_in_order

Chunk = TypeVar("Chunk")
DUPLICATES = "duplicates left out"
INPUT = "input_digest"
"""The member of a manifest's settings that tells by a digest what was read."""
COUNTS, FIRST = "counts", "first"
"""The members of a manifest's settings that hold the tally: what was made, what was left out, and where each was met
first."""


@dataclass(frozen=True, kw_only=True)
class ChunkResult:
    """What a worker made of one chunk."""

    records: Sequence[bytes]
    """Each as the JSON of a tar member, in order."""
    keys: Sequence[int]
    """One 63-bit number for each: a record whose key an earlier one had is left out and counted."""
    tally: Tally


@dataclass(frozen=True, kw_only=True)
class Output:
    """Where a job writes, and as what."""

    folder: Path
    kind: Kind
    per_shard: int
    """Records in a tar shard."""
    fingerprint: str
    """Of the tokenizer."""
    source: str
    """Where the text came from, for people: no path of this machine, it is written into the manifest."""
    settings: Mapping[str, Any]
    """What decides what is made of it; written into the manifest."""
    identity: Any
    """What else must be the same to go on, see identity.py; None where nobody can tell."""

    @property
    def job(self) -> Job:
        """As the manifest tells it."""
        told = {"kind": self.kind, "tokenizer": self.fingerprint, "source": self.source}
        return {**told, "settings": {**self.settings, "per_shard": self.per_shard}}


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What came out."""

    manifest: Manifest
    tally: Tally
    was_done: bool = False
    """By an earlier call: nothing was left to do."""


def run_job(
    chunks: Iterable[Chunk],
    start_work: Callable[[], Callable[[Chunk], ChunkResult]],
    *,
    output: Output,
    workers: int,
    resume: bool,
    on_progress: Callable[[int], None] = lambda num_records: None,
    reading: Tally | None = None,
) -> Finished:
    """Make records of every chunk and write them; `start_work` is called once in each of `workers` processes.

    Chunks, `start_work` and what it makes travel between processes: it is a function of a module, or a
    functools.partial of one. With workers=0 all is done in this process. Memory is bounded by a few chunks for each
    worker, one shard, and 12 to 24 bytes a record for the keys. `on_progress` is told the number of records so far.
    `reading` is where the reading of chunks counts; it joins the tally at the end.
    """
    check_is_free(output.folder, identity=output.identity, resume=resume)
    journal = Journal(output.folder)
    with journal.claim(resume=resume):
        if (output.folder / MANIFEST).exists():
            journal.remove()
            return _done_before(output)
        job = {**output.job, "identity": output.identity}
        position = journal.read(job)
        writer = ShardWriter(
            output.folder, per_shard=output.per_shard, entries=position.entries, remedy=GO_ON
        )  # fmt: skip
        position.entries = writer.entries
        on_progress(writer.num_records)
        left = iter(chunks)
        deque(itertools.islice(left, position.num_chunks), maxlen=0)
        with closing(work_in_order(left, start_work, workers=workers)) as results:
            _write(results, writer, journal, position, job, on_progress)
        position.tally.absorb(reading or Tally())
        if not writer.num_records:
            told = "; ".join(position.tally.lines()) or "nothing was read"
            raise DataError(f"{output.source}: no record came of it, so nothing was written ({told}); check the source")
        manifest = writer.finish(
            kind=output.kind, tokenizer_fingerprint=output.fingerprint, source=output.source,
            settings={**output.job["settings"], INPUT: digest_of(output.identity), **_told(position.tally)},
        )  # fmt: skip
        journal.remove()
    return Finished(manifest=manifest, tally=position.tally)


def check_is_free(folder: Path, *, identity: Any, resume: bool) -> None:
    """Raise ConfigError unless a job that reads this can write there: before an estimate, or hours of work."""
    journal = Journal(folder)
    journal.check(resume=resume)
    if (folder / MANIFEST).exists() or journal.read_entries():
        refuse_unknown(identity, where=folder)


def _write(
    results: Iterable[ChunkResult],
    writer: ShardWriter,
    journal: Journal,
    position: Position,
    job: Job,
    on_progress: Callable[[int], None],
) -> None:
    seen, keys = KeySet(), list[int]()
    for earlier in journal.read_keys(position):
        for key in earlier.tolist():
            seen.add(key)
    for made in results:
        left = slice(position.num_records, None)
        for record, key in zip(made.records[left], made.keys[left], strict=True):
            position.num_records += 1
            if not seen.add(key):
                position.tally.add(DUPLICATES)
                continue
            keys.append(key)
            if writer.add(record):
                journal.write(job, position, keys=keys)
                keys = []
        position.tally.absorb(made.tally)
        position.num_chunks, position.num_records = position.num_chunks + 1, 0
        on_progress(writer.num_records)


def _told(tally: Tally) -> dict[str, Any]:
    return {COUNTS: dict(sorted(tally.counts.items())), FIRST: dict(sorted(tally.first.items()))}


def _done_before(output: Output) -> Finished:
    manifest = open_shards(output.folder, kind=output.kind, fingerprint=None).manifest
    settings = dict(manifest.settings)
    tally = Tally(counts=Counter(settings.pop(COUNTS, {})), first=settings.pop(FIRST, {}))
    was = {"kind": manifest.kind, "tokenizer": manifest.tokenizer_fingerprint, "source": manifest.source}
    now = {**output.job, INPUT: digest_of(output.identity)}
    refuse_another_job(now, {**was, INPUT: settings.pop(INPUT, None), "settings": settings}, where=output.folder)
    return Finished(manifest=manifest, tally=tally, was_done=True)
