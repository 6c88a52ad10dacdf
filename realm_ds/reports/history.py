"""What happened in a run, read from its folder alone: settings, steps, index versions, waits, probes, as plain numbers.

Works on runs of any stage, while they go on and afterwards. What is drawn or said of it is the reader's business.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from realm_ds.config.base import StageName
from realm_ds.config.load import RUN_CONFIG, load
from realm_ds.config.schema import RealmConfig
from realm_ds.errors import DataError
from realm_ds.observe.progress import HELD_OUT
from realm_ds.observe.sinks import metrics_path, read_events
from realm_ds.observe.table import PHASES
from realm_ds.reports.ranks import Environment, RankHistory, Row, last_of, number_of, read_environment, read_ranks
from realm_ds.reports.runs import STAGES
from realm_ds.reports.scores import read_scores

SPLITS = ("dev", "test")


@dataclass(frozen=True, kw_only=True)
class World:
    """One start of the run's ranks: the first, and one for each time that it was gone on with."""

    started_at: float
    """Seconds since 1970."""
    took_s: float
    """Up to the last thing that trainer 0 wrote."""
    first_step: int
    """Steps that were done before."""
    trainers: int


@dataclass(frozen=True, kw_only=True)
class IndexVersion:
    """One version of the index. What is None has not happened yet, or was not recorded."""

    number: int
    launched_step: int | None
    """Optimizer steps done when its snapshot was taken."""
    adopted_step: int | None
    """Steps done before the first one that it answered."""
    build_s: float | None
    """Of the slowest index rank."""
    changed_share: float | None
    """Share of the hits of the same queries that its adoption changed."""

    @property
    def age_at_adoption(self) -> int | None:
        """In steps; it grows by one with each step that the version answers."""
        if self.launched_step is None or self.adopted_step is None:
            return None
        return self.adopted_step - self.launched_step


@dataclass(frozen=True, kw_only=True)
class Hit:
    """A passage that a probe found."""

    uid: int
    title: str
    text: str
    """Its beginning."""
    score: float
    p: float
    """p(z|x) among what was found and, where it was a candidate, the null passage."""
    is_right: bool | None
    """Whether it is a gold passage or holds an answer; None where the probe has neither."""


@dataclass(frozen=True, kw_only=True)
class ProbeFinding:
    """What one version of the index found for one probe, best first."""

    version: int
    step: int
    """Steps done before the first one that the version answered."""
    null_p: float | None
    """p(null|x); None where there was no null passage, or no telling."""
    hits: tuple[Hit, ...]


@dataclass(frozen=True, kw_only=True)
class ProbeHistory:
    """A fixed query, and what each version of the index found for it."""

    query: str
    answers: tuple[str, ...]
    findings: tuple[ProbeFinding, ...]
    """By version."""


@dataclass(frozen=True, kw_only=True)
class RunHistory:
    """One run, as it now stands: what a start from a checkpoint did again counts once, as it was done last."""

    folder: Path
    stage: StageName
    settings: RealmConfig
    environment: Environment
    worlds: tuple[World, ...]
    num_steps: int
    """That the run is to do."""
    steps: tuple[Row, ...]
    """The logged steps in order: means since the logged step before. `covers` says of how many steps."""
    held_out: tuple[Row, ...]
    """What was measured on held-out data, in order; names without their prefix."""
    versions: tuple[IndexVersion, ...]
    ranks: tuple[RankHistory, ...]
    probes: tuple[ProbeHistory, ...]
    probe_ms: tuple[float, ...]
    """What asking all of them took of a step, for each version."""
    totals: Row
    """What all trainers had counted together when the last world ended: searches, queries, wait_s, ..."""
    scores: Mapping[str, Row]
    """Of answered questions, by split: dev, test."""
    remarks: tuple[str, ...]
    """What the run itself had to say to people."""
    absent: tuple[str, ...]
    """What one could expect here and is not there, each a sentence."""

    @property
    def steps_done(self) -> int:
        """Up to the last logged one."""
        return int(self.steps[-1]["step"]) if self.steps else 0

    @property
    def is_finished(self) -> bool:
        return 0 < self.num_steps <= self.steps_done

    def curve(self, name: str) -> list[tuple[int, float]]:
        """(step, value) of one metric of the logged steps, where it was measured and is a finite number."""
        return curve_of(self.steps, name)

    def held_out_curve(self, name: str) -> list[tuple[int, float]]:
        """The same of what was held out."""
        return curve_of(self.held_out, name)

    def time_split(self) -> dict[str, float]:
        """Mean milliseconds a step of each phase that took any. The first step is left out where there are others: it
        waits for the first index, and loads what is loaded once."""
        rows = self.steps[1:] or self.steps
        covered = sum(row["covers"] for row in rows)
        sums = {phase: sum(number_of(row, f"{phase}_ms") * row["covers"] for row in rows) for phase in PHASES}
        return {phase: total / covered for phase, total in sums.items() if total}


