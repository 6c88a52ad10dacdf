"""REALM pre-training from a trainer's side: refresh, search ahead, retrieve, predict (section 3, Figure 2).

The index ranks' side is index/server.py's. They share one rule: an index version is a function of the step.
"""

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

from realm_ds.comm.mailbox import Mailbox
from realm_ds.config.base import StageName
from realm_ds.config.stages import PretrainConfig
from realm_ds.data.masking import MaskedExample
from realm_ds.data.redeal import StreamState
from realm_ds.data.stream import ExampleStream
from realm_ds.index.client import IndexClient
from realm_ds.index.versions import Schedule
from realm_ds.models.objectives import MarginalObjective
from realm_ds.models.realm import RealmModel, frozen_tower
from realm_ds.models.towers import Embedder, Towers
from realm_ds.train.engine import Engine
from realm_ds.train.evaluate import evaluation_of
from realm_ds.train.loop import Ending, StepInfo, run_steps, seed_step
from realm_ds.train.probes import ProbeRecorder, probes_of
from realm_ds.train.refresh import BuildWatch, CurrentTower, Launcher, QueryTowers
from realm_ds.train.resume import Resumed, go_on
from realm_ds.train.search_ahead import MicroBatch, Retrieved, SearchAhead, exclusion_of
from realm_ds.train.service import index_client, index_launcher, index_recall, launch_if_due, leave_index
from realm_ds.train.stage import Stage
from realm_ds.train.staleness import Probe, Staleness

STAGE: StageName = "pretrain"
EXAMPLES = "examples"
"""The stream of sentences of X."""


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """One trainer's part of a run, before its next step."""

    engine: Engine
    client: IndexClient
    steps: Iterator[StepInfo]
    """Each is trained when it is drawn."""
    first_step: int
    evaluate: Callable[[int], None] | None
    """Called after every step with the number of steps done."""


def pretrain(stage: Stage, mailbox: Mailbox, *, deepspeed_json: Mapping[str, Any], resume: bool) -> Ending:
    """Train to pretrain.steps, from the newest checkpoint if `resume`; then let the index ranks go."""
    training = prepare(stage, mailbox, deepspeed_json=deepspeed_json, resume=resume)
    ending = run_steps(
        training.steps, name=STAGE, stage=stage, engine=training.engine, settings=stage.config.pretrain,
        first_step=training.first_step, evaluate=training.evaluate,
    )  # fmt: skip
    leave_index(stage, training.client, early=ending.is_early)
    return ending


def objective_of(model: RealmModel, settings: PretrainConfig) -> MarginalObjective:
    """What a step computes, as the settings have it."""
    return MarginalObjective(
        model, form=settings.marginal, temperature=settings.temperature, has_null=settings.null_passage
    )


def prepare(stage: Stage, mailbox: Mailbox, *, deepspeed_json: Mapping[str, Any], resume: bool) -> Pretraining:
    """Everything up to the first step: weights, optimizer and index versions as the run starts or goes on with them."""
    config, settings = stage.config, stage.config.pretrain
    model = stage.model()
    engine = Engine(
        objective_of(model, settings),
        stage=settings,
        optimizer=config.optimizer,
        deepspeed_json=deepspeed_json,
        num_trainers=stage.trainers.size,
    )
    resumed = go_on(engine, stage, STAGE) if resume else Resumed()
    first_step, index = resumed.step, resumed.index
    schedule = Schedule(config.refresh, launches=index.launches if index else ())
    towers = QueryTowers(partial(_tower_on_device, stage), schedule=schedule)
    launcher = index_launcher(
        stage, mailbox, engine=engine, towers=Towers(query=model.query_tower, passage=model.passage_tower),
        schedule=schedule, hold=towers.hold,
    )  # fmt: skip
    client = index_client(stage, mailbox)
    launcher.relaunch(first_step)
    staleness = Staleness(
        probe=_probe(stage), schedule=schedule, towers=towers, client=client, trainers=stage.trainers,
        sinks=stage.sinks, state=index,
    )  # fmt: skip
    probes = ProbeRecorder(stage, probes_of(stage), schedule=schedule, towers=towers, client=client)
    tower_at = towers.at
    if settings.retrieve_with == "current":
        tower_at = CurrentTower(
            _tower_on_device(stage), schedule=schedule, copy_weights=partial(engine.copy_weights, model.query_tower)
        ).at
    ahead = _search_ahead(stage, tower_at, client, first_step=first_step, states=resumed.stream(EXAMPLES))
    steps = _steps(
        stage, engine, launcher=launcher, client=client, schedule=schedule, staleness=staleness, probes=probes,
        ahead=ahead, first_step=first_step,
    )  # fmt: skip
    evaluate = evaluation_of(
        stage, engine, model=model, towers=towers, client=client, first_step=first_step
    )  # fmt: skip
    return Pretraining(engine=engine, client=client, steps=steps, first_step=first_step, evaluate=evaluate)


