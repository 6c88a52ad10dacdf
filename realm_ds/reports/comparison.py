"""What runs answered: the scores of one, or of two with their differences on the same questions.

Differences have intervals where both runs wrote a row for each question (eval/confidence.py); else it is said why.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from realm_ds.errors import RealmError
from realm_ds.reports.document import Block, Paragraph, Table
from realm_ds.reports.history import SPLITS, Row, RunHistory
from realm_ds.reports.scores import INTERVALS, compare_runs

Runs = Mapping[str, RunHistory]
SHOWN = {
    "em": "exact match", "f1": "F1", "em_no_retrieval": "exact match, random passages",
    "em_majority": "exact match, most common answer", "answerable": "one wordpiece answers",
    "em_answerable": "exact match, of these", "f1_answerable": "F1, of these",
    "reader_oracle": "an answer is read", "mrr": "MRR",
}  # fmt: skip


def compare_scores(runs: Runs) -> Iterator[Block]:
    """A table for each split that was answered."""
    for split in SPLITS:
        scored = {name: run.scores[split] for name, run in runs.items() if split in run.scores}
        if not scored:
            continue
        asked = " and ".join(dict.fromkeys(f"{scores['questions']:,}" for scores in scored.values()))
        yield Paragraph(text=f"{split}, {asked} questions:")
        if len(runs) == 1:
            (scores,) = scored.values()
            yield Table(head=("score", "value", "95% interval"), rows=tuple(_rows(scores)))
        else:
            yield from _both(runs, scored, split=split)


def differences(runs: Runs, *, split: str) -> dict[str, Any]:
    """The first run minus the second, by score: {"mean", "low", "high", "p_value"}. Raises RealmError where the runs do
    not both have rows for the same questions."""
    first, second = runs.values()
    found: dict[str, Any] = compare_runs(first.folder, second.folder, split=split)["differences"]
    return found


def _both(runs: Runs, scored: Mapping[str, Row], *, split: str) -> Iterator[Block]:
    columns = [{label: value for label, value, _ in _rows(scored.get(name, {}))} for name in runs]
    labels = list(dict.fromkeys(label for column in columns for label in column))
    try:
        found, why = (differences(runs, split=split), "") if len(scored) == len(runs) else ({}, "one run has no scores")
    except RealmError as error:
        found, why = {}, str(error)
    by_label = {_label(score): difference for score, difference in found.items()}
    rows = tuple((label, *(column.get(label, "") for column in columns), *_difference(by_label.get(label)))
                 for label in labels)  # fmt: skip
    first, second = runs
    yield Table(head=("score", *runs, f"{first} minus {second}, points", "95% interval", "p"), rows=rows)
    yield Paragraph(
        text=f"No differences with intervals: {why}."
        if why
        else "Intervals by a paired bootstrap over the questions, "
        "p by a paired permutation test: how often chance alone would differ as much."
    )


def _rows(scores: Row) -> Iterator[tuple[str, str, str]]:
    edges = scores.get(INTERVALS, {})
    for name in SHOWN:
        if name in scores:
            yield _label(name), _percent(scores[name]), _edges(edges.get(name))
    for k, value in scores.get("recall", {}).items():
        yield _label(f"recall@{k}"), _percent(value), _edges(edges.get("recall", {}).get(k))


def _label(score: str) -> str:
    return SHOWN.get(score, score)


def _difference(found: Mapping[str, float] | None) -> tuple[str, str, str]:
    if found is None:
        return "", "", ""
    low, high = (f"{100 * found[edge]:+.1f}" for edge in ("low", "high"))
    return f"{100 * found['mean']:+.1f}", f"{low} to {high}", f"{found['p_value']:.4f}"


def _edges(edges: Any) -> str:
    return f"{_percent(edges[0])} to {_percent(edges[1])}" if edges else ""


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"
