"""The curves of a run as PNG files. What the numbers are and mean is report.py's business.

matplotlib is imported when a plot is drawn, never before: a run without it is a run without plots.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from realm_ds.errors import ConfigError
from realm_ds.launch.report import adoptions, held_out_rows, recall_of, step_rows

# Okabe and Ito's palette, told apart with any colour vision; line styles differ too, for paper without colour.
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#555555"
BARS = {1: "#0072B2", 5: "#E69F00", 20: "#009E73"}
LINE_STYLES = ("-", "--", ":")
SIZE_INCHES = (7.0, 4.0)
DOTS_PER_INCH = 120
SMOOTHED_POINTS = 40
"""About as many windows as a curve has once smoothed."""


class Line(NamedTuple):
    """One metric as a line of a plot."""

    name: str
    label: str
    colour: str


class Curve(NamedTuple):
    """One plot over the steps of pre-training."""

    file: str
    title: str
    unit: str
    lines: tuple[Line, ...]
    has_first_step: bool = True
    """False where the first step, which waits for the first index to be built, would dwarf all others."""


CURVES = (
    Curve("loss.png", "Pre-training loss", "-log p(y|x) of the masked span, nats", (Line("loss", "loss", BLUE),)),
    Curve(
        "retrieval_utility.png", "Retrieval utility: what retrieved passages add over the null passage",
        "log p(y|..) - log p(y|null), nats a token",
        (Line("retrieval_utility", "marginal over candidates", BLUE), Line("ru_doc", "best candidate", ORANGE)),
    ),
    Curve("null_share.png", "Share of p(z|x) on the null passage", "p(null|x)", (Line("null_share", "null", BLUE),)),
    Curve("staleness.png", "Age of the index in use", "optimizer steps", (Line("staleness_steps", "age", BLUE),)),
    Curve(
        "search.png", "Time in search, and time that trainers waited for it", "milliseconds a step",
        (Line("search_ms", "search on the index ranks", BLUE), Line("wait_for_index_ms", "trainers waiting", RED)),
        has_first_step=False,
    ),
)  # fmt: skip
"""The curves over steps; recall per stage is drawn from the report."""
HELD_OUT_PANELS = (
    Curve(
        "held_out.png", "Held-out sentences", "nats a masked token",
        (Line("retrieval_utility", "retrieval utility", BLUE), Line("log_likelihood", "log p(y|x)", ORANGE)),
    ),
    Curve(
        "held_out.png", "Held-out retrieval", "share",
        (Line("recall_at_5", "questions with recall@5", GREEN), Line("null_share", "p(null|x)", RED)),
    ),
)  # fmt: skip
"""Both of one plot."""


def draw_plots(folder: Path, *, report: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[Path]:
    """Write every plot into `folder` and return the paths. Lines whose metric was not logged are left out."""
    _need_matplotlib()
    folder.mkdir(parents=True, exist_ok=True)
    steps = step_rows(rows)
    adopted = sorted(adoptions(steps).values())
    paths = [_draw_curve(folder, curve, steps=steps, adopted=adopted) for curve in CURVES]
    held_out = held_out_rows(rows)
    if held_out:
        paths.append(_draw_held_out(folder / "held_out.png", held_out))
    return [*paths, _draw_recall(folder / "recall.png", report)]


def _draw_curve(folder: Path, curve: Curve, *, steps: Sequence[Mapping[str, Any]], adopted: Sequence[int]) -> Path:
    figure, axes = _figure(curve.title)
    for line, style in zip(curve.lines, LINE_STYLES, strict=False):
        drawn = steps if curve.has_first_step else steps[1:]
        points = [(row["step"], float(row[line.name])) for row in drawn if line.name in row]
        if points:
            _draw_line(axes, points, line=line, style=style, is_exact=line.name == "staleness_steps")
    for step in adopted:
        label = "new index adopted" if step == adopted[0] else None
        axes.axvline(step, color=GREY, linewidth=0.8, linestyle=(0, (1, 3)), label=label, zorder=0)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel(curve.unit)
    axes.set_xlim(left=0)
    if curve.file in {"staleness.png", "search.png", "null_share.png"}:
        axes.set_ylim(bottom=0)
    if len(axes.get_legend_handles_labels()[0]) > 1:
        axes.legend(frameon=False)
    return _save(figure, folder / curve.file)


def _draw_line(axes: Any, points: Sequence[tuple[float, float]], *, line: Line, style: str, is_exact: bool) -> None:
    """The raw values pale, their running mean on top; exact quantities only as they are."""
    places, values = [place for place, _ in points], [value for _, value in points]
    window = 1 if is_exact else max(1, len(values) // SMOOTHED_POINTS)
    if window > 1:
        axes.plot(places, values, color=line.colour, alpha=0.25, linewidth=0.8)
    axes.plot(places, running_mean(values, window), color=line.colour, linestyle=style, linewidth=1.8, label=line.label)


def _draw_held_out(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """What retrieval is worth, beside how often it finds the passage."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2 * SIZE_INCHES[0] * 0.75, SIZE_INCHES[1]), dpi=DOTS_PER_INCH, layout="constrained")
    for axes, panel in zip(figure.subplots(1, 2), HELD_OUT_PANELS, strict=True):
        for line, style in zip(panel.lines, LINE_STYLES, strict=False):
            points = [(row["step"], float(row[line.name])) for row in rows if line.name in row]
            if points:
                axes.plot(*zip(*points, strict=True), color=line.colour, linestyle=style, marker="o", markersize=3,
                          label=line.label)  # fmt: skip
        axes.set_title(panel.title, fontsize=11)
        axes.set_xlabel("optimizer step")
        axes.set_ylabel(panel.unit)
        axes.set_xlim(left=0)
        axes.legend(frameon=False)
        _plain(axes)
    return _save(figure, path)


