"""What an index or builder rank says of itself while it works, for people who watch the run."""

from typing import Protocol


class Tell(Protocol):
    """Takes figures by name, each call in place of the one before; returns at once."""

    def __call__(self, **figures: float) -> None: ...


def rebuild_figures(version: int, *, done: int, total: int, took_s: float) -> dict[str, float]:
    """How far a version is of which so many passages are done: share, passages a second, seconds to go."""
    figures = {"building": version, "rebuilt_share": done / total}
    if done and took_s > 0:
        rate = done / took_s
        figures |= {"rebuild_passages_per_s": rate, "rebuild_eta_s": (total - done) / rate}
    return figures
