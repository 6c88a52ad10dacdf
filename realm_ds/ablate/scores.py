"""What a study found: scores of its cells over seeds, with intervals, as a table. Pure but for reading what runs wrote.

Shapes: S seeds.
"""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from realm_ds.ablate.parts import qa_name
from realm_ds.ablate.variants import REALM, VARIANTS, Cell, Variant
from realm_ds.errors import DataError

logger = logging.getLogger(__name__)

SPLIT = "dev"
"""As in the paper's Table 2: the test split is not looked at."""
STUDENT_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""Student's t for a two-sided 95% interval, by degrees of freedom from 1; the last serves for more, a little wide."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """What one cell scored, as shares."""

    em: float
    """Exact match, after fine-tuning."""
    recall: float
    """At 5, before it."""


@dataclass(frozen=True, kw_only=True)
class Mean:
    """A mean over seeds, and how far it can be trusted."""

    mean: float
    margin: float | None
    """Half of the 95% interval; None of a single seed, which tells nothing of it."""
    seeds: int


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the table; differences are paired, over the seeds that REALM has too."""

    variant: Variant
    em: Mean
    recall: Mean
    em_to_realm: Mean | None = None
    recall_to_realm: Mean | None = None


def read_score(out: Path, cell: Cell) -> Score | None:
    """What `qa train` wrote of a cell; None where it has not come so far."""
    folder = out / qa_name(cell) / "qa"
    after, before = folder / f"{SPLIT}.json", folder / f"{SPLIT}.before.json"
    if not after.is_file() or not before.is_file():
        return None
    try:
        return Score(em=json.loads(after.read_text())["em"], recall=json.loads(before.read_text())["recall"]["5"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder} holds no scores of a fine-tuned run ({error!r}): remove {folder.parent}, and the study makes it "
            "again"
        ) from error


def scores_in(out: Path) -> dict[Cell, Score]:
    """Of all cells of the study that have any, whoever made them; one that is damaged is told of and left out."""
    scores = {}
    for cell in _cells_in(out):
        try:
            score = read_score(out, cell)
        except DataError as error:
            logger.warning("%s is left out of the table: %s", cell, error)
            continue
        if score is not None:
            scores[cell] = score
    return scores


def _cells_in(out: Path) -> Iterator[Cell]:
    """Those that have a folder, in the table's order."""
    for variant in VARIANTS:
        start = qa_name(Cell(variant=variant, seed=0)).removesuffix("0")
        seeds = [path.name.rpartition("-")[2] for path in out.glob(f"{start}*")]
        yield from (
            Cell(variant=variant, seed=seed) for seed in sorted(int(text) for text in seeds if text.isdecimal())
        )


def mean_of(values: Sequence[float]) -> Mean:
    """Over seeds, whose number is small: by Student's t."""
    values_S = np.asarray(values, dtype=np.float64)
    margin = None
    if (num_seeds := len(values_S)) > 1:
        student = STUDENT_T[min(num_seeds - 1, len(STUDENT_T)) - 1]
        margin = float(student * values_S.std(ddof=1) / np.sqrt(num_seeds))
    return Mean(mean=float(values_S.mean()), margin=margin, seeds=num_seeds)


def rows_of(scores: Mapping[Cell, Score]) -> list[Row]:
    """A row for each variant that has scores, in the order of the cells."""
    by_variant: dict[str, dict[int, Score]] = {}
    variants: dict[str, Variant] = {}
    for cell, score in scores.items():
        variants[cell.variant.name] = cell.variant
        by_variant.setdefault(cell.variant.name, {})[cell.seed] = score
    realm = by_variant.get(REALM.name, {})
    return [_row(variants[name], found, realm) for name, found in by_variant.items()]


def _row(variant: Variant, found: Mapping[int, Score], realm: Mapping[int, Score]) -> Row:
    paired = sorted(found.keys() & realm.keys()) if variant is not REALM else []
    return Row(
        variant=variant,
        em=mean_of([score.em for score in found.values()]),
        recall=mean_of([score.recall for score in found.values()]),
        em_to_realm=mean_of([found[seed].em - realm[seed].em for seed in paired]) if paired else None,
        recall_to_realm=mean_of([found[seed].recall - realm[seed].recall for seed in paired]) if paired else None,
    )


def table(rows: Sequence[Row]) -> str:
    """Markdown, in per cent. What is of fewer seeds than the longest row, or than its own row, is marked."""
    seeds = max((row.em.seeds for row in rows), default=0)
    lines = [
        "| | exact match | to REALM | recall@5 before fine-tuning | to REALM | the paper's two |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        paper = row.variant.paper
        cells = [
            row.variant.title + _fewer(row.em, seeds),
            _text(row.em), _difference(row.em_to_realm, row.em.seeds),
            _text(row.recall), _difference(row.recall_to_realm, row.recall.seeds),
            f"{paper.em}, {paper.recall}" if paper else "",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", _how_sure(seeds)] if rows else []
    return "\n".join(lines) + "\n"


def _how_sure(seeds: int) -> str:
    """What the numbers are of, and how far they can be trusted."""
    what = f"Per cent of the {SPLIT} split's questions; differences to REALM are paired by seed"
    if seeds < 2:
        return f"{what}. One seed tells nothing of how sure they are: --resume --seeds 3 gives intervals."
    return f"{what}, ± is half of a 95% interval by Student's t over a row's seeds."


def as_json(rows: Sequence[Row], scores: Mapping[Cell, Score], *, costs: Mapping[Cell, Any]) -> dict[str, Any]:
    """The same for programs, with every cell."""
    return {
        "split": SPLIT,
        "rows": [
            {
                "name": row.variant.name, "title": row.variant.title,
                **{name: mean and asdict(mean) for name, mean in (
                    ("em", row.em), ("recall_at_5", row.recall), ("em_to_realm", row.em_to_realm),
                    ("recall_at_5_to_realm", row.recall_to_realm),
                )},
                "paper": row.variant.paper and asdict(row.variant.paper),
            }
            for row in rows
        ],
        "cells": [
            {"cell": str(cell), "em": score.em, "recall_at_5": score.recall, **costs.get(cell, {})}
            for cell, score in scores.items()
        ],
    }  # fmt: skip


def _fewer(mean: Mean, seeds: int) -> str:
    return "" if mean.seeds == seeds else f" ({mean.seeds} of {seeds} seeds)"


def _difference(mean: Mean | None, seeds: int) -> str:
    """Nothing without REALM's scores to compare with."""
    return "" if mean is None else _text(mean, signed=True) + _fewer(mean, seeds)


def _text(mean: Mean, *, signed: bool = False) -> str:
    value = f"{100 * mean.mean:{'+' if signed else ''}.1f}"
    return value if mean.margin is None else f"{value} ± {100 * mean.margin:.1f}"
