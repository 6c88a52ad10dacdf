"""The index service as the trainers of a stage have it: how its client and its launcher are made, what is told of both.

When to ask and to launch is pretrain.py's and passage_index.py's business.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from realm_ds.comm.mailbox import Mailbox
from realm_ds.index.client import IndexClient
from realm_ds.index.factory import audits_of
from realm_ds.index.tree import SnapshotTree
from realm_ds.index.versions import Schedule
from realm_ds.models.towers import Towers
from realm_ds.train.engine import Engine
from realm_ds.train.manifest import saved_steps
from realm_ds.train.refresh import Launcher, Weights
from realm_ds.train.stage import Stage


def index_client(stage: Stage, mailbox: Mailbox) -> IndexClient:
    """What this trainer asks the index ranks with."""
    config = stage.config
    return IndexClient(
        mailbox, index_ranks=stage.world.index_ranks, timeout_s=config.runtime.wait_timeout_s,
        build_timeout_s=config.index.build_timeout_s, replies=config.index.replies,
        audit_every=audits_of(config.index, num_passages=stage.corpus.count),
        builder_ranks=stage.world.builder_ranks if stage.trainers.rank == 0 else (),
        trainer_ranks=stage.world.trainer_ranks,
    )  # fmt: skip


def index_launcher(
    stage: Stage, mailbox: Mailbox, *, engine: Engine, towers: Towers, schedule: Schedule,
    hold: Callable[[int, Weights], None] | None = None,
) -> Launcher:  # fmt: skip
    """What this trainer takes part in launching versions with."""
    return Launcher(
        engine=engine, towers=towers, mailbox=mailbox, writer=stage.writer, tree=SnapshotTree.of(stage.world),
        schedule=schedule, index_folder=stage.folder / "index", snapshot_dtype=stage.config.refresh.snapshot_dtype,
        chunk_bytes=stage.config.index.snapshot_chunk_bytes, is_first_trainer=stage.trainers.rank == 0, hold=hold,
    )  # fmt: skip


def launch_if_due(stage: Stage, launcher: Launcher, step: int) -> None:
    """Before `step` is trained: launch the version that is due, if one is, and drop files of old ones. Collective."""
    with stage.timer.phase("snapshot"):
        launched = launcher.launch_if_due(step)
    if launched is not None:
        tell_launch(stage, launcher, launched, step=step)


def tell_launch(stage: Stage, launcher: Launcher, version: int, *, step: int) -> None:
    """What follows from a launch beside the index itself."""
    stage.sinks.write("launched", version=version, step=step)
    if stage.trainers.rank == 0:
        launcher.prune(version, partial(saved_steps, stage.folder))


def index_recall(client: IndexClient) -> tuple[float, float]:
    """(share, weight): of the hits of an exact search, those that the index had found; weight 0 without audits."""
    found, wanted = client.take_recall()
    return (found / wanted if wanted else 0.0), float(wanted)


def leave_index(stage: Stage, client: IndexClient, *, early: bool) -> None:
    """Let the index ranks go, and write in one line what the index did for all trainers of this run. Collective."""
    client.close(early=early)
    names = (
        "searches", "queries", "wait_s", "two_phase", "audited_hits", "audited_found", "mixed_version_replies",
        "strangers",
    )  # fmt: skip
    sums = stage.trainers.all_reduce_sum([getattr(client.totals, name) for name in names])
    counted: dict[str, Any] = dict(zip(names, sums, strict=True))
    stage.sinks.write("done", **counted)