def _draw_recall(path: Path, report: Mapping[str, Any]) -> Path:
    """Bars per stage and cut-off, statements beside questions."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2 * SIZE_INCHES[0] * 0.75, SIZE_INCHES[1]), dpi=DOTS_PER_INCH, layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    titles = {"recall_at": "Held-out masked statements", "question_recall_at": "Test questions"}
    for axes, (prefix, title) in zip(panels, titles.items(), strict=True):
        by_cut_off = recall_of(report, prefix)
        width = 0.8 / max(1, len(by_cut_off))
        stages = list(next(iter(by_cut_off.values()), {}))
        for number, (k, values) in enumerate(by_cut_off.items()):
            places = [stage + (number - (len(by_cut_off) - 1) / 2) * width for stage in range(len(stages))]
            heights = [100 * values[stage] for stage in stages]
            bars = axes.bar(places, heights, width * 0.94, color=BARS.get(k, GREY), label=f"recall@{k}")
            axes.bar_label(bars, [f"{h:.0f}" if h >= 10 else f"{h:.1f}" for h in heights], fontsize=7, padding=1)
        axes.set_xticks(range(len(stages)), [stage.replace("_", " ") for stage in stages])
        axes.set_xlabel("after stage")
        axes.set_title(title, fontsize=11)
        _plain(axes)
    panels[0].set_ylabel("queries whose passage is found, %")
    panels[0].legend(frameon=False, loc="upper left")
    return _save(figure, path)


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """The mean of each value and of up to `window` - 1 before it."""
    return [sum(part) / len(part) for part in (values[max(0, i - window + 1) : i + 1] for i in range(len(values)))]


def _figure(title: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE_INCHES, dpi=DOTS_PER_INCH, layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=11)
    _plain(axes)
    return figure, axes


def _plain(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)


def _save(figure: Any, path: Path) -> Path:
    # Without matplotlib's version in the file, the same numbers give the same bytes wherever it draws the same.
    figure.savefig(path, metadata={"Software": None})
    return path


def _need_matplotlib() -> None:
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ConfigError("plots need matplotlib, which is not installed: pip install 'realm-ds[demo]'") from error
