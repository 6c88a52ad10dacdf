"""Which curves a run has, and each as options of ECharts. Numbers are reports/history.py's."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from realm_ds.observe.progress import HELD_OUT
from realm_ds.reports.history import RunHistory

Points = list[tuple[int, float]]
# Both on light ground and on dark.
COLOURS = ("#4f6fe8", "#d9822b", "#2f9e6e", "#b65fcf")
_GREY = "#8b8f98"
_FAINT = "rgba(139, 143, 152, 0.22)"


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One line."""

    name: str
    points: Points


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Lines over steps that share a unit."""

    title: str
    about: str
    curves: tuple[Curve, ...]

    @property
    def told(self) -> str:
        """Where each line stands at its end, in words."""
        return "; ".join(f"{curve.name} {number(curve.points[-1][1])}" for curve in self.curves)


def charts(history: RunHistory) -> list[Chart]:
    """Those for which something was measured."""
    found = (Chart(title=title, about=about, curves=tuple(_curves(history, names))) for title, about, names in _CHARTS)
    return [chart for chart in found if chart.curves]


_CHARTS: Sequence[tuple[str, str, Sequence[tuple[str, str]]]] = (
    ("Loss", "What training lowers.", (("loss", "loss"),)),
    (
        "Retrieval utility", "Nats by which passages help over the null passage.",
        (("training", "retrieval_utility"), ("held out", f"{HELD_OUT}retrieval_utility")),
    ),
    (
        "Null share", "p(null|x): how often nothing seems better than any passage.",
        (("training", "null_share"), ("held out", f"{HELD_OUT}null_share")),
    ),
    ("Held out", "Log likelihood of a masked token, nats.", (("log likelihood", f"{HELD_OUT}log_likelihood"),)),
    (
        "Questions find their passage", "Recall on held-out questions that pre-training never sees.",
        tuple((f"recall@{k}", f"{HELD_OUT}recall_at_{k}") for k in (1, 5, 20)),
    ),
    ("In-batch accuracy", "How often a sentence finds its passage among the batch's.", (
        ("accuracy", "in_batch_accuracy"),
    )),
    ("Reader", "How often the best span is right, and an answer was there to read.", (
        ("best span right", "span_accuracy"), ("answer there", "reads_answer"),
    )),
    ("Staleness", "Age of the index that answers, in steps.", (("age", "staleness_steps"),)),
    ("Time of a step", "Milliseconds: all of it, and waiting for the index.", (
        ("step", "step_ms"), ("wait for index", "wait_for_index_ms"), ("search", "search_ms"),
    )),
)  # fmt: skip
"""(title, what it is, (name of a line, metric))."""


def _curves(history: RunHistory, names: Sequence[tuple[str, str]]) -> Iterator[Curve]:
    for name, metric in names:
        bare = metric.removeprefix(HELD_OUT)
        points = history.held_out_curve(bare) if metric.startswith(HELD_OUT) else history.curve(metric)
        if points:
            yield Curve(name=name, points=points)


def options(chart: Chart, adopted: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """For ECharts, with a faint line at the step where each index version (step, version) was adopted."""
    axis = {"axisLabel": {"color": _GREY}, "axisLine": {"lineStyle": {"color": _FAINT}}, "splitLine": {"show": False}}
    versions = {
        "silent": True, "symbol": "none", "lineStyle": {"color": _FAINT, "type": "solid"}, "label": {"show": False},
        "data": [{"xAxis": step} for step, _ in adopted],
    }  # fmt: skip
    return {
        "color": COLOURS, "animation": False, "backgroundColor": "transparent",
        "aria": {"enabled": True, "label": {"description": f"{chart.title} over steps: {chart.told}"}},
        "grid": {"left": 8, "right": 14, "top": 30 if len(chart.curves) > 1 else 12, "bottom": 4, "containLabel": True},
        "legend": {"show": len(chart.curves) > 1, "top": 0, "left": 0, "icon": "roundRect", "itemHeight": 4,
                   "textStyle": {"color": _GREY}},
        "tooltip": {"trigger": "axis", "confine": True},
        "xAxis": {"type": "value", "min": "dataMin", "max": "dataMax", "minInterval": 1, **axis},
        "yAxis": {"type": "value", "scale": True, **axis, "splitLine": {"lineStyle": {"color": _FAINT}}},
        "series": [
            {"type": "line", "name": curve.name, "data": [list(point) for point in curve.points], "showSymbol": False,
             "symbol": "circle", "lineStyle": {"width": 2}, **({"markLine": versions} if place == 0 else {})}
            for place, curve in enumerate(chart.curves)
        ],
    }  # fmt: skip


def number(value: float) -> str:
    """Three digits that count."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
