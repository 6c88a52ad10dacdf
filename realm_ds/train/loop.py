"""The one loop around optimizer steps: metrics and checkpoints when they are due, in sight. Stages supply the steps."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from realm_ds.config.base import StageName
from realm_ds.config.stages import StageConfig
from realm_ds.data.redeal import StreamState
from realm_ds.models.objectives import Measures
from realm_ds.observe.meters import Meters
from realm_ds.observe.progress import describe_step
from realm_ds.train import checkpoint
from realm_ds.train.checkpoint import IndexState, TrainState
from realm_ds.train.engine import Engine
from realm_ds.train.figures import RATES, Workload, memory
from realm_ds.train.stage import Stage
from realm_ds.train.timing import TIMES

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class StepInfo:
    """One optimizer step, done."""

    step: int
    """1-based: steps done, this one included."""
    streams: Mapping[str, StreamState]
    """By name, after the last record of the step."""
    measures: Sequence[Measures]
    """Of each micro-batch."""
    wait_s: float = 0.0
    """Seconds of the step in which this trainer waited for the index."""
    figures: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Further means over steps and trainers, as (value, weight). The names are the same in every step of every trainer,
    if only with weight 0."""
    facts: Mapping[str, float] = field(default_factory=dict)
    """What has no mean: the same on all trainers, such as the index version, or known to trainer 0 alone."""
    index: Callable[[], IndexState] | None = None
    """For the checkpoint, as of this step."""


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a stage ended."""

    step: int
    """Steps done, in this run and those that it went on from."""
    is_early: bool
    """It was asked to; what it has done is in the checkpoint of this step, if it has done any."""


def seed_step(seed: int, *, trainer_rank: int, step: int) -> None:
    """Dropout as a function of the step, so that no random state has to be saved to resume exactly."""
    # Modulo: torch takes 64 bits, and a seed like 20250131 would need more.
    torch.manual_seed(((seed * 1_000_003 + trainer_rank) * 1_000_003 + step) % 2**63)


def run_steps(
    infos: Iterator[StepInfo], *, name: StageName, stage: Stage, engine: Engine, settings: StageConfig, first_step: int,
    evaluate: Callable[[int], None] | None = None,
) -> Ending:  # fmt: skip
    """Draw every step of a stage; write metrics and checkpoints when due, and always at the end.

    `evaluate` is called after every step with the number of steps done, and knows itself when it is due. A signal ends
    the stage after the step at hand, on all trainers alike, with its row of metrics and a checkpoint, but without an
    evaluation: batch systems kill soon after they signal. That step stays unmeasured, since whoever resumes may not
    have the index any more that it was trained with.
    """
    report = _Report(name, stage=stage, engine=engine, settings=settings, first_step=first_step)
    save = partial(_save, name=name, stage=stage, engine=engine, fixed=stage.fixed_settings(name))
    last, logged_step, saved_step = None, first_step, first_step
    for info in infos:
        last, is_last = info, info.step == settings.steps
        report.take(info)
        if info.step % settings.log_every_steps == 0 or is_last or info.step == first_step + 1:
            report.write(info)
            logged_step = info.step
        if not is_last and stage.must_leave():
            break
        if evaluate is not None:  # before the checkpoint: a run that is stopped in between measures this step again
            with stage.timer.phase("evaluate"):
                evaluate(info.step)
        if info.step % settings.save_every_steps == 0 or is_last:
            save(info)
            saved_step = info.step
        stage.writer.check()
    if last is not None and last.step > logged_step:
        report.write(last)
    stage.pulse.steps_over()
    if last is not None and last.step > saved_step:
        save(last)
    stage.writer.drain()
    done = last.step if last is not None else first_step
    return Ending(step=done, is_early=done < settings.steps)


class _Report:
    """Means since the last row of metrics, and the row."""

    def __init__(
        self, name: StageName, *, stage: Stage, engine: Engine, settings: StageConfig, first_step: int
    ) -> None:
        self._name, self._stage, self._engine, self._settings = name, stage, engine, settings
        self._step = first_step
        self._workload = Workload(engine.module, device=stage.device, dtype=engine.compute_dtype)
        self._meters: Meters | None = None
        stage.sinks.write(
            "start", step=first_step, steps=settings.steps, trainers=stage.trainers.size,
            peak_tflops=self._workload.peak_flops / 1e12,
        )  # fmt: skip
        stage.timer.drain(1)

    def take(self, info: StepInfo) -> None:
        self._stage.pulse.step_done(info.step)
        pairs = list(_pairs(info))
        self._meters = self._meters or Meters([*dict.fromkeys(name for name, _, _ in pairs), *TIMES, *RATES])
        for name, value, weight in pairs:
            self._meters.add(name, value, weight)

    def write(self, info: StepInfo) -> None:
        """Collective of trainers."""
        assert self._meters is not None
        num_steps, self._step = info.step - self._step, info.step
        times = self._stage.timer.drain(num_steps)
        for name, value in (times | self._workload.drain(num_steps * times["step_ms"] / 1e3)).items():
            self._meters.add(name, value, num_steps)
        means = self._meters.drain(self._stage.trainers.all_reduce_sum)
        means["tokens_per_s"] *= self._stage.trainers.size
        row = {**means, **info.facts, **self._engine.facts(), **memory(self._stage.device, self._stage.trainers)}
        self._stage.sinks.write("step", step=info.step, steps=self._settings.steps, **row)
        log.info("%s step %d/%d: %s", self._name, info.step, self._settings.steps, describe_step(row))


def _save(info: StepInfo, *, name: StageName, stage: Stage, engine: Engine, fixed: Mapping[str, str]) -> None:
    """Write the checkpoint of a step that is done; it is published behind the steps to come. Collective."""
    runtime, settings, trainers = stage.config.runtime, engine.stage, stage.trainers
    started_at = time.perf_counter()
    state = TrainState(
        stage=name, step=info.step, num_trainers=trainers.size, zero_stage=engine.zero_stage, on_disk=engine.is_on_disk,
        global_batch=trainers.size * settings.micro_batch_size * settings.gradient_accumulation_steps,
        streams=info.streams, groups=engine.groups(), fixed=fixed,
        index=info.index() if info.index is not None else None,
    )  # fmt: skip
    with stage.timer.phase("checkpoint"):
        checkpoint.save(
            engine, stage.folder, state=state, trainers=trainers, writer=stage.writer,
            keep=partial(checkpoint.kept_steps, last=runtime.keep_last, every=runtime.keep_every_steps),
            timeout_s=runtime.wait_timeout_s,
        )  # fmt: skip
    stage.sinks.write("saved", step=info.step, stall_ms=1e3 * (time.perf_counter() - started_at))


def _pairs(info: StepInfo) -> Iterator[tuple[str, Any, float]]:
    """Everything of a step that has a mean: (name, value, weight)."""
    for measured in info.measures:
        for name, (value, weight) in measured.values.items():
            yield name, value, weight
    for name, (value, weight) in info.figures.items():
        yield name, value, weight