def read_history(run_folder: Path) -> RunHistory:
    """The run in this folder. Raises DataError where nothing can be told of it, ConfigError for damaged settings."""
    settings_path = run_folder / RUN_CONFIG
    if not settings_path.is_file():
        raise DataError(f"{run_folder} is not a run: it has no {RUN_CONFIG}; name the folder that was given as --run")
    path = metrics_path(run_folder, role="trainer", role_rank=0)
    events = list(read_events(path)) if path.is_file() else []
    if not events:
        raise DataError(
            f"{run_folder} has no metrics yet: trainer 0 writes them to {path} once its world has met; see realm-ds "
            "watch"
        )
    stage = _stage_of(events)
    events = [event for event in events if event.get("stage", stage) == stage]
    standing = _as_it_stands(events)
    history = RunHistory(
        folder=run_folder,
        stage=stage,
        settings=load(settings_path),
        environment=read_environment(run_folder, events),
        worlds=tuple(_worlds(events)),
        num_steps=next((int(event["steps"]) for event in reversed(events) if "steps" in event), 0),
        steps=tuple(_steps(standing)),
        held_out=tuple(_held_out(standing)),
        versions=tuple(_versions(standing)),
        ranks=tuple(read_ranks(run_folder)),
        probes=tuple(_probes(standing)),
        probe_ms=tuple(event["probe_ms"] for event in standing if event["event"] == "probed"),
        totals=last_of(events, "done"),
        scores={split: read_scores(run_folder, split=split) for split in SPLITS if _has_scores(run_folder, split)},
        remarks=tuple(event["text"] for event in events if event["event"] == "remark"),
        absent=(),
    )
    return replace(history, absent=tuple(_absent(history)))


def curve_of(rows: Iterable[Row], name: str) -> list[tuple[int, float]]:
    """(step, value) where that was measured and is a finite number: what is not, JSON holds as a word."""
    return [(int(row["step"]), float(row[name])) for row in rows if isinstance(row.get(name), int | float)]


def _stage_of(events: Sequence[Row]) -> StageName:
    """Of the newest event: a folder holds one run, but may once have held another."""
    named = [event["stage"] for event in events if event.get("stage") in STAGES]
    if not named:
        raise DataError(f"the metrics name none of the stages {', '.join(STAGES)}: they were written by something else")
    return cast(StageName, named[-1])


_BEFORE_A_STEP = ("launched", "adopted", "probed")
"""Events whose `step` counts the steps done before the one that they belong to."""
_AFTER_A_STEP = ("step", "evaluated")


def _as_it_stands(events: Iterable[Row]) -> list[Row]:
    """Without what belongs to steps that a later start did again, or is about to."""
    kept: list[Row] = []
    for event in events:
        if event["event"] == "start":
            kept = [earlier for earlier in kept if not _is_undone(earlier, done=event["step"])]
        kept.append(event)
    return kept


def _is_undone(event: Row, *, done: int) -> bool:
    """Whether a start that found `done` steps done undoes it."""
    if event["event"] in _BEFORE_A_STEP:
        return bool(event["step"] >= done)
    return event["event"] in _AFTER_A_STEP and bool(event["step"] > done)


