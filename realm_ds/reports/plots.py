"""Runs drawn: curves over steps of one run or of two, where the time of a step goes, a demo's recall. As SVG, for a
page and for a file. What the numbers are and mean is history.py's and demo.py's business.

matplotlib is imported when a plot is drawn, never before.
"""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from realm_ds.errors import ConfigError
from realm_ds.reports.document import Plot
from realm_ds.reports.history import RunHistory

# Okabe and Ito's palette, told apart with any colour vision and on dark ground; line styles differ too.
BLUE, ORANGE, GREEN, RED, PURPLE = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7"
RUN_COLOURS = (BLUE, RED)
BAR_COLOURS = {1: BLUE, 5: ORANGE, 20: GREEN}
LINE_STYLES = ("-", "--", ":")
INK, PAPER, GRID = "#1b1f24", "#fefefe", "#8a93a0"
"""On a page the first becomes the colour of its text, the second nothing."""
SIZE_INCHES = (5.6, 3.2)
SMOOTHED_POINTS = 40
"""About as many windows as a curve has once smoothed."""

Runs = Mapping[str, RunHistory]
"""One run, or two that are compared, by what they are called in a legend."""


class Line(NamedTuple):
    """One metric as a line of a plot."""

    name: str
    label: str
    colour: str


class Curve(NamedTuple):
    """One plot over optimizer steps. Lines whose metric was not measured are left out."""

    name: str
    title: str
    unit: str
    lines: tuple[Line, ...]
    has_first_step: bool = True
    """False where the first step, which waits for the first index to be built, would dwarf all others."""
    from_zero: bool = False
    is_held_out: bool = False
    is_exact: bool = False
    """Not smoothed."""


CURVES = (
    Curve("loss", "Training loss", "loss", (
        Line("loss", "loss", BLUE), Line("reader_loss", "of the reader", ORANGE),
        Line("retriever_loss", "of the retriever", GREEN),
    )),
    Curve("accuracy", "Accuracy on what is trained on", "share", (
        Line("in_batch_accuracy", "passage found in the batch", BLUE),
        Line("masked_accuracy", "masked wordpieces", ORANGE), Line("span_accuracy", "answer spans", GREEN),
    ), from_zero=True),
    Curve("retrieval_utility", "Retrieval utility: what retrieved passages add over the null passage",
          "nats a token", (
        Line("retrieval_utility", "marginal over candidates", BLUE), Line("ru_doc", "best candidate", ORANGE),
    )),
    Curve("null_share", "Share of p(z|x) on the null passage", "p(null|x)", (Line("null_share", "null", BLUE),),
          from_zero=True),
    Curve("held_out", "Held-out sentences", "nats a masked token", (
        Line("log_likelihood", "log p(y|x)", BLUE), Line("retrieval_utility", "retrieval utility", ORANGE),
    ), is_held_out=True, is_exact=True),
    Curve("held_out_retrieval", "Held-out retrieval", "share", (
        Line("recall_at_5", "questions with recall@5", GREEN), Line("null_share", "p(null|x)", RED),
    ), from_zero=True, is_held_out=True, is_exact=True),
    Curve("staleness", "Age of the index in use", "optimizer steps", (Line("staleness_steps", "age", BLUE),),
          from_zero=True, is_exact=True),
    Curve("search", "Time in search, and time that trainers waited for it", "milliseconds a step", (
        Line("search_ms", "search", BLUE), Line("wait_for_index_ms", "trainers waiting", RED),
    ), has_first_step=False, from_zero=True),
    Curve("speed", "Speed", "tokens a second", (Line("tokens_per_s", "wordpieces of all trainers", BLUE),),
          has_first_step=False, from_zero=True),
)  # fmt: skip


def draw_curves(runs: Runs) -> list[Plot]:
    """Every curve that is not nought throughout, of all runs in one plot. Raises ConfigError without matplotlib."""
    return [plot for curve in CURVES if (plot := _draw_curve(curve, runs)) is not None]


