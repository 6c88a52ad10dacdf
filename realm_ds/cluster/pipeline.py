"""Submits a whole run of REALM, from text to scores, as jobs that wait for one another.

    RUN/{prepare, ict, pretrain, qa}     a run folder each; exports are inside those of ict and pretrain

What is done is not submitted again, so the same line goes on after a failure. One job is submit.py's.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from realm_ds.cluster.request import Request, preparing
from realm_ds.cluster.scripts import EXPORT, HETJOB, PREPARE, STAGES
from realm_ds.cluster.slurm import cancel, live_jobs
from realm_ds.cluster.submit import Job, is_done, jobs_of, plan_job, submit_job
from realm_ds.config.sizes import JobSizes
from realm_ds.errors import ConfigError, LaunchError, RealmError

PIPELINE = "pipeline"
SIZED = (PREPARE, "ict", "pretrain", EXPORT, "qa")
"""Jobs that a file of sizes may name."""
FOLDERS = (PREPARE, "ict", "pretrain", "qa")
_OF_ANY_JOB = ("time", "partition", "account", "qos", "sbatch")


@dataclass(frozen=True, kw_only=True)
class Step:
    """One job of a pipeline."""

    name: str
    job: Job
    is_done: bool
    """It, and every step before it: what comes of one is what the next begins with."""


def plan_pipeline(request: Request, *, sizes: Mapping[str, JobSizes], prepare: Path | None = None) -> list[Step]:
    """All steps in their order, each checked as it would be alone, but for what the steps before it write.

    `request` holds what they have in common; its sizes are for whatever `sizes` leaves open. `prepare` is a file of
    what to prepare first.
    """
    steps: list[Step] = []
    for name, wanted in _requests(request, sizes, prepare):
        if steps and steps[0].name == PREPARE and not steps[0].is_done:
            wanted = replace(wanted, data_may_be_late=True)
        previous = next((step for step in reversed(steps) if not step.is_done), None)
        after = f"afterok:JOB-OF-{previous.name}" if previous is not None else request.after
        job = plan_job(replace(wanted, after=after))
        steps.append(Step(name=name, job=job, is_done=previous is None and is_done(job)))
    return steps


def submit_pipeline(steps: Sequence[Step], *, run: Path) -> list[tuple[Step, str]]:
    """Submit what is not done, each after the one before; steps with the ids of their jobs.

    Raises ConfigError if jobs of an earlier call live, LaunchError if Slurm refuses one: those before it are cancelled.
    """
    before = [record["job"] for folder in FOLDERS for record in jobs_of(run / folder)]
    alive = [f"{state.job} ({state.state})" for state in live_jobs(before)]
    if alive:
        raise ConfigError(
            f"jobs of the pipeline in {run} are in the queue: {', '.join(alive)}. Wait for their end, or end them: "
            f"scancel {' '.join(text.split()[0] for text in alive)}"
        )
    submitted: list[tuple[Step, str]] = []
    for step in steps:
        if step.is_done:
            continue
        job = replace(step.job, after=submitted[-1][1]) if submitted else step.job
        try:
            submitted.append((step, submit_job(job)))
        except RealmError as error:
            withdrawn = _withdraw([number for _, number in submitted])
            raise type(error)(f"{step.name}: {error}{withdrawn}") from error
    return submitted


def _withdraw(jobs: Sequence[str]) -> str:
    """Cancel what was submitted before a step that cannot be; what to say of it."""
    if not jobs:
        return ""
    numbers = " ".join(jobs)
    try:
        cancel(jobs)
    except LaunchError as error:
        return f" (submitted before it, and not cancelled, {error}: end them by scancel {numbers})"
    return f" (cancelled again, submitted before it: {numbers})"


def _requests(request: Request, sizes: Mapping[str, JobSizes], prepare: Path | None) -> Iterator[tuple[str, Request]]:
    """What each step is asked for alone."""
    run = request.run

    def of(script: str, folder: str, *, start: Path | None = None) -> Request:
        own = _sizes_of(script, request.sizes, sizes)
        wanted = replace(
            request, name=script, run=run / folder, sizes=own, resume=(run / folder / "config.yaml").is_file(),
            in_pipeline=True,
        )  # fmt: skip
        if script not in STAGES:
            return replace(wanted, source=None, overrides=())
        settings = (f"model.start_from={start}",) if start is not None else ()
        return replace(wanted, overrides=(*request.overrides, *settings))

    if prepare is not None:
        yield PREPARE, preparing(of(PREPARE, PREPARE), prepare)
    pretrain = HETJOB if _sizes_of("pretrain", request.sizes, sizes).index_nodes is not None else "pretrain"
    yield "ict", of("ict", "ict")
    yield "ict export", of(EXPORT, "ict")
    yield "pretrain", of(pretrain, "pretrain", start=run / "ict" / EXPORT)
    yield "pretrain export", of(EXPORT, "pretrain")
    yield "qa", of("qa", "qa", start=run / "pretrain" / EXPORT)


def _sizes_of(script: str, common: JobSizes, sizes: Mapping[str, JobSizes]) -> JobSizes:
    """A script's own, and what all have in common as far as it is for this one: an export needs no eight nodes."""
    alike = common.model_dump(exclude_unset=True, include=None if script in STAGES else set(_OF_ANY_JOB))
    if STAGES.get(script) != "pretrain":
        alike = {name: value for name, value in alike.items() if not name.startswith("index_")}
    return sizes.get("pretrain" if script == HETJOB else script, JobSizes()).over(JobSizes(**alike))