def _steps(events: Iterable[Row]) -> Iterator[Row]:
    done = 0
    for event in events:
        if event["event"] == "start":
            done = event["step"]
        elif event["event"] == "step":
            yield {**event, "covers": event["step"] - done}
            done = event["step"]


def _held_out(events: Iterable[Row]) -> Iterator[Row]:
    for event in events:
        if event["event"] == "evaluated":
            yield {name.removeprefix(HELD_OUT): value for name, value in event.items()}


def _worlds(events: Sequence[Row]) -> Iterator[World]:
    begins = [place for place, event in enumerate(events) if event["event"] == "joined"] or [0]
    for begin, end in zip(begins, [*begins[1:], len(events)], strict=True):
        own = events[begin:end]
        start = last_of(own, "start")
        if start:
            yield World(
                started_at=own[0]["time"], took_s=own[-1]["time"] - own[0]["time"], first_step=start["step"],
                trainers=start["trainers"],
            )  # fmt: skip


def _versions(events: Iterable[Row]) -> Iterator[IndexVersion]:
    found: dict[int, dict[str, Any]] = {}
    for event in events:
        version = int(event.get("version", 0))
        if event["event"] == "launched":
            found[version] = {"launched_step": event["step"]}
        elif event["event"] == "built":
            # Of a version that a resumed run launches again, the build that was one: what is on disk is only read.
            known = found.setdefault(version, {})
            known["build_s"] = max(known.get("build_s", 0.0), event["took_s"])
        elif event["event"] == "adopted":
            found.setdefault(version, {}).update(
                adopted_step=event["step"], changed_share=event.get("changed_share")
            )  # fmt: skip
    names = ("launched_step", "adopted_step", "build_s", "changed_share")
    for version, known in sorted(found.items()):
        if known.keys() == {"build_s"}:
            continue  # Launched at a step that is about to be done again.
        yield IndexVersion(number=version, **{name: known.get(name) for name in names})


def _probes(events: Iterable[Row]) -> Iterator[ProbeHistory]:
    found: dict[str, list[ProbeFinding]] = {}
    answers: dict[str, tuple[str, ...]] = {}
    for event in events:
        for probe in event["probes"] if event["event"] == "probed" else ():
            answers[probe["query"]] = tuple(probe["answers"])
            found.setdefault(probe["query"], []).append(
                ProbeFinding(
                    version=event["version"], step=event["step"], null_p=probe["null_p"],
                    hits=tuple(Hit(**hit) for hit in probe["hits"]),
                )
            )  # fmt: skip
    for query, findings in found.items():
        yield ProbeHistory(query=query, answers=answers[query], findings=tuple(findings))


def _has_scores(run_folder: Path, split: str) -> bool:
    return (run_folder / "qa" / f"{split}.json").is_file()


def _absent(history: RunHistory) -> Iterator[str]:
    evaluate, has_index = history.settings.evaluate, history.settings.has_index_ranks(history.stage)
    if not history.steps:
        yield "No step is logged yet: the run is starting, waits for its first index, or has failed."
    elif not history.is_finished:
        yield f"The run has come to step {history.steps_done:,} of {history.num_steps:,}: all below is up to there."
    if not history.environment.libraries:
        yield "The run did not record the versions of its libraries."
    if history.stage == "pretrain" and not history.held_out:
        why = "evaluate.every_steps is not set" if evaluate.every_steps is None else "it was not yet due"
        yield f"Nothing held out was measured: {why}."
    if history.stage == "pretrain" and not history.probes:
        yield (
            "No probe queries were recorded: they come from evaluate.probes, evaluate.questions or data.held_out, and "
            "evaluate.num_probes=0 turns them off."
        )
    if has_index and not history.versions:
        yield "No index version was launched yet."
    if history.stage == "qa" and not history.scores:
        yield "No questions are answered yet: that follows the last step."
