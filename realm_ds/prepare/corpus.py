"""Corpus shards (Z) of a source's documents: the job, and what it would take. Reading is sources.py's, cutting
packing.py's, writing and resuming job.py's."""

import functools
import itertools
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from realm_ds.data.records import Passage, record_bytes
from realm_ds.data.tokenizer import load_tokenizer
from realm_ds.errors import ConfigError
from realm_ds.prepare.documents import Document, Tally
from realm_ds.prepare.estimate import Estimate, estimate_job
from realm_ds.prepare.job import ChunkResult, Finished, Output, run_job
from realm_ds.prepare.packing import LEAST_TOKENS, make_passages
from realm_ds.prepare.sentences import split_sentences
from realm_ds.prepare.sources import Source
from realm_ds.prepare.wikitext import plain_text

CHUNK_CHARACTERS = 400_000
"""Documents are worked on together until they have so many: a quarter of a second of work, or one long document."""
PART_CHARACTERS = 1_000_000
"""A longer document is worked on in parts, so that a worker takes no more memory for it. No passage crosses parts."""
NO_PROSE_TITLES = (r"^(?:List|Index|Outline) of ", r"\(disambiguation\)")
"""Pages of Wikipedia that REALM's corpus leaves out."""
BERT_POSITIONS = 512
"""Of BERT, and of most encoders like it; a query and a passage share them."""
QUERY_TOKENS = 96
"""What data.query_tokens is unless set."""
_SENTENCE_CHARACTERS = 20_000
"""How far before the end of a part the end of a sentence is looked for."""
TITLE_LEFT_OUT = "documents left out by their title"
WORDPIECES = "wordpieces, with those of titles and duplicates"


@dataclass(frozen=True, kw_only=True)
class Cutting:
    """How documents are cut into passages; travels to worker processes."""

    tokenizer: Path
    passage_tokens: int = 288
    """At most in a passage, title and special tokens counted."""
    drop_titles: tuple[str, ...] = ()
    """Regular expressions: documents with such a title are left out."""
    keep_all_pages: bool = False
    """Else pages of Wikipedia with NO_PROSE_TITLES are left out as well."""

    def check(self, source: Source) -> None:
        """Raise ConfigError for what cannot work, or is of no effect on the documents of this source."""
        if self.passage_tokens < LEAST_TOKENS:
            raise ConfigError(
                f"--passage-tokens {self.passage_tokens}: a passage needs {LEAST_TOKENS} wordpieces at least"
            )
        for pattern in self.drop_titles:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ConfigError(f"--drop-title {pattern!r} is no regular expression: {error}") from error

        if self.keep_all_pages and "wikipedia" not in source.formats:
            raise ConfigError(
                f"--keep-all-pages would be ignored: {source.name} is no dump of Wikipedia, of which alone pages are "
                "left out without --drop-title; leave it out"
            )

    @property
    def remark(self) -> str | None:
        """What people should know before the work: it shows when a run is started."""
        fit = BERT_POSITIONS - QUERY_TOKENS
        if self.passage_tokens <= fit:
            return None
        return (
            f"--passage-tokens {self.passage_tokens} is more than the {fit} that fit into the {BERT_POSITIONS} "
            f"positions of BERT and most encoders like it, beside a query of {QUERY_TOKENS} (data.query_tokens, unless "
            "set): a run needs an encoder with more (model.encoder), or one of its own from scratch"
        )

    def wants(self, document: Document) -> bool:
        """By its title."""
        is_page = document.markup == "wikitext" and not self.keep_all_pages
        patterns = (*self.drop_titles, *(NO_PROSE_TITLES if is_page else ()))
        return not any(re.search(pattern, document.title) for pattern in patterns)


