"""`realm-ds prepare tokenizer` as people see it. Sampling is vocabulary.py's, training data/tokenizer.py's."""

import hashlib
import itertools
import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path

from realm_ds.data.tokenizer import Tokenizer, check_vocab_size, load_tokenizer, train_wordpiece
from realm_ds.observe.progress import Bar, Progress, about, clock_text
from realm_ds.prepare.documents import Document
from realm_ds.prepare.estimate import SAMPLE_S
from realm_ds.prepare.job_report import share_text
from realm_ds.prepare.sources import Source
from realm_ds.prepare.vocabulary import (
    Training,
    check_is_free,
    make_tokenizer,
    sample_documents,
    take_tokenizer,
    texts_of,
)


def train_tokenizer(source: Source, out: Path, training: Training, *, workers: int, resume: bool) -> None:
    """Train a vocabulary on a sample of the source, and say what came of it."""
    check_vocab_size(training.vocab_size)
    identity = json.dumps(source.identity(), sort_keys=True).encode()
    job = {"source": source.name, "input_digest": hashlib.sha256(identity).hexdigest(), "settings": asdict(training)}
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
    tokenizer = train_wordpiece(
        texts_of(documents, workers=workers), vocab_size=training.vocab_size, folder=out,
        lowercase=not training.cased, max_alphabet=training.alphabet,
    )  # fmt: skip
    bar.finish(f"{tokenizer.vocab_size:,} wordpieces")
    return tokenizer


def tell_estimate(source: Source, training: Training) -> None:
    """Read for some seconds, and say what reading all of it would take."""
    check_vocab_size(training.vocab_size)
    started_at = time.monotonic()
    deadline = started_at + SAMPLE_S
    documents = list(itertools.takewhile(lambda _: time.monotonic() < deadline, source.documents()))
    took_s = time.monotonic() - started_at
    num_characters = sum(document.num_characters for document in documents)
    told = f"{about(len(documents), 'document')}, {about(num_characters, 'character')}"
    print(f"read for this: {share_text(source.share)} {source.name}: {told}")
    if share := source.share:
        print(f"about {about(num_characters / share, 'character')} in all, read in {clock_text(took_s / share)}")
    most = about(training.most_characters, "character")
    print(f"then a vocabulary of {training.vocab_size:,} wordpieces is trained, on {most} at most")
    for line in source.tally.lines():
        print(f"    {line}")


def take(source: Path, out: Path, *, resume: bool, dry_run: bool) -> None:
    """Take a tokenizer that is there."""
    tokenizer = load_tokenizer(source)
    if dry_run:
        check_is_free(out, resume=resume)
        _tell(tokenizer, source, was_done=False)
        return
    job = {"taken": tokenizer.fingerprint}
    taken, was_done = make_tokenizer(out, job, partial(take_tokenizer, source, out), resume=resume)
    _tell(taken, out, was_done=was_done)


def _watched(source: Source, bar: Bar) -> Iterator[Document]:
    for number, document in enumerate(source.documents(), start=1):
        if number % 256 == 0:
            bar.update(source.done, now=about(number, "document"))
        yield document


def _tell(tokenizer: Tokenizer, folder: Path, *, was_done: bool) -> None:
    was = ", done before" if was_done else ""
    print(f"{folder}: {tokenizer.vocab_size:,} wordpieces, fingerprint {tokenizer.fingerprint}{was}")
