"""The cost of a search as curves. What was measured is scale.py's business.

matplotlib is loaded when a plot is drawn, never before.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from realm_ds.errors import ConfigError
from realm_ds.planning.cost import CostModel, Point, Setting, varied

# Okabe and Ito's palette; markers and line styles differ too.
BLUE, ORANGE, GREY = "#0072B2", "#E69F00", "#555555"
SIZE_INCHES = (11.0, 3.6)
DOTS_PER_INCH = 120


def draw_scale(
    path: Path, *, base: Setting, factors: Mapping[str, Sequence[int]], points: Sequence[Point], model: CostModel
) -> None:
    """A panel for each factor that was varied around the base: measured, modelled, and FAISS alone."""
    figure = figure_class()(figsize=SIZE_INCHES, dpi=DOTS_PER_INCH, layout="constrained")
    panels = figure.subplots(1, len(factors))
    for axes, (factor, numbers) in zip(panels, factors.items(), strict=True):
        _draw_factor(axes, factor, numbers, base=base, points=points, model=model)
    panels[0].set_ylabel("milliseconds a search")
    panels[0].legend(frameon=False)
    figure.suptitle(
        f"Cost of a search around {base.passages:,} passages, {base.shards} shards, {base.clients} client "
        f"({base.queries} queries, k={base.hits})",
        fontsize=11,
    )
    figure.savefig(path, metadata={"Software": None})


def _draw_factor(
    axes: Any, factor: str, numbers: Sequence[int], *, base: Setting, points: Sequence[Point], model: CostModel
) -> None:
    settings = [varied(base, factor, number) for number in numbers]
    found = {point.setting: point for point in points}
    axes.plot(numbers, [found[setting].ours_ms for setting in settings], "o-", color=BLUE, label="measured")
    axes.plot(numbers, [model.of(setting) for setting in settings], "x--", color=ORANGE, label="model")
    axes.plot(numbers, [found[setting].raw_ms for setting in settings], ".:", color=GREY, label="FAISS alone")
    if factor == "passages":
        axes.set_xscale("log")
        axes.set_yscale("log")
    else:
        axes.set_xticks(numbers)
        axes.set_ylim(bottom=0)
    axes.set_xlabel(factor)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.6)


def figure_class() -> Any:
    """matplotlib's Figure. Raises ConfigError where that is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("plots need matplotlib, which is not installed: pip install 'realm-ds[demo]'") from error
    return Figure
