"""Index versions, seen from the trainers: launch one, keep its query tower, resume with it.

A snapshot goes to the root of a tree of ranks over MPI and to `index/version-N/snapshot.safetensors` in the run folder,
from which a resumed run launches it again. Building and serving is index/'s business; which version a step uses is
versions.py's, and how much versions differ staleness.py's.
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from realm_ds.comm.mailbox import Mailbox
from realm_ds.errors import CheckpointError
from realm_ds.index.messages import NO_SHARD, BuildReport, SnapshotStart
from realm_ds.index.relay import snapshot_messages
from realm_ds.index.store import SNAPSHOT_FILE, PartFault, check_snapshot, prune, version_folder, write_snapshot
from realm_ds.index.tree import SnapshotTree
from realm_ds.index.versions import Schedule, oldest_kept
from realm_ds.models.names import PASSAGE_TOWER, QUERY_TOWER
from realm_ds.models.towers import DTYPES, Embedder, Towers
from realm_ds.observe.sinks import Sinks
from realm_ds.train.engine import Engine
from realm_ds.train.writer import Writer

log = logging.getLogger(__name__)

Weights = dict[str, Tensor]


class Launcher:
    """Launches versions, on schedule or besides, and keeps on disk what a resumed run launches again."""

    def __init__(
        self,
        *,
        engine: Engine,
        towers: Towers,
        mailbox: Mailbox,
        writer: Writer,
        tree: SnapshotTree,
        schedule: Schedule,
        index_folder: Path,
        snapshot_dtype: Literal["fp32", "bf16", "fp16"],
        chunk_bytes: int,
        is_first_trainer: bool,
        hold: Callable[[int, Weights], None] | None = None,
    ) -> None:
        """`hold`, if any, is given each live version's query tower, in the snapshot's own numbers."""
        self._engine, self._towers = engine, towers
        self._mailbox, self._tree, self._schedule = mailbox, tree, schedule
        self._writer = writer
        self._index_folder, self._chunk_bytes = index_folder, chunk_bytes
        self._dtype = DTYPES[snapshot_dtype]
        self._is_first_trainer = is_first_trainer
        self._hold = hold
        self.digests: dict[int, str] = {}
        """By version, sha256 of the snapshots that this trainer has sent: the first one all, others none."""

    def launch_if_due(self, step: int) -> int | None:
        """Before `step` is trained: launch the version that is due, if one is, and name it. Collective of trainers."""
        version = self._schedule.launch_at(step)
        if version is not None:
            self.launch(version, step=step)
        return version

    def launch(self, version: int, *, step: int) -> None:
        """Launch the next version with the weights as they are. Collective of trainers."""
        towers = self._towers
        is_first, holds = self._is_first_trainer, self._hold is not None
        query = self._engine.copy_weights(towers.query, dtype=self._dtype, keeps=is_first or holds)
        passage = query if towers.are_shared else self._engine.copy_weights(
            towers.passage, dtype=self._dtype, keeps=is_first
        )  # fmt: skip
        if is_first:
            self._send(version, step=step, passage=passage)
            # Behind the training: nothing but a checkpoint to come needs the file, and that is written after it.
            self._writer.submit("snapshot", partial(self._write, version, step=step, query=query, passage=passage))
        if self._hold is not None:
            self._hold(version, query)

    def relaunch(self, step: int) -> list[int]:
        """After a resume at `step`: launch again, from disk, the versions that the run still needs."""
        versions = self._schedule.needed_versions(step)
        for version in versions:
            launch_step = self._schedule.launch_step(version)
            path = self._checked(version, launch_step=launch_step, needed_at=step)
            if self._is_first_trainer:
                self._send(version, step=launch_step, passage=_read(path, PASSAGE_TOWER))
            if self._hold is not None:
                self._hold(version, _read(path, PASSAGE_TOWER if self._towers.are_shared else QUERY_TOWER))
        return list(versions)

    def prune(self, launched: int, kept_steps: Callable[[], Sequence[int]]) -> None:
        """Once `launched` is: delete the files of versions that no kept checkpoint and no step to come needs. First
        trainer only.

        Which checkpoints are kept is asked once those that are on their way are published. One that is not yet begun
        needs no version older than those that are live now, and versions launched until then are younger.
        """
        live = oldest_kept(launched)
        self._writer.submit("pruning of index versions", partial(self._prune, kept_steps, below=live))

    def _prune(self, kept_steps: Callable[[], Sequence[int]], *, below: int) -> None:
        needed = {version for step in kept_steps() for version in self._schedule.needed_versions(step)}
        prune(self._index_folder, keep=needed, below=below)

    def _checked(self, version: int, *, launch_step: int, needed_at: int) -> Path:
        """The snapshot of `version` on disk; raises CheckpointError unless it is the one taken at `launch_step`."""
        path = version_folder(self._index_folder, version) / SNAPSHOT_FILE
        try:
            found = check_snapshot(self._index_folder, version)
        except PartFault as fault:
            raise CheckpointError(
                f"{path} is {fault}: index version {version} cannot be rebuilt for step {needed_at}; resume with the "
                "run's own refresh settings, or from another checkpoint"
            ) from fault
        if found != launch_step:
            raise CheckpointError(
                f"{path} is of step {found}, but by this run's refresh settings index version {version} is that of "
                f"step {launch_step}: resume with the settings that the run was started with"
            )
        return path

    def _send(self, version: int, *, step: int, passage: Weights) -> None:
        """To the root of the tree, without waiting: chunks travel on from there while training goes on."""
        data = save(passage)
        messages = snapshot_messages(data, version=version, step=step, chunk_bytes=self._chunk_bytes)
        for message in messages:
            if isinstance(message, SnapshotStart):
                self.digests[version] = message.sha256
            self._mailbox.send(message, to=self._tree.root)
        log.info("index version %d launched at step %d: %.1f MB to rank %d and on from there",
                 version, step, len(data) / 1e6, self._tree.root)  # fmt: skip

    def _write(self, version: int, *, step: int, query: Weights, passage: Weights) -> None:
        state = {f"{PASSAGE_TOWER}.{name}": value for name, value in passage.items()}
        if query is not passage:
            state |= {f"{QUERY_TOWER}.{name}": value for name, value in query.items()}
        data = save(state, metadata={"step": str(step)})  # save_file tells a full disk as no OSError
        write_snapshot(self._index_folder, version, data, step=step)


class QueryTowers:
    """The frozen query tower of each live version (the consistent pair).

    Both towers of a version are made of the snapshot's own numbers: a tower that the trainers rounded less than the
    index ranks did would not be of the same version.
    """

    def __init__(self, new_tower: Callable[[], Embedder], *, schedule: Schedule) -> None:
        self._schedule = schedule
        self._live: dict[int, Embedder] = {}
        # Two versions are alive at a time. Made here: initialising a tower in mid-training takes longer than a step.
        self._spare = [new_tower() for _ in range(2)]

    def at(self, step: int) -> tuple[int, Embedder]:
        """The version that answers `step`, and the query tower of the same snapshot."""
        version = self._schedule.version_at(step)
        return version, self._live[version]

    def hold(self, version: int, query: Weights) -> None:
        """Keep the version's query tower (float32, of the rounded numbers), and let go of those no longer asked for."""
        self._spare += [self._live.pop(old) for old in list(self._live) if old < oldest_kept(version)]
        tower = self._spare.pop()
        tower.load_state_dict(query)
        self._live[version] = tower


