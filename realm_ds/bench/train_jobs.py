"""What trainers measure of their own steps, in a run as in production. What the numbers must reach is step.py's and
resume.py's business.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from realm_ds.bench.bare_loop import BareLoop, Recorder
from realm_ds.bench.peer_batch import padded_tokens, write_work
from realm_ds.bench.processes import Result, write_progress
from realm_ds.config.deepspeed import load_deepspeed
from realm_ds.config.stages import StageConfig
from realm_ds.errors import LaunchError
from realm_ds.index.messages import MESSAGES
from realm_ds.models.objectives import MarginalBatch, MarginalObjective
from realm_ds.observe.sinks import metrics_path, read_events
from realm_ds.train.engine import Engine
from realm_ds.train.loop import StepInfo, run_steps
from realm_ds.train.optimizer import learning_rate_factor
from realm_ds.train.pretrain import STAGE, Pretraining, objective_of, prepare
from realm_ds.train.stage import Stage

Options = Mapping[str, Any]
SAME_LOSS = 1e-3
"""Relative: sums of another order differ in the last digits, and some ten updates make a little more of it."""


def beside_bare(stage: Stage, options: Options, *, folder: Path) -> Result:
    """Seconds of each of our steps and of the same steps in a bare loop, in blocks that take turns."""
    settings = stage.config.pretrain
    training = _open(stage, resume=False)
    bare = BareLoop(objective_of(stage.model(), settings), stage=settings, optimizer=stage.config.optimizer)
    recorder = Recorder(training.engine.module)
    found: Result = {"ours_s": [], "bare_s": [], "ours_cpu_s": 0.0, "bare_cpu_s": 0.0, "farthest": 0.0}

    def take_turns(infos: Iterator[StepInfo]) -> Iterator[StepInfo]:
        """Bare blocks run between the steps that the loop draws: all that it does around a step is in its time."""
        for block in range(options["blocks"] + 1):
            took_s, cpu_before = [], time.process_time()
            for place in range(options["block_steps"]):
                started_at = time.perf_counter()
                info = next(infos)
                yield info
                # While the bare block ran, the index has answered what was asked ahead: those steps had it too easy.
                if place >= settings.search_ahead:
                    took_s.append(time.perf_counter() - started_at)
            cpu_s = time.process_time() - cpu_before
            batches, losses = recorder.take()
            bare_took_s, cpu_before = [], time.process_time()
            for place, batch in enumerate(batches):
                started_at = time.perf_counter()
                loss = bare.step([batch], step=block * options["block_steps"] + place)
                if place >= settings.search_ahead:
                    bare_took_s.append(time.perf_counter() - started_at)
                found["farthest"] = max(found["farthest"], apart(loss.item(), losses[place]))
            if block > 0:  # the first warms up
                found["ours_s"].append(took_s)
                found["bare_s"].append(bare_took_s)
                found["ours_cpu_s"] += cpu_s
                found["bare_cpu_s"] += time.process_time() - cpu_before
            write_progress(folder, done=block, total=options["blocks"], now="training in turns")
        yield from infos

    _run(stage, training, take_turns(training.steps))
    return found


def observed(
    stage: Stage, options: Options, *, folder: Path, before: Callable[[Pretraining], object] = lambda training: None
) -> Result:
    """Of every step of a run: seconds to draw it and after it, of the processor too, waiting for the index, the version
    asked. And when each version was launched and built, and what was logged of steps. `before` is called before the
    first step."""
    training = _open(stage, resume=options["resume"])
    before(training)
    last = stage.config.pretrain.steps
    rows: list[Result] = []

    def watch(infos: Iterator[StepInfo]) -> Iterator[StepInfo]:
        while True:
            started_at, cpu_before = time.perf_counter(), time.process_time()
            info = next(infos, None)
            if info is None:
                return
            drawn_at = time.perf_counter()
            yield info  # here the loop writes metrics and checkpoints
            rows.append(
                {
                    "step": info.step,
                    "drawn_s": drawn_at - started_at,
                    "after_s": time.perf_counter() - drawn_at,
                    "cpu_s": time.process_time() - cpu_before,
                    "wait_s": info.wait_s,
                    "version": info.facts["version"],
                    "ended_at": time.time(),
                }
            )
            write_progress(folder, done=info.step, total=last, now="training")

    _run(stage, training, watch(training.steps))
    events = metrics_path(folder, role="trainer", role_rank=stage.trainers.rank)
    times = [{event["version"]: event["time"] for event in read_events(events, event=name)}
             for name in ("launched", "built")]  # fmt: skip
    builds = [(at, times[1].get(version, math.inf)) for version, at in times[0].items()]
    return {"steps": rows, "builds": builds, "logged": list(read_events(events, event="step"))}


def beside_transformers(stage: Stage, options: Options, *, folder: Path) -> Result:
    """Seconds of each step of our engine and of transformers' REALM over the same real batches, in turns."""
    from realm_ds.bench.peer import Peer

    config, settings, blocks = stage.config, stage.config.pretrain, options["blocks"]
    batches = _real_batches(stage)
    model = stage.model()
    engine = _engine(stage, objective_of(model, settings))
    made = folder / "peer"
    made.mkdir()
    factors = [_rate_factor(settings, step) for step in range((blocks + 1) * len(batches))]
    write_work(made, model=model, batches=batches, config=config, rate_factors=factors)
    found: Result = {"ours_s": [], "peer_s": [], "farthest": 0.0, "tokens": padded_tokens(batches)}
    with Peer(Path(options["python"]), made, program="peer_step.py") as peer:

        def ours(block: int) -> tuple[list[float], list[float]]:
            took_s, losses = [], []
            for place, batch in enumerate(batches):
                started_at = time.perf_counter()
                (measured,) = engine.train_step([batch], step=block * len(batches) + place)
                took_s.append(time.perf_counter() - started_at)
                losses.append(measured.loss.item())
            return took_s, losses

        for block in range(blocks + 1):
            (took_s, losses), told = ours(block), peer.ask(str(len(batches)))
            found["farthest"] = max(found["farthest"], *map(apart, losses, told["losses"]))
            if block > 0:  # the first warms up
                found["ours_s"].append(took_s)
                found["peer_s"].append(told["took_s"])
            write_progress(folder, done=block, total=blocks, now="training in turns")
    return found


