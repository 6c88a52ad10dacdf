"""A vocabulary from a source of any size, by a sample of its documents, the same for the same source.

    OUT/made_from.json   beside the tokenizer: what it was made from; written last

Training itself, and the folder of a tokenizer, are data/tokenizer.py's.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from realm_ds.data.chance import fraction
from realm_ds.data.tokenizer import Tokenizer, load_tokenizer
from realm_ds.errors import ConfigError, DataError
from realm_ds.files import LEFT_OVER, write_durably
from realm_ds.prepare.documents import Document, Tally
from realm_ds.prepare.unfinished import MEND, UNFINISHED, Job, Unfinished, refuse_another_job
from realm_ds.prepare.wikitext import plain_text
from realm_ds.prepare.workers import work_in_order

LONGEST_CHARACTERS = 1 << 20
"""Of a document; what follows is not sampled."""
CUT_SHORT = f"documents of which the first {LONGEST_CHARACTERS:,} characters were taken"
_AT_ONCE = 64
"""Documents that a worker is given."""
MADE_FROM = "made_from.json"
STALE = re.compile(rf"(vocab\.txt|tokenizer(_config)?\.json|{re.escape(MADE_FROM)}){LEFT_OVER}")
"""Names of files that a process was killed over."""
NOT_SAMPLED = "documents not sampled (there was text enough)"


@dataclass(frozen=True, kw_only=True)
class Training:
    """What a vocabulary is trained for."""

    vocab_size: int
    cased: bool
    alphabet: int
    """Characters kept at most."""
    most_characters: int
    """Of text to train on, all of it in memory."""


def sample_documents(documents: Iterable[Document], *, most_characters: int, tally: Tally) -> list[Document]:
    """Documents with at most so many characters together, half as many at least where there are more; in order.

    Which ones is drawn by their places, evenly over the whole source, whose size need not be known: whenever there are
    too many, a document stays if the number drawn for its place is below a limit that is halved.
    """
    kept: list[tuple[float, Document]] = []
    num_characters, limit = 0, 1.0
    for place, document in enumerate(documents):
        drawn = fraction(place, "vocabulary")
        if drawn >= limit:
            tally.add(NOT_SAMPLED)
            continue
        kept.append((drawn, _cut_short(document, tally)))
        num_characters += kept[-1][1].num_characters
        while num_characters > most_characters:
            limit /= 2
            num_before = len(kept)
            kept = [(drawn, document) for drawn, document in kept if drawn < limit]
            tally.add(NOT_SAMPLED, number=num_before - len(kept))
            num_characters = sum(document.num_characters for _, document in kept)
    return [document for _, document in kept]


def texts_of(documents: Sequence[Document], *, workers: int) -> Iterator[str]:
    """Titles and prose; by worker processes where that has to be found in wikitext."""
    batches = (documents[start : start + _AT_ONCE] for start in range(0, len(documents), _AT_ONCE))
    needed = workers if any(document.markup == "wikitext" for document in documents) else 0
    with closing(work_in_order(batches, _start, workers=needed)) as cleaned:
        for texts in cleaned:
            yield from texts


def make_tokenizer(folder: Path, job: Job, make: Callable[[], Tokenizer], *, resume: bool) -> tuple[Tokenizer, bool]:
    """What `make` writes to the folder, and whether that was done by an earlier call, which with `resume` is left as it
    is. One that was cut off is made anew, whatever was to come of it."""
    check_is_free(folder, resume=resume)
    unfinished = Unfinished(folder, stale=STALE)
    if is_made(folder):
        refuse_another_job(job, _made_from(folder), where=folder)
        unfinished.remove()
        return load_tokenizer(folder), True
    with unfinished.claim():
        tokenizer = make()
        with unfinished.says_what_to_do(MEND):
            write_durably(folder / MADE_FROM, json.dumps(job, indent=1, ensure_ascii=False) + "\n")
        unfinished.remove()
    return tokenizer, False


def check_is_free(folder: Path, *, resume: bool) -> None:
    """Raise ConfigError where a tokenizer would be overwritten: data made with it could not be used any more."""
    if Unfinished(folder, stale=STALE).is_begun:  # tokenizers have no journal
        raise ConfigError(f"{folder} holds another job, which was stopped: name another folder")
    if _is_cut_off(folder):
        if not resume and _has_tokenizer(folder):
            raise ConfigError(f"{folder}: its tokenizer was not written to its end: go on with --resume")
    elif _has_tokenizer(folder) and not (resume and (folder / MADE_FROM).exists()):
        raise ConfigError(
            f"{folder} holds a tokenizer already, and data made with it would be lost: name another folder, or remove "
            "it first"
        )


def is_made(folder: Path) -> bool:
    """Whether a tokenizer is there, whole."""
    return _has_tokenizer(folder) and not _is_cut_off(folder)


def _has_tokenizer(folder: Path) -> bool:
    return (folder / "tokenizer.json").exists() or (folder / "vocab.txt").exists()


def _is_cut_off(folder: Path) -> bool:
    """A job began where no tokenizer was, and did not come to its end."""
    return (folder / UNFINISHED).is_dir() and not (folder / MADE_FROM).exists()


def _made_from(folder: Path) -> Job:
    path = folder / MADE_FROM
    try:
        job = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read ({error}); remove it") from error
    if not isinstance(job, dict):
        raise DataError(f"{path}: does not say what the tokenizer was made from; remove it")
    return job


def _cut_short(document: Document, tally: Tally) -> Document:
    if document.num_characters <= LONGEST_CHARACTERS:
        return document
    tally.add(CUT_SHORT, where=document.where)
    return replace(document, text=document.text[:LONGEST_CHARACTERS])


def _start() -> Callable[[Sequence[Document]], list[str]]:
    return _texts


def _texts(documents: Sequence[Document]) -> list[str]:
    return [text for document in documents for text in (document.title, plain_text(document))]