class CurrentTower:
    """The query tower with the weights as they are (pretrain.retrieve_with current). For what is trained on alone: what
    is measured goes by QueryTowers."""

    def __init__(self, tower: Embedder, *, schedule: Schedule, copy_weights: Callable[[], Weights]) -> None:
        self._tower, self._schedule, self._copy_weights = tower, schedule, copy_weights

    def at(self, step: int) -> tuple[int, Embedder]:
        """The version that answers `step`, and the tower, for the step about to be trained. Collective of trainers."""
        self._tower.load_state_dict(self._copy_weights())
        return self._schedule.version_at(step), self._tower


class BuildWatch:
    """How far the newest rebuild is, from what the index ranks tell trainer 0; other trainers hear nothing."""

    def __init__(self, num_passages: int, *, sinks: Sinks) -> None:
        self._num_passages, self._sinks = num_passages, sinks
        self._latest: dict[int, BuildReport] = {}

    def take(self, reports: Sequence[tuple[int, BuildReport]]) -> None:
        """Keep each shard's newest report, and write down what is finished: builds, and ranges of builder ranks."""
        for rank, report in reports:
            is_done = report.passages_done == report.passages_total
            if report.shard == NO_SHARD:
                # The shards report the same passages once they have them: counted here, each would count twice.
                if is_done:
                    self._sinks.write("embedded", version=report.version, builder_rank=rank, took_s=report.took_s)
                continue
            self._latest[rank] = report
            if is_done:
                self._sinks.write("built", version=report.version, index_rank=rank, took_s=report.took_s)

    def facts(self) -> dict[str, float]:
        """Of the newest version that anything was heard of: share of the corpus done, passages a second of all ranks
        together, seconds until the last of them is done. Speed and time only while it is being built."""
        newest = max((report.version for report in self._latest.values()), default=None)
        if newest is None:
            return {}
        reports = [report for report in self._latest.values() if report.version == newest]
        done = sum(report.passages_done for report in reports)
        facts = {"rebuilt_share": done / self._num_passages}
        at_work = [report for report in reports if 0 < report.passages_done < report.passages_total]
        if at_work:
            facts["rebuild_passages_per_s"] = sum(map(_rate, at_work))
            facts["rebuild_eta_s"] = max((r.passages_total - r.passages_done) / _rate(r) for r in at_work)
        return facts


def _rate(report: BuildReport) -> float:
    """Passages a second of one rank, from the start of its build."""
    return report.passages_done / max(report.took_s, 1e-3)


def _read(path: Path, tower: str) -> Weights:
    """One tower of a snapshot on disk."""
    with safe_open(path, framework="pt") as file:
        return {
            name.removeprefix(f"{tower}."): file.get_tensor(name)
            for name in file.keys()  # noqa: SIM118
            if name.startswith(f"{tower}.")
        }
