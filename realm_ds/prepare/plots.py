"""Histograms of lengths as a picture. What is measured is inspect_shard.py's."""

from collections.abc import Sequence
from pathlib import Path

from realm_ds.errors import ConfigError
from realm_ds.observe.inspection import Distribution

SIZE_INCHES = (5.0, 3.2)
"""Of each histogram."""
COLOUR = "#0072B2"


def draw_lengths(path: Path, distributions: Sequence[Distribution], *, title: str) -> None:
    """Write one histogram beside the other; the ending of the path says as what (.png, .pdf, .svg)."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("plots need matplotlib, which is not installed: pip install 'realm-ds[demo]'") from error
    num_columns = min(3, len(distributions))
    num_rows = -(-len(distributions) // num_columns)
    figure = Figure(figsize=(SIZE_INCHES[0] * num_columns, SIZE_INCHES[1] * num_rows), dpi=120, layout="constrained")
    panels = figure.subplots(num_rows, num_columns, squeeze=False).flatten()
    for axes, distribution in zip(panels, distributions, strict=False):
        lengths, counts = list(distribution.counts), list(distribution.counts.values())
        axes.bar(lengths, counts, width=1.0, color=COLOUR)
        axes.axvline(distribution.mean, color="#D55E00", linewidth=1.0, label=f"mean {distribution.mean:.1f}")
        axes.set_xlabel(distribution.name)
        axes.set_ylabel(f"{distribution.name.split()[-1]}s")  # of wordpieces of a sentence: sentences
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[len(distributions) :]:
        axes.remove()
    figure.suptitle(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        figure.savefig(path, metadata={"Software": None} if path.suffix == ".png" else None)
    except ValueError as error:  # of a format that matplotlib does not write
        raise ConfigError(f"{path}: {error}; end its name in .png, .pdf or .svg") from error
