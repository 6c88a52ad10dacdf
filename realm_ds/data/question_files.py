"""Question files: one JSON object a line, {"question", "answers"} and, where known, id, gold_uids, field and is_regex.

Other formats are made into this one by prepare/qa.py. What the demo asks is factbook/questions.py's.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from realm_ds.data.answers import answer_pattern
from realm_ds.data.chance import permutation
from realm_ds.data.records import Question
from realm_ds.errors import DataError
from realm_ds.files import write_durably


def load_questions(
    path: Path, *, needed_by: str = "qa.data needs train.jsonl, dev.jsonl and test.jsonl", are_answered: bool = True
) -> list[Question]:
    """The questions of a file, in order, checked. A question without an id gets its line number.

    `needed_by` ends the error for a file that is not there: it says what to mend. Questions that are only put to an
    index need no answers.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): {needed_by}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error}); save it as UTF-8") from error
    # Not splitlines: U+2028 and its like may stand within a question.
    lines = text.removesuffix("\n").split("\n") if text else []
    questions = [
        _question(line, where=f"{path}:{number}", number=number, is_answered=are_answered)
        for number, line in enumerate(lines, start=1)
    ]
    if not questions:
        raise DataError(f"{path} holds no question; put one JSON object on each line")
    return questions


def write_questions(path: Path, questions: Iterable[Question]) -> int:
    """Write a file of questions, whole or not at all; returns how many."""
    lines = [json.dumps(asdict(question), ensure_ascii=False) + "\n" for question in questions]
    write_durably(path, "".join(lines))
    return len(lines)


def refuse_regexes(questions: Sequence[Question], *, why: str) -> None:
    """Raise DataError where any question has answers that are regular expressions; `why` says who cannot use them."""
    if count := sum(question.is_regex for question in questions):
        raise DataError(f"{why}, but the answers of {count} of {len(questions)} questions are; leave these out")


def fault_of_text(text: str) -> str:
    """Why no tokenizer takes a text and no file of UTF-8 holds it; nothing where it is sound.

    JSON may hold half a surrogate pair; bytes of a command line that are no UTF-8 become one.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"{text[error.start]!a} is no character: half a surrogate pair, or a byte that is not UTF-8"
    return ""


def question_order(count: int, *, start: int, stop: int, seed: int) -> list[int]:
    """Questions start..stop-1 of an endless order in which every epoch is a permutation of all, by seed and epoch."""
    orders = {epoch: permutation(count, seed, epoch, "questions") for epoch in range(start // count, -(-stop // count))}
    return [int(orders[place // count][place % count]) for place in range(start, stop)]


def _question(line: str, *, where: str, number: int, is_answered: bool) -> Question:
    try:
        data = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not JSON ({error}); put one JSON object on each line") from error
    wanted = '{"question": TEXT, "answers": [TEXT, ...]}'
    if not isinstance(data, dict) or not isinstance(data.get("question"), str) or not data["question"].strip():
        raise DataError(f"{where} has no question; a line must look like {wanted}")
    given = data.get("answers", [])
    if not _is_list(given, str) or (is_answered and not any(answer.strip() for answer in given)):
        raise DataError(f"{where} has no answers; a line must look like {wanted}")
    for text in (data["question"], *given):
        if fault := fault_of_text(text):
            raise DataError(f"{where}: {fault}; mend the line, or leave it out")
    if not _is_list(data.get("gold_uids", []), int):
        raise DataError(f"{where}: gold_uids is not a list of passage uids; leave it out where they are not known")
    is_regex = data.get("is_regex", data.get("regex", False))  # as question files of others have it
    if not isinstance(is_regex, bool):
        raise DataError(f"{where}: is_regex is {is_regex!r}, not true or false")
    answers = tuple(answer for answer in given if answer.strip())
    if is_regex:
        _check_regexes(answers, where=where)
    return Question(
        id=str(data.get("id", number)),
        question=data["question"],
        answers=answers,
        gold_uids=tuple(data.get("gold_uids", [])),
        field=str(data.get("field", "")),
        is_regex=is_regex,
    )


def _check_regexes(answers: Iterable[str], *, where: str) -> None:
    try:
        for answer in answers:
            answer_pattern(answer)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error


def _is_list(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(type(member) is kind for member in value)