def prepare_corpus(
    source: Source,
    out: Path,
    cutting: Cutting,
    *,
    per_shard: int,
    workers: int,
    resume: bool,
    on_progress: Callable[[int], None] = lambda num_passages: None,
) -> Finished:
    """Write the passages of a source's documents."""
    cutting.check(source)
    settings = asdict(cutting)
    settings.pop("tokenizer")
    return run_job(
        chunks_of(source.documents()),
        functools.partial(start_work, cutting),
        output=Output(
            folder=out, kind="corpus", per_shard=per_shard, fingerprint=load_tokenizer(cutting.tokenizer).fingerprint,
            source=source.name, settings=settings, identity=source.identity(),
        ),
        workers=workers,
        resume=resume,
        on_progress=on_progress,
        reading=source.tally,
    )  # fmt: skip


def chunks_of(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Documents in chunks of work, long ones in parts: where they are cut depends on the documents alone."""
    chunk: list[Document] = []
    num_characters = 0
    for document in itertools.chain.from_iterable(map(parts_of, documents)):
        chunk.append(document)
        num_characters += document.num_characters
        if num_characters >= CHUNK_CHARACTERS:
            yield chunk
            chunk, num_characters = [], 0
    if chunk:
        yield chunk


def parts_of(document: Document) -> Iterator[Document]:
    """A plain document in parts of at most PART_CHARACTERS, all but the last at least half as long.

    They end with a line, else with a sentence, else before a space, else anywhere. Wikitext stays whole: what it says
    is known when its markup is taken off.
    """
    text, start, part = document.text, 0, 0
    while document.markup == "plain" and len(text) - start > PART_CHARACTERS:
        end = _part_end(text, low=start + PART_CHARACTERS // 2, high=start + PART_CHARACTERS)
        yield replace(document, text=text[start:end], part=part)
        start, part = end, part + 1
    yield replace(document, text=text[start:], part=part) if part else document


def _part_end(text: str, *, low: int, high: int) -> int:
    if (newline := text.rfind("\n", low, high)) >= 0:
        return newline + 1
    # Of the sentences before the end the last one is not whole. Where it is the only one, none begins here.
    start = max(0, high - _SENTENCE_CHARACTERS)
    *_, last = ("", *split_sentences(text[start:high]))
    if (last_start := text.rfind(last, start, high)) > max(low, start):
        return last_start
    return space if (space := text.rfind(" ", low, high)) >= 0 else high


def open_cutter(cutting: Cutting) -> Callable[[Iterable[Document], Tally], Iterator[Passage]]:
    """What cuts documents of any markup into passages; for a worker to open once."""
    tokenizer = load_tokenizer(cutting.tokenizer)

    def wanted(documents: Iterable[Document], tally: Tally) -> Iterator[Document]:
        for document in documents:
            if cutting.wants(document):
                yield from parts_of(replace(document, text=plain_text(document), markup="plain"))
            elif document.part == 0:
                tally.add(TITLE_LEFT_OUT, where=document.where)

    def cut(documents: Iterable[Document], tally: Tally) -> Iterator[Passage]:
        return make_passages(wanted(documents, tally), tokenizer, max_tokens=cutting.passage_tokens, tally=tally)

    return cut


def start_work(cutting: Cutting) -> Callable[[Sequence[Document]], ChunkResult]:
    """Open what a worker needs. It cuts the documents of a chunk into passages."""
    cut = open_cutter(cutting)

    def make(documents: Sequence[Document]) -> ChunkResult:
        records, keys, tally = list[bytes](), list[int](), Tally()
        for passage in cut(documents, tally):
            records.append(record_bytes(passage))
            keys.append(passage.uid)
            tally.add(WORDPIECES, number=len(passage.title_ids) + len(passage.body_ids))
        return ChunkResult(records=records, keys=keys, tally=tally)

    return make


def estimate_corpus(
    source: Source, cutting: Cutting, *, clock: Callable[[], float] = time.perf_counter
) -> Estimate:  # fmt: skip
    """By the first documents of the source."""
    cutting.check(source)
    return estimate_job(chunks_of(source.documents()), start_work(cutting), reading=source, clock=clock)
