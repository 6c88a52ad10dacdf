"""The scores of answered questions, as `qa train` wrote them: read back, told, and two runs compared.

Answering is train/qa.py's business, scoring eval/scores.py's.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from realm_ds.errors import CheckpointError
from realm_ds.eval.confidence import CONFIDENCE, RESAMPLES, Comparison
from realm_ds.eval.scores import Row, compare_rows
from realm_ds.train.manifest import saved_steps

INTERVALS = "intervals"


def read_scores(run_folder: Path, *, split: str) -> dict[str, Any]:
    """Exact match, F1, recall and the baselines of a split, with their intervals."""
    path = run_folder / "qa" / f"{split}.json"
    try:
        scores = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"no scores in {path}: {_written_by(run_folder)}") from None
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged ({error}): `realm-ds qa train --resume` writes it again") from None
    if not isinstance(scores, dict):
        raise CheckpointError(
            f"{path} holds no scores but a {type(scores).__name__}: was it written by something else?"
        )
    return scores


def read_rows(run_folder: Path, *, split: str) -> list[Row]:
    """What a run answered, question by question."""
    path = run_folder / "qa" / f"{split}.jsonl"
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").removesuffix("\n").split("\n")]
    except FileNotFoundError:
        raise CheckpointError(f"no answers in {path}: {_written_by(run_folder)}") from None
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged ({error}): `realm-ds qa train --resume` writes it again") from None
    if not all(isinstance(row, dict) and {"id", "question", "answers"} <= row.keys() for row in rows):
        raise CheckpointError(f"{path} holds something else than answered questions: was it written by something else?")
    return rows


def compare_runs(run_folder: Path, other: Path, *, split: str) -> dict[str, Any]:
    """Every score of one run minus that of another, on the same questions: difference, interval and p."""
    rows, others = (read_rows(folder, split=split) for folder in (run_folder, other))
    return {
        "questions": len(rows),
        "against": str(other),
        "differences": as_numbers(compare_rows(rows, others)),
    }


def as_numbers(compared: Mapping[str, Comparison]) -> dict[str, dict[str, float]]:
    """Comparisons as JSON has them."""
    return {score: {**asdict(found.difference), "p_value": found.p_value} for score, found in compared.items()}


def describe(scores: Mapping[str, Any]) -> str:
    """The scores for people: a line each, then a table of what groups of scores hold (recall by k, fields)."""
    edges = scores.get(INTERVALS, {})
    shown = {name: value for name, value in scores.items() if name != INTERVALS}
    plain = {name: value for name, value in shown.items() if not isinstance(value, Mapping)}
    groups = (line for name in shown for line in _group(name, shown[name], edges.get(name, {})))
    below = [f"\nin brackets: {CONFIDENCE:.0%} intervals, by {RESAMPLES:,} resamples of the questions"] if edges else []
    return "\n".join([*_rows(plain, edges), *groups, *below])


def describe_comparison(compared: Mapping[str, Any]) -> str:
    """The same for a comparison; differences are percentage points."""
    head = f"{compared['questions']} questions, differences from {compared['against']} in percentage points\n"
    return "\n".join([head, *_differences(compared["differences"])])


def describe_judged(judged: Mapping[str, Any]) -> str:
    """What judging.py found, with BM25 beside it or without."""
    if "differences" not in judged:
        return describe(judged)
    return "\n".join(
        [
            "passages of the retriever", describe(judged["retriever"]), "\npassages of BM25", describe(judged["bm25"]),
            "\nretriever minus BM25, in percentage points", *_differences(judged["differences"]),
        ]
    )  # fmt: skip


def _differences(differences: Mapping[str, Any]) -> list[str]:
    width = max(map(len, differences))
    lines = [
        f"{score:<{width}}  {100 * found['mean']:+6.1f}  [{100 * found['low']:+.1f}, {100 * found['high']:+.1f}]"
        f"  p = {found['p_value']:.4f}"
        for score, found in differences.items()
    ]
    tests = f"{CONFIDENCE:.0%} intervals by a paired bootstrap, p by a paired permutation test, {RESAMPLES:,} each"
    return [*lines, "", tests]


def _written_by(run_folder: Path) -> str:
    resume = " --resume" if saved_steps(run_folder) else ""
    return f"`realm-ds qa train --run {run_folder}{resume}` writes them at its end"


def _group(name: str, values: Any, edges: Mapping[str, Any]) -> Iterator[str]:
    if not isinstance(values, Mapping):
        return
    yield f"\n{name}"
    if all(isinstance(value, Mapping) for value in values.values()):
        values = {
            key: ", ".join(f"{what} {_text(number)}" for what, number in row.items()) for key, row in values.items()
        }
    yield from _rows(values, edges, indent="  ")


def _rows(values: Mapping[str, Any], edges: Mapping[str, Any], *, indent: str = "") -> Iterator[str]:
    width = max((len(str(name)) for name in values), default=0)
    for name, value in values.items():
        around = "  [{:.1%}, {:.1%}]".format(*edges[name]) if name in edges else ""
        yield f"{indent}{name:<{width}}  {_text(value)}{around}"


def _text(value: Any) -> str:
    """Counts as they are, shares as per cent."""
    return f"{value:.1%}" if isinstance(value, float) else str(value)
