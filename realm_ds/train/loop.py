"""The one loop around optimizer steps: metrics and checkpoints when they are due, in sight. Stages supply the steps."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from realm_ds.config.base import StageName
from realm_ds.config.stages import StageConfig
from realm_ds.data.stream import StreamState
from realm_ds.models.objectives import Measures
from realm_ds.observe.meters import Meters
from realm_ds.observe.progress import describe_step
from realm_ds.train import checkpoint
from realm_ds.train.checkpoint import IndexState, TrainState
from realm_ds.train.engine import Engine
from realm_ds.train.stage import Stage

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class StepInfo:
    """One optimizer step, done."""

    step: int
    """1-based: steps done, this one included."""
    stream: StreamState
    """After the last example of the step."""
    measures: Sequence[Measures]
    """Of each micro-batch."""
    waits: Mapping[str, float] = field(default_factory=dict)
    """Further figures of the step, averaged over steps and trainers."""
    shares: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Likewise, as (value, weight). The names are the same in every step of every trainer, if only with weight 0."""
    facts: Mapping[str, float] = field(default_factory=dict)
    """What has no mean: the same on all trainers, such as the index version, or known to trainer 0 alone."""
    index: Callable[[], IndexState] | None = None
    """For the checkpoint, as of this step."""


def seed_step(seed: int, *, trainer_rank: int, step: int) -> None:
    """Dropout as a function of the step, so that no random state has to be saved to resume exactly."""
    # Modulo: torch takes 64 bits, and a seed like 20250131 would need more.
    torch.manual_seed(((seed * 1_000_003 + trainer_rank) * 1_000_003 + step) % 2**63)


def run_steps(
    infos: Iterator[StepInfo], *, name: StageName, stage: Stage, engine: Engine, settings: StageConfig, first_step: int,
    evaluate: Callable[[int], None] | None = None,
) -> None:  # fmt: skip
    """Draw every step of a stage; write metrics and checkpoints when due, and always at the end.

    `evaluate` is called after every step with the number of steps done, and knows itself when it is due.
    """
    trainers, runtime, sinks = stage.trainers, stage.config.runtime, stage.sinks
    sinks.write("start", step=first_step, steps=settings.steps, trainers=trainers.size)
    meters, started_at = None, time.perf_counter()
    for info in infos:
        pairs = [*_pairs(info), ("step_ms", 1e3 * (time.perf_counter() - started_at), 1.0)]
        meters = meters or Meters(list(dict.fromkeys(name for name, _, _ in pairs)))
        for meter, value, weight in pairs:
            meters.add(meter, value, weight)
        is_last = info.step == settings.steps
        if info.step % settings.log_every_steps == 0 or is_last or info.step == first_step + 1:
            means = meters.drain(trainers.all_reduce_sum)
            row = {**means, **info.facts}
            sinks.write("step", step=info.step, steps=settings.steps, **row)
            log.info("%s step %d/%d: %s", name, info.step, settings.steps, describe_step(row))
        if evaluate is not None:  # before the checkpoint: a run that is stopped in between measures this step again
            evaluate(info.step)
        if info.step % settings.save_every_steps == 0 or is_last:
            state = TrainState(
                stage=name, step=info.step, num_trainers=trainers.size, stream=info.stream,
                fixed=stage.fixed_settings(name), index=info.index() if info.index is not None else None,
            )  # fmt: skip
            checkpoint.save(
                engine, stage.folder, state=state, trainers=trainers,
                keep=runtime.keep_last, timeout_s=runtime.wait_timeout_s,
            )  # fmt: skip
            sinks.write("saved", step=info.step)
        started_at = time.perf_counter()


def _pairs(info: StepInfo) -> Iterator[tuple[str, Any, float]]:
    """Everything of a step that has a mean: (name, value, weight)."""
    for measured in info.measures:
        for name, (value, weight) in measured.values.items():
            yield name, value, weight
    for name, value in info.waits.items():
        yield name, value, 1.0
    for name, (value, weight) in info.shares.items():
        yield name, value, weight
