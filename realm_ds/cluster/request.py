"""A job as it is asked for, and what is checked of it before anything is written: what it reads, roles over its nodes.

How it is submitted is submit.py's business.
"""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from realm_ds.ablate.study import asked_for, settings_of
from realm_ds.cluster.scripts import ABLATE, EVAL, EXPORT, INDEX, PREPARE, PREPARE_VERBS, STAGES, Component
from realm_ds.comm import roles
from realm_ds.config.base import StageName
from realm_ds.config.load import RUN_CONFIG, load, load_for
from realm_ds.config.schema import RealmConfig
from realm_ds.config.sizes import JobSizes
from realm_ds.errors import ConfigError, DataError
from realm_ds.launch.index_store import refuse_other_folder
from realm_ds.launch.stages import check_inputs, with_local_encoder

COMMANDS = "COMMANDS"
"""The variable of prepare.sbatch that names the file of what it is to do."""
_ARRAYS = (PREPARE, "qa", ABLATE)
"""Whose tasks are parts of one job: lines to prepare; data sets and seeds, each with a folder of its own; cells."""
_WITH_INDEX = ("pretrain", "qa")
"""Stages that may have index ranks."""
_OPTIONS = {
    "RUN": "--run", "CONFIG": "--config", "SETTINGS": "settings, a.b=c", "REALM_SITE": "--site",
    "INDEX_PER_NODE": "--index-per-node",
}  # fmt: skip
"""Variables of the scripts that are made of what is given by these, and checked."""
_LATER = "or by --after the job that makes it"


@dataclass(frozen=True, kw_only=True)
class Request:
    """A job as it is asked for."""

    name: str
    """Of its script."""
    run: Path
    source: str | None = None
    """Of its config; None is the run folder's own."""
    overrides: tuple[str, ...] = ()
    sizes: JobSizes = field(default_factory=JobSizes)
    after: str = ""
    """Jobs that must have succeeded before, 12 or 12:13; or a condition of Slurm's own, afterany:12."""
    site: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    """Further variables for the script."""
    resume: bool = False
    data_may_be_late: bool = False
    """An earlier job may have yet to make what it reads: what is missing is told, and the job looks itself."""
    in_pipeline: bool = False
    """A line for several jobs submits it, also again."""


def preparing(request: Request, commands: Path) -> Request:
    """A request for prepare.sbatch, with the file of what it is to do."""
    return replace(request, environment={COMMANDS: str(commands), **request.environment})


def refuse_what_is_ignored(request: Request, shape: Sequence[Component], *, array: str = "") -> None:
    """Options and settings that the script does nothing with, or nothing good."""
    name, each = request.name, request.sizes.index_per_node
    if array and name not in _ARRAYS:
        raise ConfigError(
            f"--array={array} would have several jobs write into {request.run}: only {', '.join(_ARRAYS)} are "
            "arrays; for several runs submit each with a --run of its own"
        )
    if each is not None and (STAGES.get(name) not in _WITH_INDEX or len(shape) > 1):
        raise ConfigError(
            f"index_per_node={each} would be ignored: {name} has no index ranks beside trainers; leave it out"
        )
    for variable in _OPTIONS.keys() & request.environment.keys():
        raise ConfigError(f"--env {variable}: give it by {_OPTIONS[variable]}, so that it is checked")
    source = () if request.source is None else (f"--config {request.source}",)
    settings = " ".join((*source, *request.overrides))
    if name in (PREPARE, EXPORT, EVAL) and settings:
        raise ConfigError(f"{settings} would be ignored: {name} takes no settings; leave that out")
    parted = [override for override in request.overrides if len(override.split()) > 1]
    if parted and name not in STAGES:  # a stage's are in its run folder by then
        raise ConfigError(f"{parted[0]!r}: the script takes settings as words: write it into the file of --config")


def checked_config(request: Request, stage: StageName, shape: Sequence[Component], *, array: str = "") -> RealmConfig:
    """Of a job that trains: its settings, once they go with its data and with the split into roles."""
    overrides = [*request.overrides, *_shards(request, stage, shape)]
    config = with_local_encoder(load_for(request.run, request.source, overrides))
    if config.has_index_ranks(stage):
        _check_roles(config, shape)
    read = _without_late_start(config) if request.after else config
    if stage == "qa" and array:
        for data in _data_sets(request, array):
            qa = config.qa.model_copy(update={"data": data})
            _check_inputs(request, stage, read.model_copy(update={"qa": qa}))
    else:
        _check_inputs(request, stage, read)
    return config


def check_source(request: Request, *, array: str = "") -> None:
    """Of jobs that do not train: what they begin with is there, unless an earlier job makes it; an index has its folder
    for itself, and each task of a study its cell."""
    if request.name == ABLATE:
        _check_cells(request, array)
        return
    run, is_there = request.run, (request.run / RUN_CONFIG).is_file()
    if request.name == INDEX:
        refuse_other_folder(run, option="--run")
    if request.name == INDEX and (request.source is not None or is_there or not request.after):
        load(request.source or (run if is_there else None), request.overrides)
    if request.name == EXPORT and not is_there and not request.after:
        raise ConfigError(f"{run} is no run folder, it has no {RUN_CONFIG}: name by --run the one to export, {_LATER}")
    if request.name == EVAL and not run.is_dir() and not request.after:
        raise ConfigError(f"no folder {run} of runs that have answered questions: name it by --run, {_LATER}")


