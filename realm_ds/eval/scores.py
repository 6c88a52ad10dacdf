"""Rows of answered questions to scores with intervals, and two runs compared. No torch: rows may come from a file.

What makes the rows is qa.py's business; whether an answer is right is answers.py's; the statistics are confidence.py's.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from realm_ds.errors import DataError
from realm_ds.eval.confidence import Comparison, compare, interval

Row = dict[str, Any]
QA_RECALL_AT = (1, 5, 10, 20, 50, 100)
"""The cut-offs of answered questions; all of their hits are searched and kept track of."""
SHARES = {
    "em": "is_exact",
    "f1": "f1",
    "em_no_retrieval": "is_exact_no_retrieval",
    "em_majority": "is_exact_majority",
    "reader_oracle": "is_answer_read",
    "answerable": "is_answerable",
}
"""Scores that are means over questions, and the members of a row that they are means of; some may be missing."""
RECALLS = {"recall": "found_place", "answer_recall": "answer_place"}
"""Scores by cut-off, and the members of a row that say where the first right passage stands."""
COMPARED_AT = (1, 5, 20, 100)


def summarise(rows: Sequence[Row]) -> dict[str, Any]:
    """Scores over all questions with their 95% intervals, and exact match and recall@5 of each field.

    reader_oracle: some passage that was read holds an answer, so that a perfect reader would be right.
    answer_coverage: some passage of all that were retrieved does.
    answerable: one wordpiece answers the question, and the model names no more (qa.answer_by=masked_word);
    em_answerable and f1_answerable are of these questions alone.
    mrr: the mean of 1 / rank of the first right passage, 0 where it was not retrieved.
    """
    if not rows:
        raise DataError("there is no answered question to score; check that the question file is not empty")
    values = _values(rows)
    recalls = {score: _within(rows, member, QA_RECALL_AT) for score, member in RECALLS.items() if member in rows[0]}
    fields = sorted({row["field"] for row in rows})
    by_field = {field: [row for row in rows if row["field"] == field] for field in fields}
    if answerable := [row for row in rows if row.get("is_answerable")]:
        of_these = _values(answerable)
        values |= {f"{score}_answerable": of_these[score] for score in ("em", "f1")}
    return {
        "questions": len(rows),
        **{score: float(found.mean()) for score, found in values.items()},
        **{score: {k: float(found.mean()) for k, found in by_k.items()} for score, by_k in recalls.items()},
        "intervals": {
            **{score: _edges(found) for score, found in values.items()},
            **{score: {k: _edges(found) for k, found in by_k.items()} for score, by_k in recalls.items()},
        },
        "fields": {field: _field_scores(part) for field, part in by_field.items()},
    }


def compare_rows(first: Sequence[Row], second: Sequence[Row]) -> dict[str, Comparison]:
    """Every score that both have, compared on the same questions, whatever their order.

    Raises DataError where they are not the same questions with the same answers.
    """
    matched = _matched(first, second)
    pairs = [(_values(first), _values(matched))]
    pairs += [
        (_named(score, _within(first, member, COMPARED_AT)), _named(score, _within(matched, member, COMPARED_AT)))
        for score, member in RECALLS.items()
        if member in first[0] and member in matched[0]
    ]
    return {
        score: compare(values, others[score])
        for ours, others in pairs
        for score, values in ours.items()
        if score in others
    }


def _values(rows: Sequence[Row]) -> dict[str, np.ndarray]:
    """Of each score that is a mean, the numbers that it is a mean of."""
    found = {
        score: np.array([row[member] for row in rows], dtype=np.float64)
        for score, member in SHARES.items()
        if member in rows[0]
    }
    if "found_place" in rows[0]:
        found["mrr"] = np.array([1 / (1 + row["found_place"]) if row["found_place"] >= 0 else 0.0 for row in rows])
    if "answer_place" in rows[0]:
        found["answer_coverage"] = np.array([row["answer_place"] >= 0 for row in rows], dtype=np.float64)
    return found


def _within(rows: Sequence[Row], member: str, cut_offs: Sequence[int]) -> dict[int, np.ndarray]:
    places = np.array([row[member] for row in rows])
    return {k: ((places >= 0) & (places < k)).astype(np.float64) for k in cut_offs}


def _named(score: str, by_k: Mapping[int, np.ndarray]) -> dict[str, np.ndarray]:
    return {f"{score}@{k}": values for k, values in by_k.items()}


def _edges(values: np.ndarray) -> list[float]:
    found = interval(values)
    return [found.low, found.high]


def _field_scores(rows: Sequence[Row]) -> dict[str, Any]:
    scores: dict[str, Any] = {"questions": len(rows)}
    if "is_exact" in rows[0]:
        scores["em"] = float(np.mean([row["is_exact"] for row in rows]))
    return {**scores, "recall_at_5": float(_within(rows, "found_place", (5,))[5].mean())}


def _matched(first: Sequence[Row], second: Sequence[Row]) -> list[Row]:
    """The second run's rows in the order of the first's."""
    by_id = {row["id"]: row for row in second}
    advice = "compare runs that answered the same question file"
    if len(by_id) != len(second) or len({row["id"] for row in first}) != len(first):
        raise DataError(f"some questions of a run have the same id, so that they cannot be told apart: {advice}")
    if len(first) != len(second):
        raise DataError(f"one run answered {len(first)} questions, the other {len(second)}: {advice}")
    for row in first:
        other = by_id.get(row["id"])
        if other is None:
            raise DataError(f"question {row['id']} ({row['question']!r}) was answered by one run alone: {advice}")
        if (row["question"], row["answers"]) != (other["question"], other["answers"]):
            raise DataError(
                f"question {row['id']} is {row['question']!r} with the answers {row['answers']} in one run, "
                f"{other['question']!r} with {other['answers']} in the other: {advice}"
            )
    return [by_id[row["id"]] for row in first]
