"""Question sets of any format as ours: checked, split, counted, and how much of them a corpus answers.

    OUT/{train,dev,test}.jsonl   questions, one a line
    OUT/prepared.json            of each split: counts, sources, what was left out, and the coverage of the corpus

The formats are qa_formats.py's, finding answers in a corpus is coverage.py's.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from realm_ds.data.answers import answer_pattern, normalise
from realm_ds.data.question_files import load_questions, write_questions
from realm_ds.data.records import Question
from realm_ds.data.shards import Shards
from realm_ds.errors import ConfigError, DataError
from realm_ds.files import write_durably
from realm_ds.prepare.compressed import printable
from realm_ds.prepare.coverage import passages_with_answers
from realm_ds.prepare.documents import Tally
from realm_ds.prepare.qa_formats import WITH_COLUMNS, Asked, Columns, Format, detect, read_asked

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")
PREPARED = "prepared.json"
_SPACE = re.compile(r"[\s\x00-\x1f\x7f]+")


@dataclass(frozen=True, kw_only=True)
class QuestionSet:
    """Questions that were read, and what was left out of them."""

    splits: Mapping[Split, list[Question]]
    sources: tuple[Mapping[str, str], ...]
    """Name, format and sha256 of each file."""
    tally: Tally


def read_question_set(
    paths: Sequence[Path], *, form: Format | None, split: Split | None, columns: Columns | None = None
) -> QuestionSet:
    """The questions of all files, checked: of `split`, or, where that is None, of train and dev by split_by_hash."""
    tally = Tally()
    splits: dict[Split, list[Question]] = {name: [] for name in (("train", "dev") if split is None else (split,))}
    sources = []
    places: dict[str, str] = {}
    columns = columns or Columns()
    for path, found in zip(paths, _formats(paths, form, columns), strict=True):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        sources.append({"name": printable(path.name), "format": found, "sha256": digest})
        for asked in read_asked(path, form=found, columns=columns, tally=tally):
            question = checked(asked, tally=tally)
            if question is None:
                continue
            if _same(question.question) in places:
                tally.add("questions asked before, kept", where=f"{asked.where}, as {places[_same(question.question)]}")
            places.setdefault(_same(question.question), asked.where)
            splits[split or split_by_hash(question.question)].append(question)
    for name, questions in splits.items():
        if not questions:
            others = [f"the rule gave all {len(asked)} to {other}" for other, asked in splits.items() if asked]
            why = "; ".join([*others, *tally.lines()]) or "the files are empty"
            raise DataError(f"there is no question for {name} in {', '.join(map(str, paths))}: {why}")
    return QuestionSet(splits=splits, sources=tuple(sources), tally=tally)


def _formats(paths: Sequence[Path], form: Format | None, columns: Columns) -> list[Format]:
    """Of each file. Raises ConfigError where columns are named and none of them has any."""
    for path in paths:
        if not path.is_file():
            raise DataError(f"no file {path}: name the files of a question set")
    formats = [form or detect(path) for path in paths]
    if columns.unusual and WITH_COLUMNS.isdisjoint(formats):
        named = ", ".join(f"--{name}-field {column}" for name, column in columns.unusual.items())
        raise ConfigError(
            f"{named} would be ignored: {paths[0].name} is read as {formats[0]}, which has names of its own; leave "
            "that out, or say --format jsonl"
        )
    return formats


def checked(asked: Asked, *, tally: Tally) -> Question | None:
    """The question in our form; None, counted, if it has no text or no answer that can be used."""
    if not isinstance(asked.question, str) or not (text := _plain(asked.question)):
        tally.add("questions without a text, left out", where=asked.where)
        return None
    if not isinstance(asked.is_regex, bool):
        tally.add("questions whose is_regex is neither true nor false, left out", where=asked.where)
        return None
    answers = tuple(dict.fromkeys(_answers(asked, tally)))
    if not answers:
        tally.add("questions without an answer, left out", where=asked.where)
        return None
    gold = asked.gold_uids if isinstance(asked.gold_uids, list) else []
    if not all(type(uid) is int and 0 < uid < 2**63 for uid in gold):
        tally.add("gold_uids that are no passage uids, left out", where=asked.where)
        gold = []
    return Question(
        id=_plain(asked.id), question=text, answers=answers, gold_uids=tuple(gold), field=_plain(asked.field),
        is_regex=asked.is_regex,
    )  # fmt: skip


def split_by_hash(question: str) -> Split:
    """ORQA's rule: the 64-bit FarmHash fingerprint of the question, modulo 100,000, is divisible by ten: dev."""
    import farmhash

    return "dev" if farmhash.fingerprint64(question) % 100_000 % 10 == 0 else "train"


