"""`realm-ds bench step`: what a training step costs beside a loop with nothing around it and beside transformers'
REALM, and what of it is the index. What trainers do for it is train_jobs.py's business.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from realm_ds.bench.demo_run import NEVER, DemoRuns
from realm_ds.bench.measure import Bar, Measure, median, spread
from realm_ds.bench.peer import VERSION, peer_environment
from realm_ds.bench.run import Group
from realm_ds.errors import LaunchError
from realm_ds.observe import progress

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is measured."""

    is_quick: bool
    block_steps: int
    """More than pretrain.search_ahead, which are not timed."""
    bare_blocks: int
    peer_batches: int
    peer_blocks: int
    refresh_steps: int
    """Of the run in which the index is rebuilt meanwhile."""
    refresh_every: int
    adopt_after: int
    """Late enough that a rebuild on one core is done by then: else steps would wait for it, as they must."""


FULL = Sizes(
    is_quick=False, block_steps=10, bare_blocks=12, peer_batches=4, peer_blocks=6, refresh_steps=420,
    refresh_every=100, adopt_after=80,
)  # fmt: skip
QUICK = Sizes(
    is_quick=True, block_steps=4, bare_blocks=2, peer_batches=1, peer_blocks=1, refresh_steps=14, refresh_every=6,
    adopt_after=4,
)  # fmt: skip
WHAT = "demo recipe and text, 8 queries of 8 candidates, search ahead 2; trainer and index rank on a core each"


def step_groups(*, is_quick: bool) -> list[Group]:
    """What the verb can measure."""
    sizes, runs = QUICK if is_quick else FULL, DemoRuns(is_quick=is_quick)
    return [
        Group(
            title="A step beside a bare loop", names=("step_bare",), run=functools.partial(beside_bare, sizes, runs, 0)
        ),
        Group(
            title="The same under ZeRO-2", names=("step_zero2_bare",),
            run=functools.partial(beside_bare, sizes, runs, 2),
        ),
        Group(
            title="A step beside transformers' REALM", names=("step_transformers",),
            run=functools.partial(beside_transformers, sizes, runs),
        ),
        Group(
            title="Steps while the index is rebuilt", names=("step_wait", "step_refresh"),
            run=functools.partial(beside_refresh, sizes, runs),
        ),
    ]  # fmt: skip


def beside_bare(sizes: Sizes, runs: DemoRuns, zero: int, bar: progress.Bar) -> Sequence[Measure]:
    """A whole step of a run, from asking the index to writing metrics, against forward, backward and update alone."""
    steps = (sizes.bare_blocks + 1) * sizes.block_steps + 1
    settings = {"pretrain.steps": steps, **_without_refresh(steps)}
    found = runs.run(
        "beside_bare", settings, bar=bar, zero=zero, blocks=sizes.bare_blocks, block_steps=sizes.block_steps
    )
    is_judged_stage = zero == 0
    return [
        Measure(
            name="step_bare" if is_judged_stage else f"step_zero{zero}_bare", value=_step_ms(found["ours_s"]),
            reference=_step_ms(found["bare_s"]), unit="ms",
            bar=Bar(limit=1.1, side="<=") if is_judged_stage else None, is_judged=not sizes.is_quick,
            note="reference: plain PyTorch over the same module, AdamW, clipping and schedule, handed the tensors of "
            f"the same batches ready-made; ours under ZeRO-{zero} also reads, collates, embeds queries, searches, "
            f"logs; {WHAT}; in CPU seconds {found['ours_cpu_s'] / found['bare_cpu_s']:.3f}; losses differ by at most "
            f"{found['farthest']:.1g} of themselves; {_spread(found['ours_s'], found['bare_s'])}",
        )
    ]  # fmt: skip


