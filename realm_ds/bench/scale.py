"""`realm-ds bench scale`: what a search costs against passages, shards and clients, one factor at a time around a base;
the cost model that follows; and where replies in two phases win. What clients do is scale_jobs.py's business.

    OUT/{scale.json, scale.png}
"""

import functools
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from realm_ds.bench.measure import Measure
from realm_ds.bench.processes import run_in_world
from realm_ds.bench.run import Group
from realm_ds.observe import progress
from realm_ds.planning.cost import CostModel, FitError, Point, Setting, fit, varied

WIDTH = 128
TOKENS = 140
"""Of a passage: what a REALM passage has on average."""
SCANNED_IN_A_BLOCK = 20_000_000
"""Pairs of query and passage: half a second on one core."""
FEWEST_BATCHES = 4
JSON_FILE = "scale.json"
PLOT_FILE = "scale.png"


@dataclass(frozen=True, kw_only=True)
class Grid:
    """What is varied, and around what."""

    is_quick: bool
    base: Setting
    passages: tuple[int, ...]
    shards: tuple[int, ...]
    clients: tuple[int, ...]
    queries: tuple[int, ...]
    hits: tuple[int, ...]
    most_batches: int
    """In a block."""
    blocks: int


def scale_groups(*, is_quick: bool, out: Path) -> list[Group]:
    """What the verb can measure: all of it, since the model needs all."""
    out.mkdir(parents=True, exist_ok=True)  # before ten minutes are spent on what cannot be written
    grid = quick_grid() if is_quick else full_grid()
    return [Group(title="Cost of a search", names=("passages", "shards", "clients"),
                  run=functools.partial(scale, grid, out))]  # fmt: skip


def full_grid() -> Grid:
    """10^4 to 10^6 passages, 1 to 8 shards, 1 to 4 clients."""
    return Grid(
        is_quick=False,
        base=Setting(passages=100_000, shards=2, clients=1, queries=16, hits=8, tokens=TOKENS, cores=_cores()),
        passages=(10_000, 31_623, 100_000, 316_228, 1_000_000), shards=(1, 2, 4, 8), clients=(1, 2, 4),
        queries=(4, 16, 64), hits=(8, 32, 100), most_batches=100, blocks=5,
    )  # fmt: skip


def quick_grid() -> Grid:
    """The same in small."""
    return Grid(
        is_quick=True,
        base=Setting(passages=2_000, shards=1, clients=1, queries=4, hits=4, tokens=TOKENS, cores=_cores()),
        passages=(2_000,), shards=(1, 2), clients=(1,), queries=(4, 8), hits=(4, 16), most_batches=2, blocks=1,
    )  # fmt: skip


def scale(grid: Grid, out: Path, bar: progress.Bar) -> Sequence[Measure]:
    """Measure the grid, fit the model, write both and a plot."""
    from realm_ds.bench.plots import draw_scale, figure_class

    figure_class()  # Not after minutes of measuring.
    points = measure_grid(grid, bar)
    model, error = fit(points)
    model.save(out / JSON_FILE, points=points, error=error)
    factors = {factor: getattr(grid, factor) for factor in ("passages", "shards", "clients")}
    draw_scale(out / PLOT_FILE, base=grid.base, factors=factors, points=points, model=model)
    return [*_measures(grid, points), *_phases(grid, points), _of_the_fit(grid, model, error, out)]


def measure_grid(grid: Grid, bar: progress.Bar) -> list[Point]:
    """A world for each number of passages, shards and clients; what is asked in it varies with the base alone."""
    base = grid.base
    worlds = [replace(base, passages=number) for number in grid.passages]
    worlds += [replace(base, shards=number) for number in grid.shards]
    worlds += [replace(base, clients=number) for number in grid.clients]
    points: list[Point] = []
    distinct = list(dict.fromkeys([base, *worlds]))
    for part, world in enumerate(distinct):
        points += _in_one_world(grid, _kinds(grid, world), bar, part=part, parts=len(distinct))
    return points


def _kinds(grid: Grid, world: Setting) -> list[Setting]:
    """What is asked in a world: as in the base; in two phases too where shards are varied; the rest in the base's."""
    kinds = [world]
    if replace(world, shards=grid.base.shards) == grid.base:
        # Enough hits that their tokens count.
        large = replace(world, queries=max(grid.queries), hits=max(grid.hits))
        kinds += [large, replace(world, replies="two_phase"), replace(large, replies="two_phase")]
    if world == grid.base:
        kinds += [replace(world, queries=number) for number in grid.queries]
        kinds += [replace(world, hits=number) for number in grid.hits]
    return list(dict.fromkeys(kinds))