def write_question_set(found: QuestionSet, folder: Path) -> dict[str, Any]:
    """Write the splits; returns what prepared.json holds of all splits there, with what other splits have of these."""
    check_is_free(found, folder)
    prepared = read_prepared(folder)
    there = {
        name: {_same(question.question) for question in load_questions(folder / f"{name}.jsonl")}
        for name in SPLITS
        if (folder / f"{name}.jsonl").is_file()
    } | {name: {_same(question.question) for question in questions} for name, questions in found.splits.items()}
    for name, questions in found.splits.items():
        asked = {_same(question.question) for question in questions}
        prepared[name] = {
            "questions": len(questions),
            "answers": sum(len(question.answers) for question in questions),
            "regex_questions": sum(question.is_regex for question in questions),
            "linked_questions": sum(bool(question.gold_uids) for question in questions),
            "also_in": {other: len(asked & there[other]) for other in there if other != name},
            "sources": list(found.sources),
            "counted": {what: {"count": count, "first": found.tally.first.get(what, "")}
                        for what, count in sorted(found.tally.counts.items())},
        }  # fmt: skip
        write_questions(folder / f"{name}.jsonl", questions)
    _write_prepared(folder, prepared)
    return prepared


def check_is_free(found: QuestionSet, folder: Path) -> None:
    """Raise ConfigError where a split would be overwritten: a run may be reading it."""
    for name in found.splits:
        if (folder / f"{name}.jsonl").exists():
            raise ConfigError(
                f"{folder}/{name}.jsonl is there already, and a run may be reading it: name another folder, or remove "
                "it first"
            )


def cover(
    found: QuestionSet,
    corpus: Shards,
    *,
    link: int = 0,
    workers: int = 0,
    on_progress: Callable[[int], None] = lambda num_passages: None,
) -> tuple[QuestionSet, dict[Split, dict[str, Any]]]:
    """How many questions of each split have an answer in some passage of the corpus.

    With `link` up to so many passages that hold an answer become the gold ones of each question that has none. These
    are weak labels: an answer may stand there by chance, and others that hold it are not named.
    """
    everything = [question for questions in found.splits.values() for question in questions]
    uids = iter(passages_with_answers(everything, corpus, most=max(link, 1), workers=workers, on_progress=on_progress))
    splits: dict[Split, list[Question]] = {}
    covered: dict[Split, dict[str, Any]] = {}
    for name, questions in found.splits.items():
        here = [(question, next(uids)) for question in questions]
        covered[name] = _coverage([bool(found_uids) for _, found_uids in here], corpus)
        splits[name] = [
            replace(question, gold_uids=question.gold_uids or found_uids[:link]) for question, found_uids in here
        ]
    return replace(found, splits=splits), covered


def note_coverage(folder: Path, covered: Mapping[Split, Mapping[str, Any]]) -> None:
    """Write it to prepared.json, which is there."""
    prepared = read_prepared(folder)
    for name, coverage in covered.items():
        prepared[name]["coverage"] = coverage
    _write_prepared(folder, prepared)


def read_prepared(folder: Path) -> dict[str, Any]:
    """What prepared.json says of each split; nothing where there is none."""
    path = folder / PREPARED
    try:
        prepared = json.loads(path.read_bytes()) if path.exists() else {}
    except ValueError as error:
        raise DataError(f"{path} is no JSON ({error}); remove it") from error
    if not isinstance(prepared, dict) or set(prepared) - set(SPLITS):
        raise DataError(f"{path} is not of `prepare qa`; name another folder")
    return prepared


def _coverage(answered: Sequence[bool], corpus: Shards) -> dict[str, Any]:
    return {
        "questions_with_answer": sum(answered),
        "share": sum(answered) / len(answered),
        "passages": corpus.count,
        "corpus_sha256": corpus.digest,
        "corpus_source": corpus.manifest.source,
    }


def _answers(asked: Asked, tally: Tally) -> Iterator[str]:
    answers = asked.answers if isinstance(asked.answers, list | tuple) else []
    for answer in answers:
        if not isinstance(answer, str):
            tally.add("answers that are no texts, left out", where=asked.where)
        elif asked.is_regex:
            if answer.strip() and _is_regex(regex := _whole(answer), asked.where, tally):
                yield regex
        elif text := _plain(answer):
            if not normalise(text):
                tally.add('answers of which scoring sees nothing ("the", "?"), kept', where=asked.where)
            yield text


def _is_regex(answer: str, where: str, tally: Tally) -> bool:
    try:
        answer_pattern(answer)
    except DataError:
        tally.add("answers that should be regular expressions and are none, left out", where=where)
        return False
    return True


def _plain(text: str) -> str:
    """In one line, without control characters, single spaces."""
    return _SPACE.sub(" ", _whole(text)).strip()


def _whole(text: str) -> str:
    """Without half surrogate pairs, which JSON may hold and no file of UTF-8."""
    return text.encode(errors="replace").decode()


def _same(question: str) -> str:
    """Questions are the same where this is."""
    return question.casefold().rstrip(" ?")


def _write_prepared(folder: Path, prepared: Mapping[str, Any]) -> None:
    ordered = {name: prepared[name] for name in SPLITS if name in prepared}
    write_durably(folder / PREPARED, json.dumps(ordered, indent=1, ensure_ascii=False) + "\n")
