"""Index versions, seen from the trainers: launch one, keep its query tower, resume with it.

A snapshot goes to the index ranks over MPI and to `index/version-N/snapshot.safetensors` in the run folder, from which
a resumed run launches it again. Building and serving is index/'s business; which version a step uses is versions.py's.
"""

import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from realm_ds.comm.mailbox import Mailbox
from realm_ds.config.schema import RefreshConfig
from realm_ds.errors import CheckpointError
from realm_ds.files import write_durably
from realm_ds.index.messages import BuildReport, SnapshotChunk, SnapshotStart
from realm_ds.index.store import prune, version_folder
from realm_ds.index.versions import launch_at, oldest_kept, version_at
from realm_ds.models.names import PASSAGE_TOWER, QUERY_TOWER
from realm_ds.models.realm import RealmModel, strip_prefix
from realm_ds.models.towers import Embedder
from realm_ds.observe.sinks import Sinks
from realm_ds.train.engine import Engine

log = logging.getLogger(__name__)

SNAPSHOT_FILE = "snapshot.safetensors"
Weights = dict[str, Tensor]


def needed_versions(step: int, refresh: RefreshConfig) -> range:
    """Versions that a run resumed after `step` optimizer steps still asks for and has already launched."""
    if step == 0:
        return range(0)
    oldest = version_at(step, every_steps=refresh.every_steps, adopt_after_steps=refresh.adopt_after_steps)
    return range(oldest, (step - 1) // refresh.every_steps + 1)


class Refresher:
    """Launches versions on schedule and holds the frozen query tower of each live one (the consistent pair)."""

    def __init__(
        self,
        *,
        engine: Engine,
        model: RealmModel,
        new_tower: Callable[[], Embedder],
        mailbox: Mailbox,
        index_ranks: Sequence[int],
        refresh: RefreshConfig,
        index_folder: Path,
        chunk_bytes: int,
        is_first_trainer: bool,
    ) -> None:
        self._engine, self._model, self._new_tower = engine, model, new_tower
        self._mailbox, self._index_ranks = mailbox, index_ranks
        self._refresh, self._index_folder, self._chunk_bytes = refresh, index_folder, chunk_bytes
        self._is_first_trainer = is_first_trainer
        self._query_towers: dict[int, Embedder] = {}

    def query_tower(self, step: int) -> tuple[int, Embedder]:
        """The version that answers `step`, and the query tower of the same snapshot."""
        version = version_at(
            step, every_steps=self._refresh.every_steps, adopt_after_steps=self._refresh.adopt_after_steps
        )
        return version, self._query_towers[version]

    def launch_if_due(self, step: int) -> int | None:
        """Before `step` is trained: launch the version that is due, if one is, and name it. Collective of trainers."""
        version = launch_at(step, every_steps=self._refresh.every_steps)
        if version is None:
            return None
        query = self._engine.copy_weights(self._model.query_tower)
        passage = query if self._model.shares_towers else self._engine.copy_weights(self._model.passage_tower)
        if self._is_first_trainer:
            self._write(version, step=step, query=query, passage=passage)
        self._launch(version, step=step, query=query, passage=passage)
        return version

    def relaunch(self, step: int) -> list[int]:
        """After a resume at `step`: launch again, from disk, the versions that the run still needs."""
        versions = needed_versions(step, self._refresh)
        for version in versions:
            path = version_folder(self._index_folder, version) / SNAPSHOT_FILE
            if not path.is_file():
                raise CheckpointError(
                    f"{path} is missing: index version {version} cannot be rebuilt for step {step}; "
                    "resume with the run's own refresh settings, or from another checkpoint"
                )
            launched_at = version * self._refresh.every_steps
            _check_step(path, version=version, launched_at=launched_at, every_steps=self._refresh.every_steps)
            state = load_file(path)
            passage = strip_prefix(state, PASSAGE_TOWER)
            query = strip_prefix(state, QUERY_TOWER) or passage
            self._launch(version, step=launched_at, query=query, passage=passage)
        return list(versions)

    def prune(self, kept_steps: Sequence[int]) -> None:
        """Delete the files of versions that no kept checkpoint and no step to come needs. First trainer only."""
        needed = {version for step in kept_steps for version in needed_versions(step, self._refresh)}
        prune(self._index_folder, keep=needed | set(self._query_towers))

    def _launch(self, version: int, *, step: int, query: Weights, passage: Weights) -> None:
        tower = self._new_tower()
        tower.load_state_dict(query)
        self._query_towers[version] = tower
        for old in [live for live in self._query_towers if live < oldest_kept(version)]:
            del self._query_towers[old]
        if self._is_first_trainer:
            self._send(version, step=step, data=save(passage))

    def _send(self, version: int, *, step: int, data: bytes) -> None:
        """To every index rank, without waiting: chunks travel while training goes on."""
        array = np.frombuffer(data, dtype=np.uint8)
        chunks = [array[start:][: self._chunk_bytes] for start in range(0, len(array), self._chunk_bytes)]
        start = SnapshotStart(
            version=version,
            step=step,
            num_bytes=len(data),
            num_chunks=len(chunks),
            sha256=hashlib.sha256(data).hexdigest(),
        )
        for shard_rank in self._index_ranks:
            self._mailbox.send(start, to=shard_rank)
            for index, chunk in enumerate(chunks):
                self._mailbox.send(SnapshotChunk(version=version, index=index, data=chunk), to=shard_rank)
        log.info("index version %d launched at step %d: %.1f MB to %d shards",
                 version, step, len(data) / 1e6, len(self._index_ranks))  # fmt: skip

    def _write(self, version: int, *, step: int, query: Weights, passage: Weights) -> None:
        state = {f"{PASSAGE_TOWER}.{name}": value for name, value in passage.items()}
        if query is not passage:
            state |= {f"{QUERY_TOWER}.{name}": value for name, value in query.items()}
        path = version_folder(self._index_folder, version) / SNAPSHOT_FILE
        write_durably(path, save(state, metadata={"step": str(step)}))  # save_file tells a full disk as no OSError


class BuildWatch:
    """How far the newest rebuild is, from what the index ranks tell trainer 0; other trainers hear nothing."""

    def __init__(self, num_passages: int, *, sinks: Sinks) -> None:
        self._num_passages, self._sinks = num_passages, sinks
        self._latest: dict[int, BuildReport] = {}

    def take(self, reports: Sequence[tuple[int, BuildReport]]) -> None:
        """Keep each rank's newest report, and write down the builds that are finished."""
        for index_rank, report in reports:
            self._latest[index_rank] = report
            if report.passages_done == report.passages_total:
                self._sinks.write("built", version=report.version, index_rank=index_rank, took_s=report.took_s)

    def share(self) -> float:
        """Share of the corpus embedded for the newest version that anything was heard of; 1 before that."""
        newest = max((report.version for report in self._latest.values()), default=None)
        if newest is None:
            return 1.0
        done = sum(report.passages_done for report in self._latest.values() if report.version == newest)
        return done / self._num_passages


def _check_step(path: Path, *, version: int, launched_at: int, every_steps: int) -> None:
    with safe_open(path, framework="pt") as file:
        found = (file.metadata() or {}).get("step", "unknown")
    if found != str(launched_at):
        raise CheckpointError(
            f"{path} is of step {found}, but with refresh.every_steps={every_steps} index version {version} is that of "
            f"step {launched_at}: resume with the refresh settings that the run was started with"
        )
