"""Question files: one JSON object a line, {"question", "answers"} and, where known, id, gold_uids and field.

What the demo asks is factbook/questions.py's.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from realm_ds.data.chance import permutation
from realm_ds.data.records import Question
from realm_ds.errors import DataError
from realm_ds.files import write_durably


def load_questions(
    path: Path, *, needed_by: str = "qa.data needs train.jsonl, dev.jsonl and test.jsonl"
) -> list[Question]:
    """The questions of a file, in order, checked. A question without an id gets its line number.

    `needed_by` ends the error for a file that is not there: it says what to mend.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): {needed_by}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error}); save it as UTF-8") from error
    questions = [_question(line, where=f"{path}:{number}", number=number) for number, line in enumerate(lines, start=1)]
    if not questions:
        raise DataError(f"{path} holds no question; put one JSON object on each line")
    return questions


def write_questions(path: Path, questions: Iterable[Question]) -> int:
    """Write a file of questions, whole or not at all; returns how many."""
    lines = [json.dumps(asdict(question), ensure_ascii=False) + "\n" for question in questions]
    write_durably(path, "".join(lines))
    return len(lines)


def question_order(count: int, *, start: int, stop: int, seed: int) -> list[int]:
    """Questions start..stop-1 of an endless order in which every epoch is a permutation of all, by seed and epoch."""
    orders = {epoch: permutation(count, seed, epoch, "questions") for epoch in range(start // count, -(-stop // count))}
    return [int(orders[place // count][place % count]) for place in range(start, stop)]


def _question(line: str, *, where: str, number: int) -> Question:
    try:
        data = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where} is not JSON ({error}); put one JSON object on each line") from error
    wanted = '{"question": TEXT, "answers": [TEXT, ...]}'
    if not isinstance(data, dict) or not isinstance(data.get("question"), str) or not data["question"].strip():
        raise DataError(f"{where} has no question; a line must look like {wanted}")
    if not _is_list(data.get("answers"), str) or not any(answer.strip() for answer in data["answers"]):
        raise DataError(f"{where} has no answers; a line must look like {wanted}")
    if not _is_list(data.get("gold_uids", []), int):
        raise DataError(f"{where}: gold_uids is not a list of passage uids; leave it out where they are not known")
    return Question(
        id=str(data.get("id", number)),
        question=data["question"],
        answers=tuple(answer for answer in data["answers"] if answer.strip()),
        gold_uids=tuple(data.get("gold_uids", [])),
        field=str(data.get("field", "")),
    )


def _is_list(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(type(member) is kind for member in value)
