"""`realm-ds prepare qa` as people see it: what was read, progress, what came out. The work is qa_job.py's."""

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from realm_ds.data.shards import Shards, open_shards
from realm_ds.observe.progress import Progress, clock_text, number_of
from realm_ds.prepare.coverage import AnswerSearch
from realm_ds.prepare.job_report import pace
from realm_ds.prepare.qa import QuestionSet
from realm_ds.prepare.qa_job import Written, check_is_free, most_passages, prepare_qa

TRIED_PASSAGES = 2000
"""What an estimate searches."""


def write_questions_of(
    found: QuestionSet, out: Path, *, corpus: str | None, link: int, workers: int, resume: bool
) -> None:
    """Write what was read, with the coverage of a corpus if there is one, and say what came of it."""
    for line in _words(found):
        print(line)
    check_is_free(found, out, resume=resume)
    if corpus is None:
        written = prepare_qa(found, out, resume=resume)
    else:
        shards = open_shards(corpus, kind="corpus", fingerprint=None)
        run = partial(prepare_qa, found, out, corpus=shards, link=link, workers=workers, resume=resume)
        with Progress() as progress:
            bar, rate = progress.stage("looking for answers", total=shards.count), pace()
            written = run(on_progress=lambda done: bar.update(done, now=f"passages, {rate(done)}"))
            bar.finish(number_of(shards.count, "passage") + (", done before" if written.was_done else ""))
    for line in _came_of_it(written, link=link):
        print(line)
    print(f"{out}/prepared.json says what is there{', done before' if written.was_done else ''}")


def tell_estimate(found: QuestionSet, out: Path, *, corpus: str | None, link: int, workers: int, resume: bool) -> None:
    """Say what was read and what looking for answers would take, and write nothing."""
    for line in _words(found):
        print(line)
    check_is_free(found, out, resume=resume)
    if corpus is not None:
        shards = open_shards(corpus, kind="corpus", fingerprint=None)
        took_s = _estimated_s(found, shards, most=most_passages(link), workers=workers)
        print(f"looking for answers in {number_of(shards.count, 'passage')} takes about {clock_text(took_s)}")
    print(f"nothing was written to {out}")


def _words(found: QuestionSet) -> Iterator[str]:
    for name, questions in found.splits.items():
        num_regex = sum(question.is_regex for question in questions)
        yield f"{name}: {number_of(len(questions), 'question')}" + (
            f", {num_regex:,} with regex answers" if num_regex else ""
        )
    if any(question.is_regex for question in found.splits.get("train", ())):
        yield "    a reader cannot be trained on regex answers: they only score predictions"
    yield from (f"    {line}" for line in found.tally.lines())


def _came_of_it(written: Written, *, link: int) -> Iterator[str]:
    for name, told in written.splits.items():
        for other, number in told["also_in"].items():
            if number:
                yield f"{name}: questions that are also in {other}: {number:,}"
    for name, told in written.splits.items():
        if coverage := told.get("coverage"):
            yield (
                f"{name}: {coverage['questions_with_answer']:,} of {number_of(told['questions'], 'question')} "
                f"({coverage['share']:.1%}) have an answer in some of {number_of(coverage['passages'], 'passage')}"
            )
        if link:
            linked = number_of(told["linked_questions"], "question")
            yield f"{name}: {linked} linked to passages that hold an answer, as weak labels"


def _estimated_s(found: QuestionSet, corpus: Shards, *, most: int, workers: int) -> float:
    search = AnswerSearch([question for questions in found.splits.values() for question in questions], most=most)
    num_tried = min(TRIED_PASSAGES, corpus.count)
    started_at = time.monotonic()
    search.search(corpus.passages(0, num_tried, verify=False))
    return (time.monotonic() - started_at) * corpus.count / num_tried / workers
