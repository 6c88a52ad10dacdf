"""The study as a picture: every row's two scores with their intervals, the paper's beside them. The numbers are
scores.py's.

matplotlib is loaded when the plot is drawn, never before.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from realm_ds.ablate.scores import Mean, Row
from realm_ds.errors import ConfigError
from realm_ds.files import durable

# Okabe and Ito's palette; markers differ too.
OURS, PAPER = "#0072B2", "#E69F00"
WIDTH_INCHES, HEIGHT_OF_ROW, HEIGHT_BESIDES = 10.0, 0.36, 1.2


def draw_study(path: Path, rows: Sequence[Row]) -> None:
    """Exact match and recall@5 side by side, rows from the top down as in the table; an SVG, the same bytes each time.

    Raises ConfigError where matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("plots need matplotlib, which is not installed: pip install 'realm-ds[demo]'") from error
    with matplotlib.rc_context({"svg.hashsalt": "realm-ds", "svg.fonttype": "none"}):
        figure = Figure(figsize=(WIDTH_INCHES, HEIGHT_BESIDES + HEIGHT_OF_ROW * len(rows)), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        papers = [row.variant.paper for row in rows]
        ems = [None if paper is None else paper.em for paper in papers]
        recalls = [None if paper is None else paper.recall for paper in papers]
        _draw(left, [row.em for row in rows], ems, "exact match, %")
        _draw(right, [row.recall for row in rows], recalls, "recall@5 before fine-tuning, %")
        left.set_yticks(range(len(rows)), [row.variant.title for row in rows])
        left.invert_yaxis()
        left.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)
        with durable(path) as file:
            figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})


def _draw(axes: Any, means: Sequence[Mean], papers: Sequence[float | None], label: str) -> None:
    places = range(len(means))
    axes.errorbar(
        [100 * mean.mean for mean in means], places, xerr=[100 * (mean.margin or 0.0) for mean in means], fmt="o",
        color=OURS, capsize=3, label="ours, 95% over seeds",
    )  # fmt: skip
    known = [(paper, place) for place, paper in zip(places, papers, strict=True) if paper is not None]
    axes.plot([paper for paper, _ in known], [place for _, place in known], "x", color=PAPER, label="the paper's")
    axes.set_xlabel(label)
    axes.set_xlim(left=0)
    axes.grid(axis="x", alpha=0.3)
