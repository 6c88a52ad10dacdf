"""`realm-ds prepare tokenizer` as people see it. Sampling is vocabulary.py's, training data/tokenizer.py's."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from realm_ds.data.tokenizer import Tokenizer, check_vocab_size, load_tokenizer, train_wordpiece
from realm_ds.observe.progress import Bar, Progress, about, clock_text, size_text
from realm_ds.prepare.documents import Document
from realm_ds.prepare.estimate import SAMPLE_S
from realm_ds.prepare.identity import digest_of, refuse_unknown
from realm_ds.prepare.job_report import share_text
from realm_ds.prepare.sources import Source
from realm_ds.prepare.vocabulary import Training, check_is_free, is_made, make_tokenizer, sample_documents, texts_of

TRIED_CHARACTERS = 1 << 20
"""What an estimate trains on: some seconds."""
WORDPIECE_BYTES = 24
"""What each takes in the folder of a tokenizer, roughly."""


def train_tokenizer(source: Source, out: Path, training: Training, *, workers: int, resume: bool) -> None:
    """Train a vocabulary on a sample of the source, and say what came of it."""
    _check(source, out, training, resume=resume)
    digest = digest_of(source.identity())
    job = {"source": source.name, "input_digest": digest, "settings": asdict(training)}
    with Progress() as progress:
        train = partial(_train, source, out, training, workers=workers, progress=progress)
        tokenizer, was_done = make_tokenizer(out, job, train, resume=resume)
    _tell(tokenizer, out, was_done=was_done)
    if tokenizer.vocab_size < training.vocab_size and not was_done:
        print(
            f"    fewer than the {training.vocab_size:,} asked for: every word of this text is a wordpiece by now; "
            "give more text, or be content with these"
        )


def _train(source: Source, out: Path, training: Training, *, workers: int, progress: Progress) -> Tokenizer:
    bar = progress.stage("reading", total=source.total, unit=source.measure)
    documents = sample_documents(
        _watched(source, bar), most_characters=training.most_characters, tally=source.tally
    )  # fmt: skip
    num_characters = sum(document.num_characters for document in documents)
    bar.finish(f"{about(num_characters, 'character')} of {about(len(documents), 'document')} taken to train on")
    for line in source.tally.lines():
        progress.say(f"    {line}")
    bar = progress.stage("training")
    tokenizer = _train_on(texts_of(documents, workers=workers), out, training)
    bar.finish(f"{tokenizer.vocab_size:,} wordpieces")
    return tokenizer


def tell_estimate(source: Source, out: Path, training: Training, *, workers: int, resume: bool) -> None:
    """Read for some seconds, train on a little of that, and say what all of it would take; write nothing to `out`."""
    _check(source, out, training, resume=resume)
    tried = list[Document]()
    num_documents = num_characters = num_tried = 0
    started_at = time.monotonic()
    for document in source.documents():
        num_documents += 1
        num_characters += document.num_characters
        if num_tried < TRIED_CHARACTERS:
            tried.append(replace(document, text=document.text[:TRIED_CHARACTERS]))
            num_tried += tried[-1].num_characters
        if time.monotonic() - started_at >= SAMPLE_S:
            break
    read_s = time.monotonic() - started_at
    told = f"{about(num_documents, 'document')}, {about(num_characters, 'character')}"
    print(f"read for this: {share_text(source.share)} {source.name}: {told}")
    most, more = float(training.most_characters), " at most"
    if share := source.share:
        print(f"about {about(num_characters / share, 'character')} in all, read in {clock_text(read_s / share)}")
        most, more = min(most, num_characters / share), ""
    vocabulary = f"then a vocabulary of {training.vocab_size:,} wordpieces is trained"
    trial_s = _trial_s(tried, training, workers=workers)
    if trial_s is None:
        print(f"{vocabulary}; there were no words to tell by how long that takes")
    else:
        # Roughly: twice the text has less than twice the words, but memory and other processes slow it down.
        took = clock_text(trial_s * most / num_tried)
        print(f"{vocabulary} on {about(most, 'character')}{more}, in about {took} with --workers {workers}")
    print(f"disk   about {size_text(training.vocab_size * WORDPIECE_BYTES)}")
    for line in source.tally.lines():
        print(f"    {line}")


def _trial_s(documents: Sequence[Document], training: Training, *, workers: int) -> float | None:
    """How long training on these takes; None where there are no words in them."""
    started_at = time.monotonic()
    texts = list(texts_of(documents, workers=0))
    prose_at = time.monotonic()
    if not any(map(str.strip, texts)):
        return None
    with TemporaryDirectory() as folder:
        _train_on(texts, Path(folder), training)
    return (prose_at - started_at) / workers + time.monotonic() - prose_at


def _train_on(texts: Iterable[str], folder: Path, training: Training) -> Tokenizer:
    return train_wordpiece(
        texts, vocab_size=training.vocab_size, folder=folder, lowercase=not training.cased,
        max_alphabet=training.alphabet,
    )  # fmt: skip


def take(source: Path, out: Path, *, resume: bool, dry_run: bool) -> None:
    """Take a tokenizer that is there."""
    tokenizer = load_tokenizer(source)
    if dry_run:
        check_is_free(out, resume=resume)
        _tell(tokenizer, source, was_done=False)
        return

    def save() -> Tokenizer:
        tokenizer.save(out)
        return tokenizer

    taken, was_done = make_tokenizer(out, {"taken": tokenizer.fingerprint}, save, resume=resume)
    _tell(taken, out, was_done=was_done)


def _check(source: Source, out: Path, training: Training, *, resume: bool) -> None:
    """Raise ConfigError for what cannot be, before anything is read."""
    check_vocab_size(training.vocab_size)
    check_is_free(out, resume=resume)
    if is_made(out):
        refuse_unknown(source.identity(), where=out)


def _watched(source: Source, bar: Bar) -> Iterator[Document]:
    for number, document in enumerate(source.documents(), start=1):
        if number % 256 == 0:
            bar.update(source.done, now=about(number, "document"))
        yield document


def _tell(tokenizer: Tokenizer, folder: Path, *, was_done: bool) -> None:
    was = ", done before" if was_done else ""
    print(f"{folder}: {tokenizer.vocab_size:,} wordpieces, fingerprint {tokenizer.fingerprint}{was}")