def _steps(
    stage: Stage,
    engine: Engine,
    *,
    launcher: Launcher,
    client: IndexClient,
    schedule: Schedule,
    staleness: Staleness,
    probes: ProbeRecorder,
    ahead: SearchAhead,
    first_step: int,
) -> Iterator[StepInfo]:
    collator, rank, timer = stage.collator(), stage.trainers.rank, stage.timer
    builds = BuildWatch(stage.corpus.count, sinks=stage.sinks)
    for step in range(first_step, stage.config.pretrain.steps):
        launch_if_due(stage, launcher, step)
        if step == first_step or schedule.adoption_at(step) is not None:
            # The version may still be being built, for minutes: who is asked to end meanwhile does not wait for it.
            with timer.phase("queries"):
                ahead.ask(step)
                ahead.wait(unless=lambda: stage.notice.is_given)
            if stage.must_leave():
                return
        with timer.phase("queries"):
            retrieved = ahead.take(step)
            staleness.ask(step)
            probes.ask(step)
        with timer.phase("data"):
            inputs = [collator.marginal(part.examples, part.candidates) for part in retrieved]
        seed_step(stage.config.runtime.seed, trainer_rank=rank, step=step)
        measures = engine.train_step(inputs, step=step, timer=timer)
        probe_wait_s = probes.record(step) + staleness.measure(step)
        builds.take(client.build_reports())
        wait_s = sum(part.candidates.wait_s for part in retrieved)
        timer.move(wait_s, source="queries", to="wait_for_index")
        timer.add("wait_for_index", probe_wait_s)
        search_ms = sum(part.candidates.search_ms for part in retrieved) / len(retrieved)
        yield StepInfo(
            step=step + 1,
            streams={EXAMPLES: retrieved[-1].state},
            measures=measures,
            wait_s=wait_s + probe_wait_s,
            figures={"search_ms": (search_ms, 1.0), "index_recall": index_recall(client)},
            facts={
                "version": retrieved[0].candidates.version,
                "staleness_steps": schedule.age_in_steps(step),
                "retrieved_crc32": _digest(retrieved),
                **builds.facts(),
                **({} if staleness.changed_share is None else {"changed_share": staleness.changed_share}),
            },
            index=staleness.state,
        )


def _search_ahead(
    stage: Stage, tower_at: Callable[[int], tuple[int, Embedder]], client: IndexClient, *, first_step: int,
    states: Sequence[StreamState],
) -> SearchAhead:  # fmt: skip
    settings = stage.config.pretrain
    return SearchAhead(
        micro_batches=_micro_batches(stage, states),
        micro_batches_per_step=settings.gradient_accumulation_steps,
        collator=stage.collator(),
        tower_at=tower_at,
        client=client,
        timer=stage.timer,
        exclude=partial(exclusion_of, index=stage.config.index),
        num_hits=settings.num_retrieved,
        ahead=settings.search_ahead,
        first_step=first_step,
        last_step=settings.steps - 1,
    )


def _probe(stage: Stage) -> Probe:
    """The first sentences of this trainer's stream, wherever the run goes on."""
    config = stage.config
    examples = islice(_masked(stage, ()), config.refresh.probe_queries)
    return Probe(
        examples=[example for example, _ in examples],
        collator=stage.collator(),
        exclude=partial(exclusion_of, index=config.index),
        num_hits=config.pretrain.num_retrieved,
    )


def _digest(retrieved: Sequence[Retrieved]) -> int:
    """Of the uids that this trainer retrieved in a step: two runs of one seed can be held against each other."""
    return zlib.crc32(b"".join(part.candidates.uids_BK.tobytes() for part in retrieved))


def _micro_batches(stage: Stage, states: Sequence[StreamState]) -> Iterator[MicroBatch]:
    """Masked sentences of X in micro-batches, without end, each with the stream's state after it."""
    examples: list[MaskedExample] = []
    for example, after in _masked(stage, states):
        examples.append(example)
        if len(examples) == stage.config.pretrain.micro_batch_size:
            yield examples, after
            examples = []


def _masked(stage: Stage, states: Sequence[StreamState]) -> Iterator[tuple[MaskedExample, StreamState]]:
    """This trainer's sentences of X, masked, from where `states`, all trainers' own, left off."""
    config = stage.config
    stream = ExampleStream(
        stage.pretrain_shards(),
        seed=config.runtime.seed,
        reader=stage.trainers.rank,
        num_readers=stage.trainers.size,
        shuffle_shards=config.data.shuffle_shards,
        shuffle_records=config.data.shuffle_records,
        timeout_s=config.runtime.wait_timeout_s,
    )
    stream.go_on(states)
    return stage.masked(stream, seed=config.runtime.seed)


def _tower_on_device(stage: Stage) -> Embedder:
    config, vocab_size = stage.config, stage.tokenizer.vocab_size
    return frozen_tower(config.model, vocab_size=vocab_size, max_tokens=config.data.joint_tokens).to(stage.device)
