"""Submits one job: makes its run folder, hands its script to Slurm. What is checked of it before is request.py's.

    RUN/config.yaml, code.txt          as the stage itself writes them
    RUN/job/NAME.sbatch, site.sh       what runs, as it was when it was submitted
    RUN/job/NAME-JOB.log, jobs.jsonl   what it said; which jobs there were

The script has all else from its environment: RUN, CONFIG, SETTINGS, REALM_SITE. Several jobs are pipeline.py's.
"""

import json
import os
import re
import shlex
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from realm_ds.cluster.request import (
    COMMANDS,
    Request,
    check_source,
    checked_config,
    commands_in,
    refuse_what_is_ignored,
)
from realm_ds.cluster.scripts import (
    EXPORT,
    HETJOB,
    PREPARE,
    SITE_FILE,
    SITE_VARIABLE,
    STAGES,
    Component,
    array_in,
    components,
    sbatch_options,
    script_path,
    site_path,
)
from realm_ds.cluster.slurm import live_jobs, submit
from realm_ds.config.base import StageName
from realm_ds.config.load import RUN_CONFIG, dump
from realm_ds.config.schema import RealmConfig
from realm_ds.errors import ConfigError
from realm_ds.files import write_durably
from realm_ds.launch.stages import has_finished, prepare_run_folder, refuse_to_join_in
from realm_ds.sealed import MANIFEST

