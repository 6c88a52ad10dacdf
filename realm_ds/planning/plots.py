"""The scale study as curves. What was planned is study.py's business.

matplotlib is loaded when a plot is drawn, never before.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realm_ds.errors import ConfigError

if TYPE_CHECKING:
    from realm_ds.planning.study import Row

# Okabe and Ito's palette; markers and line styles differ too.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#E69F00", "#009E73", "#555555"
SIZE_INCHES = (11.0, 3.6)


def draw_study(path: Path, rows: Sequence["Row"], *, every_steps: int) -> None:
    """Time of a step and its parts, of a rebuild, and what the whole run costs; an SVG, the same bytes each time.

    Raises ConfigError where matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("plots need matplotlib, which is not installed: pip install 'realm-ds[demo]'") from error
    with matplotlib.rc_context({"svg.hashsalt": "realm-ds", "svg.fonttype": "none"}):
        figure = Figure(figsize=SIZE_INCHES, layout="constrained")
        steps, rebuilds, costs = figure.subplots(1, 3)
        gpus = [row.num_gpus for row in rows]
        plans = [row.plan for row in rows]
        _curves(steps, gpus, "milliseconds a step", {
            "step": ([1e3 * plan.mean_step_s for plan in plans], BLUE, "o-"),
            "twice as fast on twice as many": ([1e3 * plans[0].mean_step_s * gpus[0] / n for n in gpus], GREY, ":"),
            "exchange of gradients": ([1e3 * plan.step.exchange_s for plan in plans], ORANGE, "x--"),
            "search, hidden": ([1e3 * plan.search.search_s for plan in plans], GREEN, "s-."),
        })  # fmt: skip
        _curves(rebuilds, gpus, "seconds", {
            "a rebuild": ([plan.refresh.refresh_s for plan in plans], BLUE, "o-"),
            f"{every_steps} steps": ([every_steps * plan.mean_step_s for plan in plans], ORANGE, "x--"),
        })  # fmt: skip
        _curves(costs, gpus, f"for {plans[0].run.config.pretrain.steps:,} steps", {
            "hours": ([plan.hours for plan in plans], BLUE, "o-"),
            "node-hours": ([plan.node_hours for plan in plans], ORANGE, "x--"),
        })  # fmt: skip
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def _curves(axes: Any, gpus: Sequence[int], label: str, curves: dict[str, tuple[list[float], str, str]]) -> None:
    for name, (values, colour, style) in curves.items():
        axes.plot(gpus, values, style, color=colour, label=name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(gpus, [str(number) for number in gpus])
    axes.minorticks_off()
    axes.set_xlabel("GPUs")
    axes.set_ylabel(label)
    axes.set_ylim(top=axes.get_ylim()[1] * 6)
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.6)
