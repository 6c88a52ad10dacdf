"""Where `prepare pretrain` has its passages from: corpus shards, or documents of any source, which are cut first.

The main process hands out chunks; a worker makes passages of them.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from realm_ds.data.chance import permutation
from realm_ds.data.records import Passage, passage_from_json
from realm_ds.data.shards import open_manifest, read_shard, verify_shard
from realm_ds.data.tokenizer import load_tokenizer
from realm_ds.prepare.corpus import Cutting, chunks_of, open_cutter
from realm_ds.prepare.documents import Document, Tally
from realm_ds.prepare.sources import Source

PASSAGES_A_CHUNK = 256
"""Passages that are worked on together, and tell each other's names (rules.py)."""
SAMPLE_PASSAGES = 64
MB = 1_000_000

Wants = Callable[[str], bool]
"""Is an article wanted?"""
ReadPassages = Callable[[Any, Wants, Tally], Iterable[Passage]]
"""Those of a chunk whose articles are wanted; in a worker."""


class PassageSource(Protocol):
    """Passages in chunks. Stays in the main process; what `reader` gives travels to workers."""

    name: str
    """For people, without the paths of this machine."""
    settings: dict[str, Any]
    """What decides which passages these are."""
    identity: Any
    """What must be the same for a stopped job to go on. JSON."""
    is_corpus: bool
    """Whether its articles are those of a corpus to search."""
    measure: str
    """What its progress is counted in."""
    tally: Tally
    """Of what reading left out or mended."""

    def chunks(self) -> Iterator[Any]:
        """All of it."""

    def samples(self) -> Iterator[Any]:
        """Chunks to judge it by."""

    def reader(self) -> Callable[[], ReadPassages]:
        """What a worker calls once."""

    @property
    def total(self) -> int | None:
        """How much there is of it, if that is known."""

    @property
    def done(self) -> int:
        """How much was handed out."""

    @property
    def share(self) -> float | None:
        """Which share of the whole was handed out, if that is known."""


@dataclass(frozen=True, kw_only=True)
class Records:
    """Some passages of a tar shard: a chunk of work."""

    shard: str
    first: int
    """Number of the first one in the whole corpus."""
    data: Sequence[Any]
    """Their JSON values."""


class CorpusPassages:
    """The passages of corpus shards."""

    is_corpus = True
    measure = "passages"

    def __init__(self, folder: Path, *, tokenizer: Path) -> None:
        self._folder = folder
        self._manifest = open_manifest(folder, kind="corpus", fingerprint=load_tokenizer(tokenizer).fingerprint)
        self.name = self._manifest.source
        self.settings: dict[str, Any] = {}
        self.identity = self._manifest.digest
        self.tally = Tally()
        self.total = self._manifest.count
        self.done = 0

    @property
    def share(self) -> float:
        """Of the passages."""
        return self.done / self.total

    def chunks(self) -> Iterator[Records]:
        """All of them, each shard verified before it is read."""
        for shard, entry in enumerate(self._manifest.shards):
            verify_shard(self._folder, entry)
            yield from self._of_shard(shard, PASSAGES_A_CHUNK)

    def samples(self) -> Iterator[Records]:
        """The first ones of every shard, as there is little to read before them; shards in no order."""
        for shard in permutation(len(self._manifest.shards), "samples").tolist():
            yield from islice(self._of_shard(shard, SAMPLE_PASSAGES), 1)

    def reader(self) -> Callable[[], ReadPassages]:
        """It needs nothing but the chunk."""
        return _records_reader

    def _of_shard(self, shard: int, size: int) -> Iterator[Records]:
        entry = self._manifest.shards[shard]
        path = self._folder / entry.name
        first = sum(entry.count for entry in self._manifest.shards[:shard])
        values = (value for _, value in read_shard(path, count=entry.count))
        while data := list(islice(values, size)):
            self.done += len(data)
            yield Records(shard=str(path), first=first, data=data)
            first += len(data)


def _records_reader() -> ReadPassages:
    def read(records: Records, wants: Wants, tally: Tally) -> Iterator[Passage]:
        for number, data in enumerate(records.data, start=records.first):
            passage = passage_from_json(data, where=f"{records.shard}, record {number:09d}")
            if wants(passage.article or f"{passage.uid:016x}"):
                yield passage

    return read


class DocumentPassages:
    """The passages that documents of a source are cut into."""

    is_corpus = False
    measure = "MB read"

    def __init__(self, source: Source, cutting: Cutting) -> None:
        cutting.check()
        self._source = source
        self._cutting = cutting
        self.name = source.name
        self.settings = {name: value for name, value in asdict(cutting).items() if name != "tokenizer"}
        self.identity = source.identity()
        self.tally = source.tally
        self._is_at_end = False

    @property
    def total(self) -> int | None:
        """MB of its files, as they are stored."""
        return None if self._source.total_bytes is None else -(-self._source.total_bytes // MB)

    @property
    def done(self) -> int:
        """MB."""
        return self._source.bytes_read // MB

    @property
    def share(self) -> float | None:
        """Of the bytes."""
        if self._is_at_end:
            return 1.0
        return self._source.bytes_read / self._source.total_bytes if self._source.total_bytes else None

    def chunks(self) -> Iterator[Sequence[Document]]:
        """All of them."""
        yield from chunks_of(self._source.documents())
        self._is_at_end = True

    samples = chunks
    """Its first ones: a source is read forward."""

    def reader(self) -> Callable[[], ReadPassages]:
        """Cuts them."""
        return partial(_documents_reader, self._cutting)


def _documents_reader(cutting: Cutting) -> ReadPassages:
    cut = open_cutter(cutting)

    def read(documents: Sequence[Document], wants: Wants, tally: Tally) -> Iterator[Passage]:
        return cut([document for document in documents if wants(document.id)], tally)

    return read
