"""What a search costs, in milliseconds, as a sum of a few products: fitted to measurements, then asked about others.

For capacity planning: needs numpy alone. The measuring is scale.py's business.

Shapes: M measurements, F factors.
"""

import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from realm_ds.errors import DataError
from realm_ds.files import write_durably

Replies = Literal["whole", "two_phase"]
FACTORS = ("fixed", "per_message", "per_scanned", "per_hit", "per_token")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One way to ask: every number that the cost of a search depends on."""

    passages: int
    """Of the whole corpus."""
    shards: int
    clients: int = 1
    """That ask at the same time."""
    queries: int
    """In one request of one client."""
    hits: int
    """For each query."""
    tokens: int
    """Of one passage."""
    replies: Replies = "whole"
    threads: int = 1
    """For searching, of each shard."""
    cores: int
    """Of all shards together; more threads than cores take turns."""


def varied(base: Setting, factor: str, number: int) -> Setting:
    """The base with another number of passages, shards, clients, queries or hits."""
    changed: dict[str, Any] = {factor: number}
    return replace(base, **changed)


@dataclass(frozen=True, kw_only=True)
class Point:
    """One setting, measured."""

    setting: Setting
    ours_ms: float
    """A search of one client, while the others search too."""
    raw_ms: float
    """FAISS for the searches of all clients, one after the other, with as many threads as shards can run at once."""


@dataclass(frozen=True, kw_only=True)
class CostModel:
    """Milliseconds for one of each factor (`factors` says what is counted)."""

    fixed: float
    per_message: float
    """Each request or answer that the client sends or takes."""
    per_scanned: float
    """A query against a passage, on one core. Holds for an index that looks at all passages, and for one width."""
    per_hit: float
    """Sent by a shard, merged by the client."""
    per_token: float
    """That travels with the answers."""

    def of(self, setting: Setting) -> float:
        """Milliseconds from asking to having the merged answer."""
        return sum(getattr(self, name) * count for name, count in zip(FACTORS, factors(setting), strict=True))

    def save(self, path: Path, *, points: Sequence[Point], error: "FitError") -> None:
        """Write it with what it was fitted to, as JSON."""
        measured = [
            {
                **asdict(point.setting),
                "ours_ms": point.ours_ms,
                "raw_ms": point.raw_ms,
                "model_ms": self.of(point.setting),
            }
            for point in points
        ]
        content = {"model": asdict(self), "error": asdict(error), "measured": measured}
        write_durably(path, json.dumps(content, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> "CostModel":
        """Open what `save` wrote."""
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8"))["model"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} holds no cost model ({error}): write it with realm-ds bench scale") from error


@dataclass(frozen=True, kw_only=True)
class FitError:
    """How far the model is from what it was fitted to, as shares of the measured costs."""

    median: float
    worst: float


def factors(setting: Setting) -> tuple[float, ...]:
    """How many of each of FACTORS one search has."""
    busy = min(setting.shards * setting.threads, setting.cores)
    sent = setting.shards * setting.queries * setting.hits
    # Of two phases the first carries no tokens, the second those of the winners alone.
    is_whole = setting.replies == "whole"
    tokens = setting.tokens * (sent if is_whole else setting.queries * setting.hits)
    messages = setting.shards * (2 if is_whole else 4)
    scanned = setting.clients * setting.queries * setting.passages / busy
    return (1.0, float(messages), scanned, float(sent), float(tokens))


def fit(points: Sequence[Point]) -> tuple[CostModel, FitError]:
    """The model that is nearest in relative error (a cost of 1 ms and one of 1 s count alike), no coefficient negative.

    Raises DataError for fewer measurements than factors.
    """
    if len(points) < len(FACTORS):
        raise DataError(f"{len(points)} measurements cannot tell {len(FACTORS)} factors apart: measure more settings")
    costs_M = np.array([point.ours_ms for point in points], dtype=np.float64)
    relative_MF = np.array([factors(point.setting) for point in points]) / costs_M[:, None]
    coefficients_F = non_negative_least_squares(relative_MF, np.ones(len(costs_M)))
    errors_M = np.abs(relative_MF @ coefficients_F - 1.0)
    model = CostModel(**dict(zip(FACTORS, coefficients_F.tolist(), strict=True)))
    return model, FitError(median=float(np.median(errors_M)), worst=float(errors_M.max()))


def predict(
    model: CostModel,
    *,
    passages: int,
    shards: int,
    queries: int,
    hits: int,
    tokens: int,
    clients: int = 1,
    replies: Replies = "whole",
    threads: int = 1,
    cores: int | None = None,
) -> float:
    """CostModel.of for capacity planning. `cores` left out: every shard has as many as it has threads."""
    setting = Setting(
        passages=passages, shards=shards, clients=clients, queries=queries, hits=hits, tokens=tokens, replies=replies,
        threads=threads, cores=cores or shards * threads,
    )  # fmt: skip
    return model.of(setting)


def non_negative_least_squares(matrix_MF: np.ndarray, wanted_M: np.ndarray) -> np.ndarray:
    """The x >= 0 with the least |matrix x - wanted|. Tries every set of non-zero coefficients: exact, and few enough
    for a handful of factors."""
    num_factors = matrix_MF.shape[1]
    # Columns of like size: scanned passages are millions where messages are a few.
    scales_F = np.linalg.norm(matrix_MF, axis=0)
    scales_F[scales_F == 0] = 1.0
    scaled_MF = matrix_MF / scales_F
    best_F, least = np.zeros(num_factors), float(np.linalg.norm(wanted_M))
    for count in range(1, num_factors + 1):
        for columns in itertools.combinations(range(num_factors), count):
            found = np.linalg.lstsq(scaled_MF[:, columns], wanted_M, rcond=None)[0]
            residual = float(np.linalg.norm(scaled_MF[:, columns] @ found - wanted_M))
            if (found >= 0).all() and residual < least:
                least = residual
                best_F = np.zeros(num_factors)
                best_F[list(columns)] = found
    return best_F / scales_F
