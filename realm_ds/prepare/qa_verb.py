"""`realm-ds prepare qa` as people see it: what was read, progress, what came out. The work is qa.py's."""

import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from realm_ds.data.shards import open_manifest, read_passages
from realm_ds.observe.progress import Progress, clock_text
from realm_ds.prepare.coverage import AnswerSearch
from realm_ds.prepare.qa import QuestionSet, Split, check_is_free, cover, note_coverage, write_question_set

TRIED_PASSAGES = 2000
"""What an estimate searches."""


def write_questions_of(
    found: QuestionSet, out: Path, *, corpus: Path | None, link: int, workers: int, dry_run: bool
) -> None:
    """Write what was read, with the coverage of a corpus if there is one; or only say what that would take."""
    for line in _words(found):
        print(line)
    check_is_free(found, out)
    if dry_run:
        if corpus is not None:
            _tell_estimate(found, corpus, workers=workers)
        print(f"nothing was written to {out}")
        return
    covered: dict[Split, dict[str, Any]] = {}
    if corpus is not None:
        total = open_manifest(corpus, kind="corpus", fingerprint=None).count
        with Progress() as progress:
            bar = progress.stage("looking for answers", total=total)
            found, covered = cover(
                found, corpus, link=link, workers=workers, on_progress=lambda done: bar.update(done, now="passages")
            )
            bar.finish(f"{total:,} passages")
    prepared = write_question_set(found, out)
    note_coverage(out, covered)
    for name in found.splits:
        for other, number in prepared[name]["also_in"].items():
            if number:
                print(f"{name}: {number:,} questions are also in {other}")
    for name, coverage in covered.items():
        print(
            f"{name}: {coverage['questions_with_answer']:,} of {len(found.splits[name]):,} questions "
            f"({coverage['share']:.1%}) have an answer in some of {coverage['passages']:,} passages"
        )
    print(f"{out}/prepared.json says what is there")


def _words(found: QuestionSet) -> Iterator[str]:
    for name, questions in found.splits.items():
        num_regex = sum(question.is_regex for question in questions)
        yield f"{name}: {len(questions):,} questions" + (f", {num_regex:,} with regex answers" if num_regex else "")
    if any(question.is_regex for question in found.splits.get("train", ())):
        yield "    a reader cannot be trained on regex answers: they only score predictions"
    yield from (f"    {line}" for line in found.tally.lines())


def _tell_estimate(found: QuestionSet, corpus: Path, *, workers: int) -> None:
    manifest = open_manifest(corpus, kind="corpus", fingerprint=None)
    everything = [question for questions in found.splits.values() for question in questions]
    search = AnswerSearch(everything, most=1, has_enough=[0] * len(everything))
    num_tried = min(TRIED_PASSAGES, manifest.count)
    started_at = time.monotonic()
    search.search(itertools.islice(read_passages(corpus, manifest, 0, num_tried), num_tried))
    took_s = (time.monotonic() - started_at) * manifest.count / num_tried / workers
    print(f"looking for answers in {manifest.count:,} passages takes at most {clock_text(took_s)}")
