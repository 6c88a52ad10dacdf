"""Starts a stage of training, or takes part in it: the same command line is both, as a launcher's variables tell.

realm-ds pretrain --config C --run R                       here: starts mpiexec with all ranks
srun python -m mpi4py -m realm_ds pretrain --config C ...  there: this process is one of the ranks
"""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from realm_ds.comm.world import is_launched, start_mpi
from realm_ds.config.base import StageName
from realm_ds.config.deepspeed import check_deepspeed
from realm_ds.config.load import RUN_CONFIG, dump, load
from realm_ds.config.schema import RealmConfig
from realm_ds.config.stages import StageConfig
from realm_ds.data.shards import open_shards, passage_range, refuse_long_passages
from realm_ds.data.tokenizer import load_tokenizer
from realm_ds.errors import CheckpointError, ConfigError, FolderTaken
from realm_ds.files import write_durably
from realm_ds.index.factory import looks_at_all, spec_of
from realm_ds.launch.failures import forget_last_world
from realm_ds.launch.held_out import check_evaluation
from realm_ds.launch.local import leaving_when_asked, run_world, world_command
from realm_ds.launch.node import run_rank
from realm_ds.launch.offload import check_offload
from realm_ds.launch.questions import check_questions
from realm_ds.launch.rank import run_as_rank
from realm_ds.launch.starts import check_starts
from realm_ds.launch.watch import writes_on
from realm_ds.models.hub import encoder_folder
from realm_ds.observe.notice import Notice
from realm_ds.observe.progress import Progress, follow_run
from realm_ds.observe.trackers import check_tracker
from realm_ds.reports.runs import read_records
from realm_ds.sealed import check
from realm_ds.tether import TAG_VARIABLE, is_realm_ds
from realm_ds.train.manifest import lost_folders, saved_steps, step_folder

DEFAULT_TRAINERS = 2


def launch_stage(
    stage: StageName,
    *,
    load_config: Callable[[], RealmConfig],
    run_folder: Path,
    resume: bool,
    on_poll: Callable[[], None] | None = None,
) -> None:
    """Run a whole stage from here, or this process's part of it if a launcher started it.

    Raises ConfigError or CheckpointError for what cannot work, LaunchError when a rank dies, Preempted when a signal
    has asked the run to end.
    """
    if is_launched(os.environ):

        def take_part() -> None:
            _take_part(stage, load_config, run_folder=run_folder, resume=resume, notice=Notice().listen())

        run_as_rank(run_folder, take_part)
        return
    with leaving_when_asked(run_folder):
        config = with_local_encoder(load_config())
        check_inputs(stage, config)
        if resume and has_finished(stage, config, run_folder):
            _remark(_nothing_left(stage, config, run_folder))
            return
        refuse_to_join_in(run_folder)
        prepare_run_folder(run_folder, config, resume=resume)
        run_world(
            rank_arguments(stage, run_folder=run_folder, resume=resume),
            processes=num_processes(stage, config),
            run_folder=run_folder,
            on_poll=on_poll,
        )


def show_stage(stage: StageName, *, load_config: Callable[[], RealmConfig], run_folder: Path, resume: bool) -> None:
    """launch_stage for a person: with a progress bar here; under a launcher trainer 0 says a line per logged step."""
    if is_launched(os.environ):
        launch_stage(stage, load_config=load_config, run_folder=run_folder, resume=resume)
        return
    with Progress() as progress:
        bar = progress.stage(f"{stage} in {run_folder}")
        bar.update(now="starting processes")
        poll = follow_run(run_folder, stage=stage, bar=bar)
        launch_stage(stage, load_config=load_config, run_folder=run_folder, resume=resume, on_poll=poll)
        bar.finish(f"{bar.done} steps: {bar.now}" if bar.done else "there was nothing left to do")
        if stage == "qa":
            progress.say(
                f"`realm-ds qa eval --run {run_folder}` tells all scores, `realm-ds ask QUESTION --model {run_folder}` "
                "answers"
            )


