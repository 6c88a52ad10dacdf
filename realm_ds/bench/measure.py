"""What a benchmark says: one number beside that of a named reference, and whether their ratio is good enough.

How the numbers come about is search.py's, refresh.py's and scale.py's business.
"""

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Bar:
    """What a measure must reach."""

    limit: float
    of: Literal["ratio", "value"] = "ratio"
    side: Literal[">=", "<=", "within"] = ">="
    """within: at most `limit` away from 1, up or down as a factor."""

    def holds(self, number: float) -> bool:
        """Not for NaN: what could not be measured is not good."""
        if self.side == "within":
            return number > 0 and max(number, 1 / number) <= 1 + self.limit
        return number >= self.limit if self.side == ">=" else number <= self.limit

    def __str__(self) -> str:
        return f"{self.of} {self.side} {self.limit:g}"


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A result; `ratio` is always value / reference."""

    name: str
    value: float
    unit: str
    reference: float | None = None
    bar: Bar | None = None
    is_judged: bool = True
    """False in a quick run: too short to mean anything."""
    note: str = ""
    """What the reference is, and what else one must know to read the numbers."""

    @property
    def ratio(self) -> float | None:
        return self.value / self.reference if self.reference else None

    @property
    def is_ok(self) -> bool | None:
        """None where there is no bar, or nothing is judged."""
        if self.bar is None or not self.is_judged:
            return None
        number = self.value if self.bar.of == "value" else self.ratio
        return number is not None and self.bar.holds(number)

    def to_json(self) -> str:
        """One line; the same members whatever the measure."""
        note = f"bar: {self.bar}; {self.note}" if self.bar else self.note
        members = {
            "measure": self.name, "value": _rounded(self.value), "reference": _rounded(self.reference),
            "ratio": _rounded(self.ratio), "bar": self.bar.limit if self.bar else None, "ok": self.is_ok,
            "unit": self.unit, "note": note,
        }  # fmt: skip
        return json.dumps(members, allow_nan=False)


def alternate(sides: Mapping[str, Callable[[], T]], *, blocks: int) -> dict[str, list[T]]:
    """What each side returned in each of `blocks` rounds. One block of every side makes a round, so that whatever else
    the machine does meanwhile hits all of them."""
    found: dict[str, list[T]] = {name: [] for name in sides}
    for _ in range(blocks):
        for name, run in sides.items():
            found[name].append(run())
    return found


def spread(values: Sequence[float], references: Sequence[float]) -> str:
    """How far the ratios of single rounds lie apart, for a note."""
    ratios = [value / reference for value, reference in zip(values, references, strict=True)]
    return f"{len(ratios)} rounds, ratios {min(ratios):.3g} to {max(ratios):.3g}"


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of all does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def median(values: Sequence[float]) -> float:
    """The middle one, or the mean of the two in the middle."""
    return statistics.median(values)


def table(measures: Sequence[Measure]) -> str:
    """All of it for people; notes follow as lines of their own."""
    header = ("measure", "value", "reference", "ratio", "bar", "")
    rows = [header, *(_row(measure) for measure in measures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    notes = [f"{measure.name}: {measure.note}" for measure in measures if measure.note]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:], *([""] if notes else []), *notes])


def _row(measure: Measure) -> tuple[str, ...]:
    verdicts = {True: "ok", False: "MISSED", None: "" if measure.is_judged else "not judged"}
    reference, ratio = measure.reference, measure.ratio
    return (
        measure.name, f"{_number(measure.value)} {measure.unit}".strip(),
        "" if reference is None else _number(reference), "" if ratio is None else f"{ratio:.3f}",
        str(measure.bar or ""), verdicts[measure.is_ok],
    )  # fmt: skip


def _number(value: float) -> str:
    """Four digits that tell something, without an exponent where people would not write one."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _rounded(value: float | None) -> float | None:
    """Six digits; None for what is no number, which JSON cannot say."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.6g}")