def _check_cells(request: Request, array: str) -> None:
    """Each task of ablate.sbatch is a cell, by its number."""
    corpus, questions, only, seeds = (
        _variable(request.environment, name) or None for name in ("CORPUS", "QUESTIONS", "ONLY", "SEEDS")
    )  # fmt: skip
    if seeds is not None and (not seeds.isdecimal() or int(seeds) < 1):
        raise ConfigError(f"--env SEEDS={seeds}: give a number of seeds, such as 3")
    cells = asked_for(request.run, only=only, seeds=None if seeds is None else int(seeds)).cells
    last = _last_task(array)
    if last >= len(cells):
        raise ConfigError(
            f"--array={array} has a task {last}, but the study has cells 0 to {len(cells) - 1} (ONLY, SEEDS): give "
            f"--sbatch=--array=0-{len(cells) - 1}"
        )
    settings_of(
        request.run, source=request.source, overrides=request.overrides, corpus=corpus and Path(corpus).absolute(),
        questions=questions and Path(questions).absolute(),
    )  # fmt: skip


def commands_in(given: Mapping[str, str]) -> Path:
    """The file of what to prepare, as prepare.sbatch would find it, its lines looked at."""
    path = Path(_variable(given, COMMANDS) or "prepare.txt").absolute()
    if not path.is_file():
        raise ConfigError(
            f"{path} of what to prepare is no file: name by --prepare one with a line for each thing, such as: corpus "
            "dump.xml --tokenizer data/tokenizer --out data/corpus --resume"
        )
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").split("\n"), start=1):
        word = (line.split() or ["#"])[0]
        if not word.startswith("#") and word not in PREPARE_VERBS:
            raise ConfigError(
                f"{path}, line {number}: {word} is nothing to prepare: begin it with one of "
                f"{', '.join(PREPARE_VERBS)}, as after `realm-ds prepare`"
            )
    return path


def _data_sets(request: Request, array: str) -> list[Path]:
    """Of an array of qa.sbatch, whose tasks are each data set with each seed."""
    sets = [Path(word).expanduser().absolute() for word in _variable(request.environment, "DATA_SETS").split()]
    num_seeds = len((_variable(request.environment, "SEEDS") or "0").split())
    last = _last_task(array)
    if last >= len(sets) * num_seeds:
        raise ConfigError(
            f"--array={array} has a task {last}, but {len(sets)} data sets and {num_seeds} seeds are tasks 0 to "
            f"{len(sets) * num_seeds - 1}: name them by --env DATA_SETS='data/nq data/wq' --env SEEDS='0 1 2'"
            if sets
            else f"--array={array} of qa is over data sets: name them by --env DATA_SETS='data/nq data/wq'"
        )
    names = [path.name for path in sets]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"two of DATA_SETS are called {twice[0]}, and so would be their run folders: rename one")
    return sets


def _last_task(array: str) -> int:
    """The highest number in what --array takes, 0-5 or 1,4-8%2; 0 of none."""
    return max(map(int, re.findall(r"\d+", re.sub(r"[:%]\d+", "", array))), default=0)


def _variable(given: Mapping[str, str], name: str) -> str:
    """One of the script's, which has ours as well."""
    return given.get(name) or os.environ.get(name, "")


def _check_inputs(request: Request, stage: StageName, config: RealmConfig) -> None:
    try:
        check_inputs(stage, config, runs_here=False)
    except DataError as error:
        if not request.data_may_be_late:
            raise
        print(f"realm-ds: not there yet: {error}\n(the job looks again when it starts)", file=sys.stderr, flush=True)


def _shards(request: Request, stage: StageName, shape: Sequence[Component]) -> list[str]:
    """How many index ranks there are and where, where sizes say it: then settings may not say otherwise."""
    each = request.sizes.index_per_node
    if len(shape) > 1:
        sized = [f"index.num_shards={shape[1].num_tasks}"]
    elif each is not None:
        sized = [f"index.num_shards={shape[0].nodes * each}", "index.placement=per_node"]
    else:
        sized = []
    if sized and stage == "qa":
        sized.append("qa.index=sharded")
    for setting in sized:
        name = setting.partition("=")[0]
        given = [override for override in request.overrides if override.startswith(f"{name}=")]
        if given and given[-1] != setting:
            raise ConfigError(f"{given[-1]}, but the sizes of the job say {setting}: leave one of the two out")
    return sized


def _check_roles(config: RealmConfig, shape: Sequence[Component]) -> None:
    """The split that the ranks will make, made here: an impossible one is told before the job has waited in a queue."""
    hosts = [f"node{node}" for node in range(1, shape[0].nodes + 1) for _ in range(shape[0].tasks_per_node)]
    given = None
    if len(shape) > 1:
        hosts += [f"index{node}" for node in range(1, shape[1].nodes + 1) for _ in range(shape[1].tasks_per_node)]
        given = [roles.TRAINER] * shape[0].num_tasks + [roles.INDEX] * shape[1].num_tasks
    settings = config.index
    try:
        roles.assign(
            hosts, num_shards=settings.num_shards, num_builders=settings.builders, placement=settings.placement,
            overrides=given,
        )  # fmt: skip
    except ConfigError as error:
        if given is not None:
            raise
        raise ConfigError(f"{error}; or say by --index-per-node how many index ranks each node has") from error


def _without_late_start(config: RealmConfig) -> RealmConfig:
    """The config without weights to start from that an earlier job has yet to write."""
    late = {
        name: None for name in ("start_from", "encoder_from")
        if (start := getattr(config.model, name)) is not None and not start.exists()
    }  # fmt: skip
    return config.model_copy(update={"model": config.model.model_copy(update=late)})
