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
from realm_ds.data.records import Passage, parse, passage_from_json
from realm_ds.data.shards import open_shards
from realm_ds.data.tokenizer import load_tokenizer
from realm_ds.prepare.corpus import Cutting, chunks_of, open_cutter
from realm_ds.prepare.documents import Document, Reading, Tally
from realm_ds.prepare.sources import Source

PASSAGES_A_CHUNK = 256
"""Passages that are worked on together, and tell each other's names (rules.py)."""
SAMPLE_PASSAGES = 64

Wants = Callable[[str], bool]
"""Is an article wanted?"""
ReadPassages = Callable[[Any, Wants, Tally], Iterable[Passage]]
"""Those of a chunk whose articles are wanted; in a worker."""


class PassageSource(Reading, Protocol):
    """Passages in chunks. Stays in the main process; what `reader` gives travels to workers."""

    settings: dict[str, Any]
    """What decides which passages these are."""
    identity: Any
    """What must be the same for a stopped job to go on, see identity.py."""
    passage_tokens: int | None
    """At most in a passage, if that is known."""
    is_corpus: bool
    """Whether its articles are those of a corpus to search."""

    def chunks(self) -> Iterator[Any]:
        """All of it."""

    def samples(self) -> Iterator[Any]:
        """Chunks to judge it by."""

    def reader(self) -> Callable[[], ReadPassages]:
        """What a worker calls once."""


@dataclass(frozen=True, kw_only=True)
class Records:
    """Some passages of a corpus, as JSON: a chunk of work."""

    where: str
    """The corpus, for people."""
    first: int
    """Number of the first one in the whole corpus."""
    data: Sequence[bytes]


class CorpusPassages:
    """The passages of corpus shards, wherever these are."""

    is_corpus = True
    measure = "passages"

    def __init__(self, place: Path | str, *, tokenizer: Path) -> None:
        self._shards = open_shards(place, kind="corpus", fingerprint=load_tokenizer(tokenizer).fingerprint)
        self.name = self._shards.manifest.source
        self.settings: dict[str, Any] = {}
        self.identity = self._shards.digest
        self.passage_tokens: int | None = self._shards.manifest.settings.get("passage_tokens")
        self.tally = Tally()
        self.total = self._shards.count
        self.done = 0

    @property
    def share(self) -> float:
        """Of the passages."""
        return self.done / self.total

    def chunks(self) -> Iterator[Records]:
        """All of them, each shard verified."""
        records = self._shards.records(0, self.total)
        while data := list(islice(records, PASSAGES_A_CHUNK)):
            yield self._taken(data, first=self.done)

    def samples(self) -> Iterator[Records]:
        """The first ones of every shard, as there is little to read before them; shards in no order."""
        entries = self._shards.manifest.shards
        for shard in permutation(len(entries), "samples").tolist():
            first = self._shards.firsts[shard]
            stop = first + min(SAMPLE_PASSAGES, entries[shard].count)
            yield self._taken(list(self._shards.records(first, stop, verify=False)), first=first)

    def reader(self) -> Callable[[], ReadPassages]:
        """It needs nothing but the chunk."""
        return _records_reader

    def _taken(self, data: Sequence[bytes], *, first: int) -> Records:
        self.done += len(data)
        return Records(where=str(self._shards), first=first, data=data)


def _records_reader() -> ReadPassages:
    def read(records: Records, wants: Wants, tally: Tally) -> Iterator[Passage]:
        for number, data in enumerate(records.data, start=records.first):
            where = f"{records.where}, record {number:09d}"
            passage = passage_from_json(parse(data, where=where), where=where)
            if wants(passage.article or f"{passage.uid:016x}"):
                yield passage

    return read


class DocumentPassages:
    """The passages that documents of a source are cut into."""

    is_corpus = False

    def __init__(self, source: Source, cutting: Cutting) -> None:
        cutting.check(source)
        self._source = source
        self._cutting = cutting
        self.name, self.measure, self.tally = source.name, source.measure, source.tally
        self.settings = {name: value for name, value in asdict(cutting).items() if name != "tokenizer"}
        self.identity = source.identity()
        self.passage_tokens: int | None = cutting.passage_tokens

    @property
    def total(self) -> int | None:
        return self._source.total

    @property
    def done(self) -> int:
        return self._source.done

    @property
    def share(self) -> float | None:
        return self._source.share

    def chunks(self) -> Iterator[Sequence[Document]]:
        """All of them."""
        return chunks_of(self._source.documents())

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