def check_inputs(
    stage: StageName, config: RealmConfig, *, others_wait_s: float | None = None, runs_here: bool = True
) -> None:
    """Look at what a stage reads before any process is started for it: seconds instead of minutes to a mistake.

    `others_wait_s` says how long the ranks that a launcher has started wait for this; None if none has been. A stage
    that does not run here has its disks and compiler elsewhere.
    Raises DataError, ConfigError or CheckpointError for what is absent, damaged, of another tokenizer or too small.
    """
    engine = check_deepspeed(config)
    if runs_here:
        check_offload(engine, others_wait_s=others_wait_s)
    check_tracker(config.runtime.tracker)
    _remark_on_warmup(stage, config)
    tokenizer = load_tokenizer(config.data.tokenizer)
    timeout_s = config.runtime.wait_timeout_s
    corpus = open_shards(config.data.corpus, kind="corpus", fingerprint=tokenizer.fingerprint, timeout_s=timeout_s)
    refuse_long_passages(corpus, max_tokens=config.data.passage_tokens)
    if stage == "pretrain" or (stage == "ict" and config.ict.encoder_warmup):
        trained = open_shards(
            config.data.pretrain_place, kind="pretrain", fingerprint=tokenizer.fingerprint, timeout_s=timeout_s
        )
        if trained.manifest.settings.get("is_held_out"):
            raise ConfigError(
                f"data.pretrain={config.data.pretrain} was written to be held out (prepare pretrain --held-out): name "
                "the folder that was its --out"
            )
    if config.has_index_ranks(stage):
        passage_range(corpus.count, 0, config.index.num_shards)
        if config.index.builders:
            passage_range(corpus.count, 0, config.index.builders, setting="index.builders")
        _check_index(config, num_passages=corpus.count)
        if stage == "pretrain" or config.qa.refresh_passages:
            _remark_on_refresh(stage, config)
    if stage == "pretrain":
        _check_candidates(config, num_passages=corpus.count)
        check_evaluation(config, fingerprint=tokenizer.fingerprint)
    if stage == "qa":
        if runs_here and config.model.start_from is None:  # elsewhere an earlier job may have yet to write it
            _remark(
                "model.start_from is not set, so this fine-tunes towers that have not learned to retrieve: name the "
                "export of a pre-trained run"
            )
        _check_served(config, num_passages=corpus.count)
        check_questions(config.qa, tokenizer, remark=_remark)
    check_starts(config.model, tokenizer)


def with_local_encoder(config: RealmConfig) -> RealmConfig:
    """The config with model.encoder as a folder: a name on the hub is fetched here, once, before any rank needs it.

    Raises ConfigError if there is no such model.
    """
    encoder = config.model.encoder
    if encoder is None or isinstance(encoder, Path):
        return config
    folder = encoder_folder(encoder, download=True)
    return config.model_copy(update={"model": config.model.model_copy(update={"encoder": folder})})


def _remark(text: str) -> None:
    """For people, beside what a run prints."""
    print(f"realm-ds: {text}", file=sys.stderr, flush=True)


def _remark_on_warmup(stage: StageName, config: RealmConfig) -> None:
    settings: StageConfig = getattr(config, stage)
    if settings.num_warmup_steps >= settings.steps - 1:
        _remark(
            f"the whole run is warm-up: that takes {settings.num_warmup_steps} steps ({stage}.warmup_steps), and "
            f"{stage}.steps is {settings.steps}"
        )


def _check_index(config: RealmConfig, *, num_passages: int) -> None:
    """faiss is loaded here: a mistake in its settings would else show after the corpus has been embedded."""
    from realm_ds.index.faiss_index import check_factory

    check_factory(
        spec_of(config.index),
        num_passages=num_passages // config.index.num_shards,
        width=config.model.projection_size,
    )


def _remark_on_refresh(stage: StageName, config: RealmConfig) -> None:
    steps, interval = getattr(config, stage).steps, config.refresh.first_interval
    if interval >= steps:
        name = "shortest_steps" if config.refresh.every_steps == "auto" else "every_steps"
        _remark(f"the index stays that of step 0: refresh.{name} is {interval}, and {stage}.steps {steps}")