def _real_batches(stage: Stage) -> list[MarginalBatch]:
    """Of the first steps of a run, as many as it has."""
    training = _open(stage, resume=False)
    recorder = Recorder(training.engine.module)
    for _ in training.steps:
        pass
    training.client.close()
    batches, _ = recorder.take()
    recorder.close()
    return batches


def _engine(stage: Stage, objective: MarginalObjective) -> Engine:
    config = stage.config
    return Engine(
        objective, stage=config.pretrain, optimizer=config.optimizer,
        deepspeed_json=load_deepspeed(config.runtime.deepspeed), num_trainers=stage.trainers.size,
    )  # fmt: skip


def _rate_factor(settings: StageConfig, step: int) -> float:
    return learning_rate_factor(step, steps=settings.steps, warmup_steps=settings.num_warmup_steps)


def _open(stage: Stage, *, resume: bool) -> Pretraining:
    config = stage.config
    mailbox = stage.world.mailbox(MESSAGES, timeout_s=config.runtime.wait_timeout_s)
    return prepare(stage, mailbox, deepspeed_json=load_deepspeed(config.runtime.deepspeed), resume=resume)


def _run(stage: Stage, training: Pretraining, infos: Iterator[StepInfo]) -> None:
    """The loop as it is in production, but for who looks on; nothing is evaluated."""
    settings, first_step = stage.config.pretrain, training.first_step
    run_steps(infos, name=STAGE, stage=stage, engine=training.engine, settings=settings, first_step=first_step)
    training.client.close()


def apart(loss: float, other: float) -> float:
    """How far two losses differ, as a share of one. Raises LaunchError where it is too far: a ratio of different work
    means nothing."""
    share = abs(loss - other) / abs(other)
    if not share <= SAME_LOSS:  # nor where either is no number
        raise LaunchError(
            f"losses of the two sides differ by {share:.2g} of themselves, more than {SAME_LOSS}: they do not do the "
            "same work, so their times cannot be compared"
        )
    return share