def draw_time_split(runs: Runs) -> Plot | None:
    """Where the time of a step goes: a bar for each phase of each run; None before the first step."""
    splits = {name: run.time_split() for name, run in runs.items()}
    totals: dict[str, float] = {}
    for split in splits.values():
        for phase, took_ms in split.items():
            totals[phase] = totals.get(phase, 0.0) + took_ms
    phases = sorted(totals, key=lambda phase: totals[phase])
    if not phases:
        return None
    with _style():
        figure, axes = _figure("Where the time of a step goes", height=0.9 + 0.26 * len(phases) * len(runs))
        width = 0.8 / len(runs)
        for number, (name, split) in enumerate(splits.items()):
            places = [place + ((len(runs) - 1) / 2 - number) * width for place in range(len(phases))]
            values = [split.get(phase, 0.0) for phase in phases]
            bars = axes.barh(places, values, width * 0.9, color=RUN_COLOURS[number % 2], label=name)
            axes.bar_label(bars, [f"{value:,.1f}" for value in values], padding=3, fontsize=8)
        axes.set_yticks(range(len(phases)), [phase.replace("_", " ") for phase in phases])
        axes.set_xlabel("milliseconds a step")
        axes.grid(visible=False)
        axes.margins(x=0.1)
        _legend(axes, is_needed=len(runs) > 1)
        return _plot(figure, "time_split", "Where the time of a step goes")


def draw_recall(by_stage: Mapping[str, Mapping[int, Mapping[str, float]]]) -> Plot:
    """Bars per stage and cut-off, a panel for each kind of query: {title: {cut-off: {stage: recall}}}."""
    with _style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7.4, 3.6), layout="constrained", facecolor=PAPER)
        panels = figure.subplots(1, len(by_stage), sharey=True, squeeze=False)[0]
        for axes, (title, by_cut_off) in zip(panels, by_stage.items(), strict=True):
            _draw_bars(axes, by_cut_off)
            axes.set_title(title, fontsize=10)
            _quieten(axes)
        panels[0].set_ylabel("queries whose passage is found, %")
        panels[0].legend(frameon=False, loc="upper left", fontsize=8)
        return replace(_plot(figure, "recall", "Recall after each stage"), is_wide=True)


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """The mean of each value and of up to `window` - 1 before it."""
    return [sum(part) / len(part) for part in (values[max(0, i - window + 1) : i + 1] for i in range(len(values)))]


def _draw_curve(curve: Curve, runs: Runs) -> Plot | None:
    drawn = [
        (number, line, style, points)
        for number, run in enumerate(runs.values())
        for line, style in zip(curve.lines, LINE_STYLES, strict=False)
        if (points := _points(curve, line, run))
    ]
    if not any(value for *_, points in drawn for _, value in points):
        return None  # Such as the time in search of a stage that searches nothing.
    names = list(runs)
    with _style():
        figure, axes = _figure(curve.title)
        for number, line, style, points in drawn:
            is_alone = len(runs) == 1
            label = line.label if is_alone else f"{names[number]}: {line.label}"
            colour = line.colour if is_alone else RUN_COLOURS[number % 2]
            _draw_line(axes, points, label=label, colour=colour, style=style, is_exact=curve.is_exact)
        adopted = _adoptions(runs) if not curve.is_held_out else []
        for step in adopted:
            said = "new index adopted" if step == adopted[0] else None
            axes.axvline(step, color=GRID, linewidth=0.8, linestyle=(0, (1, 3)), label=said, zorder=0)
        axes.set_xlabel("optimizer step")
        axes.set_ylabel(curve.unit)
        axes.set_xlim(left=0)
        if curve.from_zero:
            axes.set_ylim(bottom=0)
        _legend(axes, is_needed=len(axes.get_legend_handles_labels()[0]) > 1)
        return _plot(figure, curve.name, curve.title)


def _points(curve: Curve, line: Line, run: RunHistory) -> list[tuple[int, float]]:
    points = run.held_out_curve(line.name) if curve.is_held_out else run.curve(line.name)
    return points if curve.has_first_step else points[1:]


