"""Where `prepare pretrain` has its passages from: corpus shards, read here in chunks of JSON and parsed by workers."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from realm_ds.data.chance import permutation
from realm_ds.data.records import Passage, passage_from_json
from realm_ds.data.shards import open_manifest, read_shard, verify_shard
from realm_ds.prepare.documents import Tally

PASSAGES_A_CHUNK = 256
"""Passages that are worked on together, and tell each other's names (rules.py)."""
SAMPLES, SAMPLE_PASSAGES = 32, 64
"""Places of a corpus that an estimate looks at, and passages there."""
Wants = Callable[[str | int], bool]
"""Is an article wanted? A passage of none goes by its uid."""
ReadPassages = Callable[[Any, Wants, Tally], Iterable[Passage]]
"""Those of a chunk whose articles are wanted; in a worker."""


class PassageSource(Protocol):
    """Passages in chunks; all but `open_reader`, which travels to workers, stays in the main process."""

    name: str
    """For people, without the paths of this machine."""
    fingerprint: str
    """Of the tokenizer."""
    identity: Any
    """What must be the same for a stopped job to go on. JSON."""
    is_corpus: bool
    """Its articles are those of the corpus that is searched."""
    total: int | None
    """How much there is of it, and, below, how much was handed out."""
    done: int
    tally: Tally

    def chunks(self) -> Iterator[Any]:
        """All of it."""

    def samples(self) -> Iterator[tuple[Any, float]]:
        """Chunks from all over, and the share of the whole that each is."""

    def open_reader(self) -> Callable[[], ReadPassages]:
        """What a worker calls once."""


@dataclass(frozen=True, kw_only=True)
class Records:
    """Some passages of a tar shard: a chunk of work."""

    shard: str
    first: int
    """Number of the first one in the whole corpus."""
    data: Sequence[Any]
    """Their JSON values."""


class CorpusPassages:
    """The passages of corpus shards, in order."""

    def __init__(self, folder: Path, *, fingerprint: str) -> None:
        self._folder = folder
        self._manifest = open_manifest(folder, kind="corpus", fingerprint=fingerprint)
        self.name = self._manifest.source
        self.fingerprint = fingerprint
        self.identity = self._manifest.digest
        self.is_corpus = True
        self.total: int | None = self._manifest.count
        self.done = 0
        self.tally = Tally()

    def chunks(self) -> Iterator[Records]:
        """All of them, each shard verified before it is read."""
        for shard, entry in enumerate(self._manifest.shards):
            verify_shard(self._folder, entry)
            for records in self._of_shard(shard, PASSAGES_A_CHUNK):
                yield records
                self.done = records.first + len(records.data)

    def samples(self) -> Iterator[tuple[Records, float]]:
        """Some at the beginning of shards, so that little is read."""
        shards = permutation(len(self._manifest.shards), "samples").tolist()
        for shard in shards[:SAMPLES]:
            records = next(self._of_shard(shard, SAMPLE_PASSAGES))
            yield records, len(records.data) / self._manifest.count

    def open_reader(self) -> Callable[[], ReadPassages]:
        """Needs nothing but the chunk."""
        return _corpus_reader

    def _of_shard(self, shard: int, size: int) -> Iterator[Records]:
        entry = self._manifest.shards[shard]
        first = sum(entry.count for entry in self._manifest.shards[:shard])
        path = self._folder / entry.name
        values = (value for _, value in read_shard(path, count=entry.count))
        while data := list(islice(values, size)):
            yield Records(shard=str(path), first=first, data=data)
            first += len(data)


def _corpus_reader() -> ReadPassages:
    return _read_records


def _read_records(records: Records, wants: Wants, tally: Tally) -> Iterator[Passage]:
    for number, data in enumerate(records.data, start=records.first):
        passage = passage_from_json(data, where=f"{records.shard}, record {number:09d}")
        if wants(passage.article or passage.uid):
            yield passage