def _check_served(config: RealmConfig, *, num_passages: int) -> None:
    """What fine-tuning wants of index ranks that pre-training does not."""
    index, settings = config.index, config.qa
    if settings.index == "sharded" and not index.rerank and not looks_at_all(index, num_passages=num_passages):
        raise ConfigError(
            f"index.factory={index.factory} with index.rerank=0 keeps no exact vectors, and the loss of "
            "qa.index=sharded goes over those of what was found: set index.rerank to 1 or more"
        )
    if settings.refresh_passages and config.refresh.every_steps == "auto":
        raise ConfigError(
            "refresh.every_steps=auto, but fine-tuning measures nothing to decide by (qa.refresh_passages): give a "
            "number of steps"
        )


def _check_candidates(config: RealmConfig, *, num_passages: int) -> None:
    candidates, needed = config.pretrain.candidates, config.pretrain.num_retrieved
    if num_passages < needed + 1:
        raise ConfigError(
            f"pretrain.candidates={candidates} needs {needed} passages and one to exclude, but "
            f"{config.data.corpus} holds {num_passages}: lower candidates, or index a larger corpus"
        )


def _take_part(
    stage: StageName, load_config: Callable[[], RealmConfig], *, run_folder: Path, resume: bool, notice: Notice
) -> None:
    # Before anything can fail: a rank that dies before MPI is there leaves the others waiting for it in MPI_Init.
    mpi = start_mpi()
    config = load_config()
    is_on_its_own = TAG_VARIABLE not in os.environ  # started by srun or mpiexec: nobody has looked at anything yet
    leads = mpi is None or mpi.COMM_WORLD.Get_rank() == 0
    if is_on_its_own and resume and has_finished(stage, config, run_folder):
        if leads:  # Each rank sees the same, and none starts.
            _remark(_nothing_left(stage, config, run_folder))
        return
    if is_on_its_own and leads:
        # The others wait for this rank when they join.
        config = with_local_encoder(config)
        check_inputs(stage, config, others_wait_s=config.runtime.wait_timeout_s)
        refuse_to_join_in(run_folder)
        prepare_run_folder(run_folder, config, resume=resume)
        forget_last_world(run_folder)
    run_rank(stage, config=config, folder=run_folder, resume=resume, notice=notice)


def rank_arguments(stage: StageName, *, run_folder: Path, resume: bool) -> list[str]:
    """What every rank is started with: the run folder holds the rest."""
    verb = ["qa", "train"] if stage == "qa" else [stage]
    settings = ["--config", str(run_folder / RUN_CONFIG), "--run", str(run_folder)]
    return [*verb, *settings, *(["--resume"] if resume else [])]


def stage_command(stage: StageName, *, config: RealmConfig, run_folder: Path, resume: bool) -> list[str]:
    """The command line that launch_stage runs on this machine."""
    arguments = rank_arguments(stage, run_folder=run_folder, resume=resume)
    return world_command(arguments, processes=num_processes(stage, config))


def num_processes(stage: StageName, config: RealmConfig) -> int:
    """Ranks to start on this machine: trainers, and where there are such the index ranks and builder ranks."""
    trainers = config.runtime.trainers or DEFAULT_TRAINERS
    return trainers + (config.index.num_shards + config.index.builders if config.has_index_ranks(stage) else 0)


def has_finished(stage: StageName, config: RealmConfig, run_folder: Path) -> bool:
    """Whether the newest checkpoint, whole, is that of the last step: nothing would be trained.

    Not for qa, which answers its questions after the last step.
    """
    steps = saved_steps(run_folder)
    if stage == "qa" or not steps or steps[-1] < getattr(config, stage).steps:
        return False
    try:
        return bool(check(step_folder(run_folder, steps[-1])).get("stage") == stage)
    except CheckpointError:
        return False  # it will be named, and the one before it used


