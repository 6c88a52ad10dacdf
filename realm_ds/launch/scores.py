"""The scores of a fine-tuned run, as `qa train` wrote them. Answering the questions is train/qa.py's business."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from realm_ds.errors import CheckpointError


def read_scores(run_folder: Path, *, split: str) -> dict[str, Any]:
    """Exact match, F1, recall and the baselines of a split."""
    path = run_folder / "qa" / f"{split}.json"
    try:
        scores = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"no scores in {path}: `realm-ds qa train --run {run_folder}` writes them at its end"
        ) from None
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged ({error}): `realm-ds qa train --resume` writes it again") from None
    if not isinstance(scores, dict):
        raise CheckpointError(
            f"{path} holds no scores but a {type(scores).__name__}: was it written by something else?"
        )
    return scores


def describe(scores: Mapping[str, Any]) -> str:
    """The scores for people: a line each, then a table of what groups of scores hold (recall by k, fields)."""
    plain = {name: value for name, value in scores.items() if not isinstance(value, Mapping)}
    return "\n".join([*_rows(plain), *(line for name in scores for line in _group(name, scores[name]))])


def _group(name: str, values: Any) -> Iterator[str]:
    if not isinstance(values, Mapping):
        return
    yield f"\n{name}"
    if all(isinstance(value, Mapping) for value in values.values()):
        values = {
            key: ", ".join(f"{what} {_text(number)}" for what, number in row.items()) for key, row in values.items()
        }
    yield from _rows(values, indent="  ")


def _rows(values: Mapping[str, Any], *, indent: str = "") -> Iterator[str]:
    width = max(map(len, values), default=0)
    for name, value in values.items():
        yield f"{indent}{name:<{width}}  {_text(value)}"


def _text(value: Any) -> str:
    """Counts as they are, shares as per cent."""
    return f"{value:.1%}" if isinstance(value, float) else str(value)