JOB_FOLDER = "job"
JOBS_FILE = "jobs.jsonl"
MOUNTS = Path("/proc/self/mounts")
_IN_MEMORY = {"tmpfs", "ramfs", "devtmpfs"}
_EACH_NODES_OWN = ("/tmp", "/var/tmp")


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job that can be submitted, as far as can be told from here."""

    request: Request
    after: str
    """As in the request, or the job before it in a pipeline."""
    script: Path
    site: Path
    config: RealmConfig | None
    """Of jobs that train."""
    shape: tuple[Component, ...]
    environment: Mapping[str, str]

    @property
    def arguments(self) -> list[str]:
        """Of sbatch."""
        name, folder = self.request.name, self.request.run / JOB_FOLDER
        return [
            f"--output={str(folder).replace('%', '%%')}/{name}-%j.log", "--export=ALL",
            *_dependency(self.after), *sbatch_options(self.request.sizes, is_hetjob=name == HETJOB),
            str(folder / self.script.name),
        ]  # fmt: skip

    @property
    def line(self) -> str:
        """What could be typed instead, once the run folder is made."""
        given = [f"{name}={shlex.quote(value)}" for name, value in self.environment.items() if value]
        return " ".join([*given, shlex.join(["sbatch", *self.arguments])])

    def log(self, job: str) -> Path:
        return self.request.run / JOB_FOLDER / f"{self.request.name}-{job}.log"


def plan_job(request: Request) -> Job:
    """Check all that can be checked before anything is written. Raises ConfigError, DataError, CheckpointError."""
    script = script_path(request.name)
    site = site_path(request.site, environment=os.environ)
    text = script.read_text(encoding="utf-8")
    shape, array = components(text, request.sizes), array_in(text, request.sizes)
    stage = STAGES.get(request.name)
    refuse_what_is_ignored(request, shape, array=array)
    _dependency(request.after)
    config = checked_config(request, stage, shape, array=array) if stage is not None else None
    folder = request.run / JOB_FOLDER
    environment = {
        "RUN": str(request.run),
        "CONFIG": str(request.run) if stage is not None else _whole(request.source),
        "SETTINGS": " ".join(request.overrides) if config is None else _roles(config, stage),
        SITE_VARIABLE: str(folder / SITE_FILE),
        **request.environment,
    }  # fmt: skip
    if request.name == PREPARE:
        environment[COMMANDS] = str(commands_in(request.environment))
    elif stage is None:
        check_source(request, array=array)
    return Job(
        request=request, after=request.after, script=script, site=site, config=config, shape=shape,
        environment=environment,
    )  # fmt: skip


def is_done(job: Job) -> bool:
    """Whether nothing would be left to do, as far as the folder tells."""
    stage, run = STAGES.get(job.request.name), job.request.run
    if job.request.name == EXPORT:
        return (run / EXPORT / MANIFEST).is_file()
    if job.request.name == PREPARE:
        return _has_prepared(Path(job.environment[COMMANDS]), run)
    if stage is None or job.config is None:
        return False
    return (run / "qa" / "test.json").is_file() if stage == "qa" else has_finished(stage, job.config, run)


def submit_job(job: Job) -> str:
    """Make the run folder and submit; the job's id. Raises ConfigError if the folder is in use, LaunchError if Slurm
    refuses."""
    request, folder = job.request, job.request.run / JOB_FOLDER
    if job.config is not None:
        _check_is_not_live(job)
        prepare_run_folder(request.run, job.config, resume=request.resume)
    write_durably(folder / job.script.name, job.script.read_bytes())
    if job.site != folder / SITE_FILE:
        write_durably(folder / SITE_FILE, job.site.read_bytes())
    number = submit(job.arguments, environment={**os.environ, **job.environment})
    again = replace(job, after="")  # what it waits for now will be long over
    record = {
        "job": number, "name": request.name, "time": time.time(), "log": str(job.log(number)), "line": again.line,
        "in_pipeline": request.in_pipeline,
    }  # fmt: skip
    with (folder / JOBS_FILE).open("a", encoding="utf-8") as jobs:
        jobs.write(json.dumps(record) + "\n")
    return number


def jobs_of(run: Path) -> list[dict[str, Any]]:
    """The jobs that were submitted for a run, oldest first; half a line is left out."""
    try:
        lines = (run / JOB_FOLDER / JOBS_FILE).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    records = []
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and {"job", "name"} <= record.keys():
            records.append(record)
    return records


def describe(job: Job, number: str) -> str:
    """What people need once it is submitted."""
    run = shlex.quote(str(job.request.run))
    rows = [("log", str(job.log(number)))]
    if job.config is not None:
        rows += [("watch", f"realm-ds watch {run}")]
    rows += [("if it fails", f"realm-ds why {run}"), ("cancel", f"scancel {number}")]
    return "\n".join([f"job {number}: {summary(job)}", *(f"  {name:<12}{text}" for name, text in rows)])


def summary(job: Job) -> str:
    """What, where, how large."""
    tasks = " + ".join(f"{part.nodes} x {part.tasks_per_node}" for part in job.shape)
    text = f"{job.request.name} in {job.request.run}, {tasks} ranks"
    stage = STAGES.get(job.request.name)
    if job.config is None or stage is None or not job.config.has_index_ranks(stage):
        return text
    total, index = sum(part.num_tasks for part in job.shape), job.config.index
    builders = f", {index.builders} builder" if index.builders else ""
    return f"{text}: {total - index.num_shards - index.builders} trainers{builders}, {index.num_shards} index"


def check_is_shared(run: Path, *, mounts: Path = MOUNTS) -> None:
    """Raise ConfigError for a run folder in this host's memory; warn of one where nodes mostly have disks of their own.

    No more can be told from a login node: the ranks look themselves whether all see the folder.
    """
    kind = _file_system(run, mounts)
    if kind in _IN_MEMORY:
        raise ConfigError(
            f"{run} is in this host's memory ({kind}), where no node of a job sees it: name a folder on a file system "
            "that all nodes mount"
        )
    for place in _EACH_NODES_OWN:
        if run.is_relative_to(place):
            print(
                f"realm-ds: {place} is often each node's own; a run folder must be on a file system that all nodes "
                "mount", file=sys.stderr, flush=True,
            )  # fmt: skip


def _has_prepared(commands: Path, run: Path) -> bool:
    """Whether each line has been done as it is now; prepare.sbatch keeps those it has done."""
    for number, line in enumerate(commands.read_bytes().split(b"\n"), start=1):
        mark = run / JOB_FOLDER / f"done-{number}"
        if not re.match(rb"\s*(#|$)", line) and not (mark.is_file() and mark.read_bytes() == line + b"\n"):
            return False
    return True


def _roles(config: RealmConfig, stage: StageName | None) -> str:
    """The split that was checked, over what scripts set by themselves; all else is in RUN/config.yaml."""
    roles = f"index.num_shards={config.index.num_shards} index.placement={config.index.placement}"
    return f"{roles} qa.index={config.qa.index}" if stage == "qa" else roles


def _check_is_not_live(job: Job) -> None:
    """Two worlds in one folder would write over each other. What was submitted from here Slurm knows, of what was not
    the folder tells."""
    run, awaited = job.request.run, re.findall(r"\d+", job.after)
    trained = [record["job"] for record in jobs_of(run) if record["name"] in STAGES]
    for state in live_jobs(trained):
        if state.job not in awaited:
            raise ConfigError(
                f"{run} is job {state.job}'s, {state.state} {state.nodes or state.reason}".rstrip()
                + f": wait for its end, or end it (scancel {state.job}), or queue behind it (--after {state.job})"
            )
    if not any(job in trained or (run / JOB_FOLDER / f"{job}.log").exists() for job in awaited):
        refuse_to_join_in(run)


def _dependency(after: str) -> list[str]:
    if not after:
        return []
    condition = f"afterok:{after}" if re.fullmatch(r"\d+(:\d+)*", after) else after
    if not re.fullmatch(r"singleton|[a-z]+:.+", condition):
        raise ConfigError(f"--after {after}: give job ids, 12 or 12:13, or a condition of Slurm's such as afterany:12")
    return [f"--dependency={condition}", "--kill-on-invalid-dep=yes"]


def _whole(source: str | None) -> str:
    """A path as any folder may read it; a recipe's name stays one."""
    return "" if source is None else str(Path(source).absolute()) if Path(source).exists() else source


def _file_system(path: Path, mounts: Path) -> str:
    """The kind that holds the path: that of the longest mount point above it, the last one mounted there."""
    path = path.absolute()
    found, longest = "", -1
    for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines():
        _, point, kind = line.split()[:3]
        point = point.replace(r"\040", " ")
        if path.is_relative_to(point) and len(point) >= longest:
            found, longest = kind, len(point)
    return found


def show_plan(job: Job) -> str:
    """The config and the line, for people to read."""
    config = f"# {job.request.run / RUN_CONFIG}\n{dump(job.config)}\n" if job.config is not None else ""
    return f"{config}{show_line(job)}"


def show_line(job: Job) -> str:
    """What would be submitted, without its config."""
    return f"# {summary(job)}\n# {job.script}, with {job.site}:\n{job.line}"
