"""Question sets of any format as ours: read, checked, split and counted.

The formats are qa_formats.py's; writing what was read, and how much of it a corpus answers, is qa_job.py's.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from realm_ds.data.answers import answer_pattern, normalise
from realm_ds.data.records import Question
from realm_ds.errors import ConfigError, DataError
from realm_ds.prepare.compressed import printable
from realm_ds.prepare.documents import Tally
from realm_ds.prepare.qa_formats import WITH_COLUMNS, Asked, Columns, Format, detect, read_asked

Split = Literal["train", "dev", "test"]
_SPACE = re.compile(r"[\s\x00-\x1f\x7f]+")


@dataclass(frozen=True, kw_only=True)
class QuestionSet:
    """Questions that were read, and what was left out of them."""

    splits: Mapping[Split, list[Question]]
    sources: tuple[Mapping[str, str], ...]
    """Name, format and sha256 of each file."""
    settings: Mapping[str, Any]
    """What decides what is made of them, as JSON."""
    tally: Tally


def read_question_set(
    paths: Sequence[Path], *, form: Format | None, split: Split | None, columns: Columns | None = None
) -> QuestionSet:
    """The questions of all files, checked: of `split`, or, where that is None, of train and dev by split_by_hash."""
    tally = Tally()
    columns = columns or Columns()
    splits: dict[Split, list[Question]] = {name: [] for name in (("train", "dev") if split is None else (split,))}
    sources = []
    places: dict[str, str] = {}
    for path, found in zip(paths, _formats(paths, form, columns), strict=True):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        sources.append({"name": printable(path.name), "format": found, "sha256": digest})
        for asked in read_asked(path, form=found, columns=columns, tally=tally):
            question = checked(asked, tally=tally)
            if question is None:
                continue
            if same_question(question.question) in places:
                tally.add(
                    "questions asked before, kept",
                    where=f"{asked.where}, as {places[same_question(question.question)]}",
                )
            places.setdefault(same_question(question.question), asked.where)
            splits[split or split_by_hash(question.question)].append(question)
    for name, questions in splits.items():
        if not questions:
            others = [f"the rule gave all {len(asked)} to {other}" for other, asked in splits.items() if asked]
            why = "; ".join([*others, *tally.lines()]) or "the files are empty"
            raise DataError(f"there is no question for {name} in {', '.join(map(str, paths))}: {why}")
    settings = {"split": split or "farmhash", "columns": asdict(columns)}
    return QuestionSet(splits=splits, sources=tuple(sources), settings=settings, tally=tally)


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


def same_question(question: str) -> str:
    """Questions are the same where this is."""
    return question.casefold().rstrip(" ?")


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