def _adoptions(runs: Runs) -> list[int]:
    """Steps at which the one run took another index; of two, lines of both would say nothing."""
    if len(runs) > 1:
        return []
    (run,) = runs.values()
    return [version.adopted_step for version in run.versions if version.adopted_step]


def _draw_line(
    axes: Any, points: Sequence[tuple[int, float]], *, label: str, colour: str, style: str, is_exact: bool
) -> None:
    """The raw values pale, their running mean on top; exact quantities only as they are."""
    places, values = [place for place, _ in points], [value for _, value in points]
    window = 1 if is_exact else max(1, len(values) // SMOOTHED_POINTS)
    if window > 1:
        axes.plot(places, values, color=colour, alpha=0.25, linewidth=0.8)
    marker = "o" if len(points) < SMOOTHED_POINTS / 2 else None
    axes.plot(
        places, running_mean(values, window), color=colour, linestyle=style, linewidth=1.6, label=label, marker=marker,
        markersize=3,
    )  # fmt: skip


def _draw_bars(axes: Any, by_cut_off: Mapping[int, Mapping[str, float]]) -> None:
    width = 0.8 / max(1, len(by_cut_off))
    stages = list(next(iter(by_cut_off.values()), {}))
    for number, (k, values) in enumerate(by_cut_off.items()):
        places = [stage + (number - (len(by_cut_off) - 1) / 2) * width for stage in range(len(stages))]
        heights = [100 * values[stage] for stage in stages]
        bars = axes.bar(places, heights, width * 0.94, color=BAR_COLOURS.get(k, GRID), label=f"recall@{k}")
        axes.bar_label(bars, [f"{h:.0f}" if h >= 10 else f"{h:.1f}" for h in heights], fontsize=7, padding=1)
    axes.set_xticks(range(len(stages)), [stage.replace("_", " ") for stage in stages])
    axes.set_xlabel("after stage")


def _figure(title: str, *, height: float = SIZE_INCHES[1]) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(SIZE_INCHES[0], height), layout="constrained", facecolor=PAPER)
    axes = figure.subplots()
    axes.set_title(title, fontsize=10, loc="left")
    _quieten(axes)
    return figure, axes


def _quieten(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=GRID, linewidth=0.5, alpha=0.4)
    axes.set_axisbelow(True)


def _legend(axes: Any, *, is_needed: bool) -> None:
    """Below the axes: two runs have so many lines that it would lie on some of them."""
    if is_needed:
        axes.figure.legend(frameon=False, fontsize=8, loc="outside lower center", ncols=2)


def _style() -> Any:
    """matplotlib's settings while a plot is made and written. Text stays text, and none of it is a formula."""
    try:
        import matplotlib
    except ImportError as error:
        raise ConfigError("plots need matplotlib, which is not installed: pip install 'realm-ds[demo]'") from error
    colours = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    return matplotlib.rc_context(
        {
            **dict.fromkeys(colours, INK), "axes.facecolor": "none", "font.size": 9, "svg.fonttype": "none",
            "svg.hashsalt": "realm-ds", "text.parse_math": False, "axes.formatter.use_mathtext": False,
        }
    )  # fmt: skip


def _plot(figure: Any, name: str, title: str) -> Plot:
    """The same bytes each time for the same numbers."""
    written = io.StringIO()
    figure.savefig(written, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = written.getvalue()
    return Plot(name=name, title=title, page_svg=_for_page(text), file_svg=text)


def _for_page(svg: str) -> str:
    """Within HTML names of groups would be there several times, and namespaces are known."""
    inner = svg[svg.index("<svg") :]
    inner = re.sub(r"<metadata>.*?</metadata>\s*", "", inner, flags=re.DOTALL)
    inner = re.sub(r' xmlns(:\w+)?="[^"]*"', "", inner)
    inner = re.sub(r'<g id="[^"]*"', "<g", inner)
    return inner.replace("xlink:href", "href").replace(INK, "currentColor").replace(PAPER, "none")