def _nothing_left(stage: StageName, config: RealmConfig, run_folder: Path) -> str:
    return (
        f"nothing is left to do: {run_folder} has trained all {stage}.steps={getattr(config, stage).steps}; "
        f"its settings are left as they are. Raise {stage}.steps to go on"
    )


def prepare_run_folder(run_folder: Path, config: RealmConfig, *, resume: bool) -> None:
    """Write what the run is before it starts. A folder that holds a run is not overwritten without being told.

    A run that was stopped before its first whole checkpoint has nothing to lose: with --resume or without, it begins
    again. Settings of the run that was there, where they were others, stay as config-1.yaml, config-2.yaml, ...
    """
    check_run_folder(run_folder, config, resume=resume)
    path, text = run_folder / RUN_CONFIG, dump(config)
    if path.is_file() and path.read_text(encoding="utf-8") != text:
        number = 1 + len(list(run_folder.glob("config-*.yaml")))
        write_durably(run_folder / f"config-{number}.yaml", path.read_bytes())
    write_durably(path, text)  # at once: other ranks may be reading the one before
    (run_folder / "code.txt").write_text(_code_version(), encoding="utf-8")


def check_run_folder(run_folder: Path, config: RealmConfig, *, resume: bool) -> None:
    """Raise ConfigError or CheckpointError where a run cannot start in this folder, or not go on in it."""
    path = run_folder / RUN_CONFIG
    _check_is_not_live_here(run_folder)
    has_run = bool(saved_steps(run_folder) or lost_folders(run_folder))
    if has_run and not resume:
        raise FolderTaken(f"{run_folder} holds a run already: add --resume to go on with it, or name another folder")
    if resume and not has_run and not path.is_file():
        raise CheckpointError(f"{run_folder} holds no run to resume: start it without --resume")
    if has_run and path.is_file():
        _check_same_model(path, config)


def refuse_to_join_in(run_folder: Path) -> None:
    """Raise FolderTaken where a world on other hosts writes in this folder: two would write over each other."""
    rank = writes_on(run_folder)
    if rank is not None:
        raise FolderTaken(
            f"{run_folder} is being trained: {rank.name} on {rank.host} goes on writing. Wait for its end, or "
            "end its job"
        )


def _check_is_not_live_here(run_folder: Path) -> None:
    """As refuse_to_join_in, of this host, where it can be seen at once."""
    for rank in read_records(run_folder / "ranks"):
        if rank["host"] == socket.gethostname() and is_realm_ds(rank["pid"]):
            raise FolderTaken(
                f"{run_folder} is being trained: {rank['role']} {rank['role_rank']} is process {rank['pid']} of this "
                f"machine. Wait for its end, or ask it to save and end: kill -TERM {rank['pid']}"
            )


def _check_same_model(path: Path, config: RealmConfig) -> None:
    """The weights come from the checkpoint: another model cannot take them, and another start would not be looked at.

    Before config.yaml is written, so that a mistake does not stay there.
    """
    before, now = load(path).model, config.model
    changed = [
        f"model.{name} was {getattr(before, name)}, now {getattr(now, name)}"
        for name in type(now).model_fields
        if name != "dropout" and getattr(before, name) != getattr(now, name)
    ]
    if changed:
        raise ConfigError(
            f"{path.parent} cannot go on with another model: {'; '.join(changed)}. Undo that, or start a new run from "
            "this one's export with model.start_from"
        )


def _code_version() -> str:
    """Version, commit and uncommitted changes of the code, as far as git can tell."""
    from importlib.metadata import version

    here = Path(__file__).resolve().parent
    lines = [f"realm-ds {version('realm-ds')}"]
    for arguments in (("rev-parse", "HEAD"), ("diff", "HEAD", "--", ".")):
        try:
            result = subprocess.run(["git", "-C", str(here), *arguments], capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            break
        lines.append(result.stdout if result.returncode == 0 else "not a git checkout")
    return "\n".join(lines) + "\n"