def beside_transformers(sizes: Sizes, runs: DemoRuns, bar: progress.Bar) -> Sequence[Measure]:
    """Forward, backward and update of the same batches and weights."""
    name, limit = "step_transformers", Bar(limit=2.0)
    bar.update(now=f"making an environment with transformers {VERSION}")
    try:
        python = peer_environment()
    except LaunchError as error:
        return [
            Measure(
                name=name,
                value=float("nan"),
                unit="steps/s",
                bar=limit,
                is_judged=not sizes.is_quick,
                note=f"not measured: {error}",
            )
        ]
    steps = sizes.peer_batches
    settings = {"pretrain.steps": steps, "pretrain.marginal": "per_token", **_without_refresh(steps)}
    found = runs.run("beside_transformers", settings, bar=bar, blocks=sizes.peer_blocks, python=str(python))
    tokens = found["tokens"]
    return [
        Measure(
            name=name, value=1e3 / _step_ms(found["ours_s"]), reference=1e3 / _step_ms(found["peer_s"]),
            unit="steps/s", bar=limit, is_judged=not sizes.is_quick,
            note=f"reference: RealmScorer and RealmKnowledgeAugEncoder of transformers {VERSION}, AdamW of the same "
            "torch, 1 thread; the same weights and batches (each padded to its longest), per-token marginal, its own "
            f"code for the same GELU; losses differ by at most {found['farthest']:.1g} of themselves; it computes "
            f"{tokens['peer'] / tokens['ours']:.2f} times the wordpieces; {_spread(found['peer_s'], found['ours_s'])}",
        )
    ]  # fmt: skip


def beside_refresh(sizes: Sizes, runs: DemoRuns, bar: progress.Bar) -> Sequence[Measure]:
    """Steps of one run, those during which a rebuild was under way against the others, and what all waited."""
    settings = {
        "pretrain.steps": sizes.refresh_steps, "refresh.every_steps": sizes.refresh_every,
        "refresh.adopt_after_steps": sizes.adopt_after,
    }  # fmt: skip
    found = runs.run("observed", settings, bar=bar)
    rows = found["steps"]
    steady = rows[sizes.refresh_every // 2 : -1]  # at first the index is built and waited for, at last comes a save
    beside, idle = by_rebuild(rows, found["builds"])
    waited_s, total_s = sum(row["wait_s"] for row in steady), sum(map(_seconds, steady))
    return [
        Measure(
            name="step_wait", value=100 * waited_s / total_s, unit="% of a step",
            bar=Bar(limit=2, of="value", side="<="), is_judged=not sizes.is_quick,
            note=f"over {len(steady)} steps, {steady[-1]['version']} adoptions among them; an index rebuilt every "
            f"{sizes.refresh_every} steps and adopted {sizes.adopt_after} later; {WHAT}",
        ),
        Measure(
            name="step_refresh", value=_mean_ms(beside), reference=_mean_ms(idle), unit="ms",
            bar=Bar(limit=1.03, side="<="), is_judged=not sizes.is_quick,
            note=f"reference: steps of the same run while nothing is rebuilt; {len(beside)} and {len(idle)} steps, "
            "those at which a rebuild is launched belong to `bench resume`; " + WHAT,
        ),
    ]  # fmt: skip


def by_rebuild(rows: Sequence[Row], builds: Sequence[tuple[float, float]]) -> tuple[list[Row], list[Row]]:
    """Steps throughout which a rebuild was under way, and steps in which none was at all; those in which one began or
    ended are neither. `builds` are their beginnings and ends, on the clock of `ended_at`."""
    beside, idle = [], []
    for row in rows[:-1]:  # at the end of the last one comes a save
        start, stop = row["ended_at"] - _seconds(row), row["ended_at"]
        if any(launched_at <= start and stop <= built_at for launched_at, built_at in builds):
            beside.append(row)
        elif all(stop <= launched_at or built_at <= start for launched_at, built_at in builds):
            idle.append(row)
    return beside, idle


def _without_refresh(steps: int) -> dict[str, Any]:
    return {"refresh.every_steps": NEVER, "refresh.adopt_after_steps": max(2, steps), "refresh.probe_queries": 0}


def _seconds(row: Row) -> float:
    return float(row["drawn_s"] + row["after_s"])


def _mean_ms(rows: Sequence[Row]) -> float:
    """NaN of none: a tiny index is built within a step."""
    return 1e3 * sum(map(_seconds, rows)) / len(rows) if rows else float("nan")


def _step_ms(blocks: Sequence[Sequence[float]]) -> float:
    """The median of the blocks' means: of single steps it would pass over those that also write metrics."""
    return 1e3 * median([sum(block) / len(block) for block in blocks])


def _spread(values: Sequence[Sequence[float]], references: Sequence[Sequence[float]]) -> str:
    return spread(list(map(sum, values)), list(map(sum, references)))
