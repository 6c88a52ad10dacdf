"""`realm-ds bench memory`: what each of four trainers holds of a model under every ZeRO stage, against ZeRO-0, where it
holds all. What trainers do for it is memory_jobs.py's business.
"""

import functools
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from realm_ds.bench.measure import Bar, Measure
from realm_ds.bench.processes import Result, run_in_world
from realm_ds.bench.run import Group
from realm_ds.bench.train_ranks import MODULE
from realm_ds.config.deepspeed import packaged_deepspeed
from realm_ds.config.load import RUN_CONFIG, dump, load
from realm_ds.observe import progress

LIMIT = 0.30


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Of the model; parameters of under 10,000 numbers stay whole under ZeRO-3, so it must be large enough for weights
    to be what counts."""

    is_quick: bool
    trainers: int
    stages: tuple[int, ...]
    """Beside ZeRO-0."""
    settings: Mapping[str, Any]
    vocabulary: int


FULL = Sizes(
    is_quick=False, trainers=4, stages=(3, 2, 1), vocabulary=30_000,
    settings={"model.num_layers": 4, "model.hidden_size": 512, "model.num_heads": 8, "model.intermediate_size": 2048,
              "model.projection_size": 128},
)  # fmt: skip
QUICK = Sizes(is_quick=True, trainers=2, stages=(3,), settings={}, vocabulary=2_000)


def memory_groups(*, is_quick: bool) -> list[Group]:
    """What the verb can measure."""
    sizes = QUICK if is_quick else FULL
    names = tuple(f"zero{stage}_{what}" for stage in sizes.stages for what in ("state", "process"))
    return [Group(title="Memory of each trainer", names=names, run=functools.partial(state, sizes))]


def state(sizes: Sizes, bar: progress.Bar) -> Sequence[Measure]:
    """A world for every stage: what a process has once held shows in its memory for good."""
    held = {stage: _hold(sizes, stage, bar, part=part) for part, stage in enumerate((0, *sizes.stages))}
    whole = max(map(state_bytes, held[0]))
    measures = []
    for stage in sizes.stages:
        largest = max(held[stage], key=state_bytes)
        parts = ", ".join(f"{largest[name] / 2**20:.1f} of {name}" for name in ("weights", "optimizer", "gradients"))
        measures += [
            Measure(
                name=f"zero{stage}_state", value=state_bytes(largest) / 2**20, reference=whole / 2**20, unit="MiB",
                bar=Bar(limit=LIMIT, side="<=") if stage == 3 else None, is_judged=not sizes.is_quick,
                note=f"weights and optimizer state of the trainer of {sizes.trainers} that holds most, after two "
                f"steps; reference: ZeRO-0's; {largest['parameters'] / 1e6:.1f} M parameters in fp32; MiB: {parts}",
            ),
            Measure(
                name=f"zero{stage}_process", value=_process_mib(held[stage]), reference=_process_mib(held[0]),
                unit="MiB", is_judged=not sizes.is_quick,
                note="what the largest of the processes grew by: activations, buffers of ZeRO's collectives (4 bytes "
                "for each of the JSON's reduce_bucket_size under ZeRO-3) and what the allocator keeps are in it",
            ),
        ]  # fmt: skip
    return measures


def state_bytes(found: Mapping[str, int]) -> int:
    """What the bar is about: gradients come and go."""
    return found["weights"] + found["optimizer"]


def _process_mib(held: Sequence[Mapping[str, int]]) -> float:
    return max(found["process"] for found in held) / 2**20


def _hold(sizes: Sizes, stage: int, bar: progress.Bar, *, part: int) -> list[Result]:
    with tempfile.TemporaryDirectory(prefix="realm-bench-") as made:
        nowhere = Path(made) / "no-data"
        changed = {
            "data.corpus": nowhere, "data.tokenizer": nowhere, "pretrain.micro_batch_size": 2,
            "pretrain.candidates": 2, "runtime.deepspeed": packaged_deepspeed(f"zero{stage}"), **sizes.settings,
        }  # fmt: skip
        config = Path(made) / RUN_CONFIG
        config.write_text(dump(load("demo", [f"{name}={value}" for name, value in changed.items()])), encoding="utf-8")
        options = {"config": str(config), "run": made, "vocabulary": sizes.vocabulary}
        return run_in_world(
            "resident",
            options,
            clients=sizes.trainers,
            shards=0,
            bar=bar,
            part=part,
            parts=1 + len(sizes.stages),
            module=MODULE,
        )
