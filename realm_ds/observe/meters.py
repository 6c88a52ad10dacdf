"""(value, weight) pairs of one rank, summed as they come and reduced over ranks once per logging step."""

from collections.abc import Callable, Sequence
from typing import Any

Reduce = Callable[[Sequence[float]], Sequence[float]]
"""Sums each of some numbers over the ranks that share a meter; all of them call it at the same step."""


def alone(sums: Sequence[float]) -> Sequence[float]:
    """The reduction of a single rank."""
    return sums


class Meters:
    """Weighted means of a fixed set of quantities; the names are the same on every rank, so the vectors fit."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)
        self._pairs: dict[str, tuple[Any, Any]] = {}
        if len(set(self._names)) != len(self._names):
            raise ValueError(f"a meter's name is there twice: {self._names}")

    def add(self, name: str, value: Any, weight: Any = 1.0) -> None:
        """Count `value` with `weight`; tensors stay on their device until drain(), so adding never waits."""
        if name not in self._names:
            raise KeyError(f"no meter {name!r}; declared are {self._names}")
        value_sum, weight_sum = self._pairs.get(name, (0.0, 0.0))
        self._pairs[name] = (value_sum + value * weight, weight_sum + weight)

    def drain(self, reduce: Reduce = alone) -> dict[str, float]:
        """Means over all ranks since the last drain, without those of weight 0; and start anew."""
        sums = [float(part) for name in self._names for part in self._pairs.get(name, (0.0, 0.0))]
        self._pairs.clear()
        totals = reduce(sums)
        pairs = zip(self._names, totals[::2], totals[1::2], strict=True)
        return {name: float(value / weight) for name, value, weight in pairs if weight}
