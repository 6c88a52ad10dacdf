"""`realm-ds bench plan`: what `realm-ds plan` foretells beside what is measured, for three sizes of model, each rank
on one core. The jobs that are timed are plan_jobs.py's.
"""

import functools
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from realm_ds.bench.demo_run import NEVER, DemoRuns
from realm_ds.bench.measure import Bar, Measure, median, spread
from realm_ds.bench.processes import Result, run_alone
from realm_ds.bench.run import Group
from realm_ds.config.hardware import load_hardware
from realm_ds.data.records import NUM_SPECIAL
from realm_ds.observe import progress
from realm_ds.planning.inputs import inputs_of
from realm_ds.planning.layout import Layout
from realm_ds.planning.measuring import with_figures
from realm_ds.planning.plan import Plan, make_plan

NEAR = Bar(limit=0.25, side="within")
HARDWARE = "cpu-2-core"
ONE_EACH = Layout(nodes=1, trainers_per_node=1, index_per_node=1)
"""A trainer on one core, an index rank on the other."""
ENTITIES = 40
"""Of the Factbook: 1,500 passages or so."""
ROUNDS = 3
MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Size:
    """Of a model, of the run to measure with it, and of an index rank's shard."""

    name: str
    layers: int
    hidden: int
    batch: int
    steps: int
    shard: tuple[int, int, int]
    """Numbered passages, the width of their vectors, their wordpieces: few and large, as each takes time to embed."""

    @property
    def settings(self) -> dict[str, Any]:
        """Of a run without a rebuild after the first."""
        return {
            "model.num_layers": self.layers, "model.hidden_size": self.hidden,
            "model.num_heads": max(1, self.hidden // 64), "model.intermediate_size": 4 * self.hidden,
            "pretrain.micro_batch_size": self.batch, "pretrain.steps": self.steps,
            "pretrain.log_every_steps": self.steps, "refresh.every_steps": NEVER, "refresh.adopt_after_steps": NEVER,
            "refresh.probe_queries": 0,
        }  # fmt: skip


FULL = (
    Size(name="demo", layers=2, hidden=128, batch=8, steps=24, shard=(20_000, 1_000, 2_000)),
    Size(name="deep", layers=4, hidden=256, batch=8, steps=9, shard=(30_000, 2_000, 4_000)),
    Size(name="wide", layers=2, hidden=512, batch=4, steps=9, shard=(40_000, 3_000, 6_000)),
)
QUICK = (Size(name="quick", layers=1, hidden=32, batch=4, steps=4, shard=(500, 16, 4)),)


def plan_groups(*, is_quick: bool) -> list[Group]:
    """What the verb can measure."""
    runs, groups = DemoRuns(is_quick=is_quick, num_entities=ENTITIES), []
    for size in QUICK if is_quick else FULL:
        for title, names, run in (
            ("A step", ("step", "memory"), step),
            ("A rebuild", ("refresh",), refresh),
            ("An index rank", ("index_memory",), index_memory),
        ):
            groups.append(
                Group(
                    title=f"{title} planned and measured: {size.name}",
                    names=tuple(f"plan_{name}_{size.name}" for name in names),
                    run=functools.partial(run, size, runs, not is_quick),
                )
            )
    return groups


def step(size: Size, runs: DemoRuns, is_judged: bool, bar: progress.Bar) -> Sequence[Measure]:
    """Time of a trainer's step and what it holds, planned from the figures of that core at that time.

    The median of some runs: a core of a shared machine is a third faster at one time than at another.
    """
    planned_s, took_s, planned_bytes, held_bytes = [], [], [], []
    for _ in range(ROUNDS if is_judged else 1):
        found = runs.run("plan_trained", size.settings, bar=bar, name=size.name)
        plan = _plan_of_step(size, runs, found, bar=bar)
        held = {**plan.trainer.device, **plan.trainer.host}
        planned_s.append(plan.step.step_s)
        # The first steps fill caches and pools.
        took_s.append(median(found["cpu_s"][len(found["cpu_s"]) // 3 :]))
        planned_bytes.append(sum(held.values()))
        held_bytes.append(found["held_bytes"])
    return [
        Measure(
            name=f"plan_step_{size.name}", value=1e3 * median(planned_s), reference=1e3 * median(took_s), unit="ms",
            bar=NEAR, is_judged=is_judged,
            note=f"reference: the processor's time of a step of a run; {spread(planned_s, took_s)}; {size.layers} "
            f"layers of {size.hidden}, {size.batch} queries of 8 candidates, ZeRO-0; the plan was told how many are "
            f"distinct; in the last round {_figures(found)}",
        ),
        Measure(
            name=f"plan_memory_{size.name}", value=median(planned_bytes) / MIB, reference=median(held_bytes) / MIB,
            unit="MiB", bar=NEAR, is_judged=is_judged,
            note=f"reference: the peak of the trainer's process; {spread(planned_bytes, held_bytes)}; planned: "
            + _parts(held),
        ),
    ]  # fmt: skip


def refresh(size: Size, runs: DemoRuns, is_judged: bool, bar: progress.Bar) -> Sequence[Measure]:
    """Embedding the demo's passages, likewise."""
    config = runs.config(size.settings, bar=bar)
    options = {
        "corpus": str(config.data.corpus), "tokenizer": str(config.data.tokenizer), "passages": runs.num_passages,
        "width": config.model.projection_size, "blocks": ROUNDS,
        "tower": {"layers": size.layers, "hidden": size.hidden, "intermediate": 4 * size.hidden,
                  "batch_tokens": config.index.embed_batch_tokens},
    }  # fmt: skip
    found = run_alone("plan_embedded", options, threads=1, bar=bar)
    plan = _plan(size, runs, found["figures"], passages=found["passages"], bar=bar)
    return [
        Measure(
            name=f"plan_refresh_{size.name}", value=plan.refresh.embed_s, reference=median(found["cpu_s"]), unit="s",
            bar=NEAR, is_judged=is_judged,
            note=f"reference: the processor's time for {found['passages']:,} passages of {found['mean_tokens']:.0f} "
            f"wordpieces, the median of {ROUNDS}; {_figures(found)}",
        )
    ]  # fmt: skip


def index_memory(size: Size, runs: DemoRuns, is_judged: bool, bar: progress.Bar) -> Sequence[Measure]:
    """What an index rank holds once the second version of its shard is built, by a small tower."""
    passages, width, tokens = size.shard
    with tempfile.TemporaryDirectory(prefix="realm-bench-") as made:
        tower = {"layers": 1, "hidden": 64, "intermediate": 64, "vocabulary": 65_000, "batch_tokens": 2_048}
        options = {
            "passages": passages, "width": width, "tokens": tokens, "seen_tokens": 1, "tower": tower, "versions": 2,
            "snapshot": str(Path(made) / "snapshot.safetensors"),
        }  # fmt: skip
        run_alone("snapshot", options, threads=1, bar=bar)
        found = run_alone("memory", options, threads=1, bar=bar)
    run = _plan(size, runs, {}, passages=passages, bar=bar).run
    lengths = replace(run.lengths, passages_N=np.array([tokens + NUM_SPECIAL]))
    config = run.config.model_copy(update={"model": run.config.model.model_copy(update={"projection_size": width})})
    planned = make_plan(replace(run, lengths=lengths, config=config)).index.host
    # The weights as they came, and as they are used.
    held = {name: planned[name] for name in ("vectors", "tokens", "passages")} | {"tower": 2.0 * found["model"]}
    return [
        Measure(
            name=f"plan_index_memory_{size.name}", value=sum(held.values()) / MIB, reference=found["peak"] / MIB,
            unit="MiB", bar=NEAR, is_judged=is_judged,
            note=f"reference: what a process with {passages:,} passages of {tokens} wordpieces, vectors {width} wide, "
            f"grew by when its second version was built; planned: {_parts(held)}",
        )
    ]  # fmt: skip


def _plan_of_step(size: Size, runs: DemoRuns, found: Result, *, bar: progress.Bar) -> Plan:
    """With as many distinct passages as were found, which no plan can know."""
    run = _plan(size, runs, found["figures"], passages=runs.num_passages, bar=bar).run
    # The null passage is embedded too.
    distinct = (statistics.mean(found["num_passages"]) - 1) / (size.batch * run.config.pretrain.num_retrieved)
    return make_plan(replace(run, lengths=replace(run.lengths, distinct_share=distinct)))


def _plan(size: Size, runs: DemoRuns, figures: Mapping[str, float], *, passages: int, bar: progress.Bar) -> Plan:
    hardware = with_figures(load_hardware(HARDWARE), figures)
    return make_plan(inputs_of(runs.config(size.settings, bar=bar), ONE_EACH, hardware, passages=passages))


def _figures(found: Result) -> str:
    figures = found["figures"]
    return (
        f"this core: {figures['matmul_fp32'] / 1e9:.0f} G operations a second, "
        f"{figures['bandwidth'] / 1e9:.1f} GB/s, {1e6 * figures['launch_s']:.1f} us to start one"
    )


def _parts(parts: Mapping[str, float]) -> str:
    largest = sorted(((size, name) for name, size in parts.items() if size > MIB), reverse=True)
    return ", ".join(f"{name} {size / MIB:.0f}" for size, name in largest)
