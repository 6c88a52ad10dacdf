"""`realm-ds prepare qa` as people see it: what was read, progress, what came out. The work is qa.py's."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from realm_ds.data.shards import Shards, open_shards
from realm_ds.observe.progress import Progress, clock_text, number_of
from realm_ds.prepare.coverage import AnswerSearch
from realm_ds.prepare.qa import QuestionSet, Split, check_is_free, cover, note_coverage, write_question_set

TRIED_PASSAGES = 2000
"""What an estimate searches."""


def write_questions_of(
    found: QuestionSet, out: Path, *, corpus: str | None, link: int, workers: int, dry_run: bool
) -> None:
    """Write what was read, with the coverage of a corpus if there is one; or only say what that would take."""
    for line in _words(found):
        print(line)
    check_is_free(found, out)
    shards = None if corpus is None else open_shards(corpus, kind="corpus", fingerprint=None)
    if dry_run:
        if shards is not None:
            _tell_estimate(found, shards, workers=workers)
        print(f"nothing was written to {out}")
        return
    covered: dict[Split, dict[str, Any]] = {}
    if shards is not None:
        with Progress() as progress:
            bar = progress.stage("looking for answers", total=shards.count)
            found, covered = cover(
                found, shards, link=link, workers=workers, on_progress=lambda done: bar.update(done, now="passages")
            )
            bar.finish(number_of(shards.count, "passage"))
    prepared = write_question_set(found, out)
    note_coverage(out, covered)
    for name in found.splits:
        for other, number in prepared[name]["also_in"].items():
            if number:
                print(f"{name}: questions that are also in {other}: {number:,}")
    for name, coverage in covered.items():
        print(
            f"{name}: {coverage['questions_with_answer']:,} of {number_of(len(found.splits[name]), 'question')} "
            f"({coverage['share']:.1%}) have an answer in some of {number_of(coverage['passages'], 'passage')}"
        )
        if link:
            linked = number_of(prepared[name]["linked_questions"], "question")
            print(f"{name}: {linked} linked to passages that hold an answer, as weak labels")
    print(f"{out}/prepared.json says what is there")


def _words(found: QuestionSet) -> Iterator[str]:
    for name, questions in found.splits.items():
        num_regex = sum(question.is_regex for question in questions)
        yield f"{name}: {number_of(len(questions), 'question')}" + (
            f", {num_regex:,} with regex answers" if num_regex else ""
        )
    if any(question.is_regex for question in found.splits.get("train", ())):
        yield "    a reader cannot be trained on regex answers: they only score predictions"
    yield from (f"    {line}" for line in found.tally.lines())


def _tell_estimate(found: QuestionSet, corpus: Shards, *, workers: int) -> None:
    everything = [question for questions in found.splits.values() for question in questions]
    search = AnswerSearch(everything, most=1, has_enough=[0] * len(everything))
    num_tried = min(TRIED_PASSAGES, corpus.count)
    started_at = time.monotonic()
    search.search(corpus.passages(0, num_tried, verify=False))
    took_s = (time.monotonic() - started_at) * corpus.count / num_tried / workers
    print(f"looking for answers in {number_of(corpus.count, 'passage')} takes about {clock_text(took_s)}")