def _in_one_world(grid: Grid, kinds: Sequence[Setting], bar: progress.Bar, *, part: int, parts: int) -> list[Point]:
    world = kinds[0]
    options = {
        "passages": world.passages, "width": WIDTH, "tokens": world.tokens, "blocks": grid.blocks,
        "raw_threads": min(world.shards, world.cores), "kinds": [_kind(grid, kind) for kind in kinds],
    }  # fmt: skip
    found = run_in_world("cost", options, clients=world.clients, shards=world.shards, bar=bar, part=part, parts=parts)[
        0
    ]
    return [
        Point(setting=kind, ours_ms=found[f"ours-{number}"], raw_ms=found[f"raw-{number}"])
        for number, kind in enumerate(kinds)
    ]


def _kind(grid: Grid, kind: Setting) -> dict[str, Any]:
    """Of a cheap search many in a block, for the clock; of a dear one few."""
    scanned = kind.clients * kind.queries * kind.passages
    batches = min(grid.most_batches, max(FEWEST_BATCHES, SCANNED_IN_A_BLOCK // scanned))
    return {"queries": kind.queries, "hits": kind.hits, "replies": kind.replies, "batches": batches}


def _measures(grid: Grid, points: Sequence[Point]) -> list[Measure]:
    """A line for each place of the grid."""
    measures: list[Measure] = []
    for factor in ("passages", "shards", "clients", "queries", "hits"):
        for number in getattr(grid, factor):
            wanted = varied(grid.base, factor, number)
            point = next(point for point in points if point.setting == wanted)
            name = factor if factor in ("passages", "shards", "clients") else f"shards_{grid.base.shards}_{factor}"
            measures.append(
                Measure(
                    name=f"{name}_{number}", value=point.ours_ms, reference=point.raw_ms, unit="ms a search",
                    is_judged=not grid.is_quick, note="" if measures else _describe(wanted),
                )
            )  # fmt: skip
    return measures


def _phases(grid: Grid, points: Sequence[Point]) -> list[Measure]:
    """Two phases against one, for each number of shards; few hits and many."""
    measures = []
    cost = {point.setting: point.ours_ms for point in points}
    for setting, two_ms in cost.items():
        if setting.replies != "two_phase":
            continue
        size = setting.queries * setting.hits
        lost_bytes = 2 * setting.tokens * size * (setting.shards - 1)
        measures.append(
            Measure(
                name=f"shards_{setting.shards}_two_phase_{size}_hits", value=two_ms,
                reference=cost[replace(setting, replies="whole")], unit="ms a search", is_judged=not grid.is_quick,
                note=f"reference: whole replies; two phases save {lost_bytes / 2**10:.0f} KiB of losing hits' tokens",
            )
        )  # fmt: skip
    return measures


def _of_the_fit(grid: Grid, model: CostModel, error: FitError, out: Path) -> Measure:
    coefficients = ", ".join(f"{name} {value:.3g}" for name, value in asdict(model).items())
    return Measure(
        name="model_of_passages_shards_clients", value=error.median, unit="relative error", is_judged=not grid.is_quick,
        note=f"half of the measured costs are nearer to the model than this, the worst is {error.worst:.0%} away; "
        f"milliseconds: {coefficients}; two phases win {_break_even(model)}; {out / JSON_FILE}, {out / PLOT_FILE}",
    )  # fmt: skip


def _break_even(model: CostModel) -> str:
    """From where on replies in two phases are cheaper by the model, in bytes of tokens that lose."""
    if model.per_token <= 0:
        return "nowhere: tokens cost nothing that could be measured"
    # Two messages more for each shard, against the tokens of the (S - 1) / S of hits that lose.
    kib = [2 * shards * model.per_message / model.per_token * 2 / 2**10 for shards in (2, 8)]
    return f"where losing hits have more than {kib[0]:.0f} KiB of tokens with 2 shards, {kib[1]:.0f} with 8"


def _describe(setting: Setting) -> str:
    return (
        "reference: IndexFlatIP in a client's process, the searches of all clients one after the other, as many "
        f"threads as shards can run at once ({setting.cores} cores here); {setting.passages:,} x {WIDTH}, "
        f"{setting.shards} shard(s), {setting.clients} client(s), {setting.queries} queries, k={setting.hits}, "
        f"{setting.tokens} wordpieces a passage"
    )


def _cores() -> int:
    return len(os.sched_getaffinity(0))
