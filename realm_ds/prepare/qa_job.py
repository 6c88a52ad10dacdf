"""Question files of what was read, and how much of it a corpus answers; the search for that is resumable after a kill.

    OUT/{train,dev,test}.jsonl   questions, one a line
    OUT/prepared.json            of each split: counts, sources, what was left out, and the coverage of the corpus

Reading questions is qa.py's, finding answers coverage.py's, how far that came answers_journal.py's.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from realm_ds.data.question_files import load_questions, write_questions
from realm_ds.data.records import Question
from realm_ds.data.shards import Shards
from realm_ds.errors import ConfigError, DataError
from realm_ds.files import LEFT_OVER, write_durably
from realm_ds.prepare.answers_journal import AnswersJournal
from realm_ds.prepare.coverage import Found, passages_with_answers
from realm_ds.prepare.qa import QuestionSet, Split, same_question
from realm_ds.prepare.unfinished import GO_ON, Job, Unfinished, refuse_another_job

SPLITS: tuple[Split, ...] = get_args(Split)
PREPARED = "prepared.json"
FILES = frozenset({PREPARED, *(f"{name}.jsonl" for name in SPLITS)})
STALE = re.compile(rf"({'|'.join(map(re.escape, sorted(FILES)))}){LEFT_OVER}")
"""Names of files that a process was killed over."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """What came out."""

    splits: Mapping[Split, Mapping[str, Any]]
    """What prepared.json says of each split that was asked for."""
    was_done: bool = False
    """By an earlier call: nothing was left to do."""


def prepare_qa(
    found: QuestionSet,
    out: Path,
    *,
    corpus: Shards | None = None,
    link: int = 0,
    workers: int = 0,
    resume: bool = False,
    on_progress: Callable[[int], None] = lambda num_passages: None,
) -> Written:
    """Write the splits, and of a corpus how many of their questions have an answer in some passage.

    With `link` up to so many passages that hold an answer become the gold ones of each question that has none. These
    are weak labels: an answer may stand there by chance, and others that hold it are not named.
    """
    check_is_free(found, out, resume=resume)
    settings = {**found.settings, "link": link}
    digest = None if corpus is None else corpus.digest
    job = {"sources": list(found.sources), "settings": settings, "corpus": digest}
    unfinished = Unfinished(out, stale=STALE)
    journal = AnswersJournal(unfinished, job)
    with unfinished.claim(kept=FILES):
        if not unfinished.is_begun and _there(found, out):
            written = _done_before(found, out, job)
            unfinished.remove()
            return written
        prepared, elsewhere = read_prepared(out), _asked_elsewhere(found, out)  # before hours of work
        before = journal.read()
        covered: Mapping[Split, Mapping[str, Any]] = {}
        if corpus is not None:
            found, covered = _cover(
                found, corpus, link=link, workers=workers, before=before, keep=journal.keep, on_progress=on_progress
            )
        journal.begin()
        with unfinished.says_what_to_do(GO_ON):
            prepared = _write(found, out, prepared=prepared, elsewhere=elsewhere, settings=settings, covered=covered)
        unfinished.remove()
    return Written(splits={name: prepared[name] for name in found.splits})


def check_is_free(found: QuestionSet, out: Path, *, resume: bool) -> None:
    """Raise ConfigError where a split would be overwritten, which a run may be reading, or a stopped job lost."""
    if Unfinished(out, stale=STALE).is_begun:
        if not resume:
            raise ConfigError(
                f"{out} holds a job that was stopped: go on with --resume, name another folder, or remove its folder "
                "unfinished first"
            )
        return
    there = _there(found, out)
    if there and not (resume and len(there) == len(found.splits)):
        raise ConfigError(
            f"{out}/{there[0]}.jsonl is there already, and a run may be reading it: name another folder, or remove it "
            "first"
        )


def read_prepared(folder: Path) -> dict[str, Any]:
    """What prepared.json says of each split; nothing where there is none."""
    path = folder / PREPARED
    try:
        prepared = json.loads(path.read_bytes()) if path.exists() else {}
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no JSON ({error}); remove it") from error
    if not (isinstance(prepared, dict) and set(prepared) <= set(SPLITS) and all(map(_is_of_split, prepared.values()))):
        raise DataError(f"{path} is not of `prepare qa`; name another folder")
    return prepared


def most_passages(link: int) -> int:
    """How many passages are looked for of each question: one tells that it has an answer."""
    return max(link, 1)


def _is_of_split(told: Any) -> bool:
    return isinstance(told, dict) and isinstance(told.get("coverage", {}), dict)


def _there(found: QuestionSet, out: Path) -> list[Split]:
    """Splits of which there is a file."""
    return [name for name in found.splits if (out / f"{name}.jsonl").exists()]


def _done_before(found: QuestionSet, out: Path, job: Job) -> Written:
    prepared = read_prepared(out)
    for name in found.splits:
        told = prepared.get(name, {})
        corpus = told.get("coverage", {}).get("corpus_sha256")
        was = {"sources": told.get("sources"), "settings": told.get("settings"), "corpus": corpus}
        refuse_another_job(job, was, where=out / f"{name}.jsonl")
    return Written(splits={name: prepared[name] for name in found.splits}, was_done=True)


def _cover(
    found: QuestionSet,
    corpus: Shards,
    *,
    link: int,
    workers: int,
    before: Sequence[Found],
    keep: Callable[[int, Found], None],
    on_progress: Callable[[int], None],
) -> tuple[QuestionSet, dict[Split, dict[str, Any]]]:
    everything = [question for questions in found.splits.values() for question in questions]
    passages = passages_with_answers(
        everything, corpus, most=most_passages(link), workers=workers, before=before, keep=keep, on_progress=on_progress
    )
    uids = iter(passages)
    splits: dict[Split, list[Question]] = {}
    covered: dict[Split, dict[str, Any]] = {}
    for name, questions in found.splits.items():
        here = [(question, next(uids)) for question in questions]
        num_answered = sum(bool(found_uids) for _, found_uids in here)
        covered[name] = {
            "questions_with_answer": num_answered,
            "share": num_answered / len(here),
            "passages": corpus.count,
            "corpus_sha256": corpus.digest,
            "corpus_source": corpus.manifest.source,
        }
        splits[name] = [
            replace(question, gold_uids=question.gold_uids or found_uids[:link]) for question, found_uids in here
        ]
    return replace(found, splits=splits), covered


def _asked_elsewhere(found: QuestionSet, out: Path) -> dict[Split, set[str]]:
    """The questions of the other splits there, as same_question tells them apart."""
    paths = {name: out / f"{name}.jsonl" for name in SPLITS if name not in found.splits}
    return {name: _asked(load_questions(path)) for name, path in paths.items() if path.is_file()}


def _asked(questions: Iterable[Question]) -> set[str]:
    return {same_question(question.question) for question in questions}


def _write(
    found: QuestionSet,
    out: Path,
    *,
    prepared: Mapping[str, Any],
    elsewhere: Mapping[Split, set[str]],
    settings: Mapping[str, Any],
    covered: Mapping[Split, Mapping[str, Any]],
) -> dict[str, Any]:
    """Write the splits; returns what prepared.json holds of all splits there, with what other splits have of these."""
    there = {**elsewhere, **{name: _asked(questions) for name, questions in found.splits.items()}}
    told = dict(prepared)
    for name, questions in found.splits.items():
        told[name] = {
            "questions": len(questions),
            "answers": sum(len(question.answers) for question in questions),
            "regex_questions": sum(question.is_regex for question in questions),
            "linked_questions": sum(bool(question.gold_uids) for question in questions),
            "also_in": {other: len(there[name] & there[other]) for other in there if other != name},
            "sources": list(found.sources),
            "settings": settings,
            "counted": {what: {"count": count, "first": found.tally.first.get(what, "")}
                        for what, count in sorted(found.tally.counts.items())},
            **({"coverage": covered[name]} if covered else {}),
        }  # fmt: skip
        write_questions(out / f"{name}.jsonl", questions)
    ordered: dict[str, Any] = {name: told[name] for name in SPLITS if name in told}
    write_durably(out / PREPARED, json.dumps(ordered, indent=1, ensure_ascii=False) + "\n")
    return ordered
