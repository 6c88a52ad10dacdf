"""The thread that turns snapshots into index versions while the server goes on answering. It never speaks MPI.

Shapes: N passages of the shard, P embedding.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from realm_ds.data.records import SpecialIds
from realm_ds.errors import IndexFault, RealmError
from realm_ds.index.embedding import Embed, ShardEmbedder
from realm_ds.index.factory import IndexSpec
from realm_ds.index.faiss_index import VectorTable, use_threads
from realm_ds.index.passages import PassageShard
from realm_ds.index.relay import Snapshot
from realm_ds.index.shard import BuiltShard, build_shard
from realm_ds.index.store import IndexStore

log = logging.getLogger(__name__)

EARLY_S = 5.0
"""Who must end early does not know how soon he will be killed."""


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """The vectors of all passages of one index version, embedded by builder ranks."""

    version: int
    step: int
    sha256: str
    """Of the snapshot that they were embedded with."""
    table: VectorTable


@dataclass(frozen=True, kw_only=True)
class BuildProgress:
    """How far the build going on is."""

    version: int
    passages_done: int


@dataclass(frozen=True, kw_only=True)
class Build:
    """A finished build, or the error that ended it."""

    version: int
    step: int
    shard: BuiltShard | None
    error: BaseException | None = None


class Builder:
    """Builds one version after the other, in the order submitted. All methods are for the server's thread.

    A build holds its vectors once: they are embedded, or read from disk, into the memory that faiss searches.
    """

    def __init__(
        self,
        passages: PassageShard,
        *,
        embed_factory: Callable[[bytes], Embed],
        special: SpecialIds,
        passage_tokens: int,
        width: int,
        spec: IndexSpec,
        batch_tokens: int,
        num_threads: int,
        store: IndexStore | None,
        device: int | None = None,
    ) -> None:
        """`num_threads` of torch and faiss for building; `store`, if any, is where versions are kept and looked for;
        `device` is the GPU that holds the index, None for none."""
        self._passages = passages
        self._embed_factory = embed_factory
        self._width = width
        self._spec, self._device = spec, device
        self._num_threads = num_threads
        self._store = store
        self._embedder = ShardEmbedder(
            passages, special=special, passage_tokens=passage_tokens, batch_tokens=batch_tokens, width=width
        )
        self._jobs: queue.SimpleQueue[Snapshot | Embedded | None] = queue.SimpleQueue()
        self._finished: queue.SimpleQueue[Build] = queue.SimpleQueue()
        self._num_open = 0
        self._progress: BuildProgress | None = None
        self._is_cancelled = threading.Event()
        self._thread = threading.Thread(target=self._run, name="index-builder", daemon=True)
        self._thread.start()

    @property
    def is_busy(self) -> bool:
        """Whether a build was submitted that `take` has not returned yet."""
        return self._num_open > 0

    @property
    def progress(self) -> BuildProgress | None:
        """Of the build going on."""
        return self._progress

    def empty_table(self) -> VectorTable:
        """Room for the exact vectors of all passages."""
        return VectorTable(len(self._passages), self._width, dtype=self._spec.vectors)

    def submit(self, job: Snapshot | Embedded) -> None:
        """Build this version after those submitted before: from weights, or from vectors that are there already."""
        self._num_open += 1
        self._jobs.put(job)

    def take(self) -> BuiltShard | None:
        """The next finished version, or None; raises what ended the build, so that the world learns of it."""
        if self._finished.empty():  # asked a thousand times a second: an exception each time would cost
            return None
        build = self._finished.get_nowait()
        if build.error is not None:
            what = (
                f"building index version {build.version} (step {build.step}) of passages {self._passages.start} to "
                f"{self._passages.stop - 1} failed"
            )
            if isinstance(build.error, RealmError):
                raise type(build.error)(f"{what}: {build.error}") from build.error
            raise IndexFault(f"{what}: {type(build.error).__name__}: {build.error}") from build.error
        self._num_open -= 1
        return build.shard

    def cancel(self) -> None:
        """Give up what is being built, at the next batch."""
        self._is_cancelled.set()
        self._jobs.put(None)

    def close(self, timeout_s: float, *, early: bool = False) -> None:
        """Give up what is being built, but finish writing what has been; raises if that failed.

        With `early` for a moment only: the run was told to end and resumes without these files. What then still runs,
        such as the training of an approximate index, ends with the process.
        """
        self.cancel()
        self._thread.join(min(timeout_s, EARLY_S) if early else timeout_s)
        if self._thread.is_alive() and early:
            log.info("left the builder of the index in the middle of a version")
            return
        if self._thread.is_alive():
            raise IndexFault(f"waited {timeout_s:g} s for the index builder to finish writing a version; a slow disk?")
        while self.take() is not None:
            pass

    def _run(self) -> None:
        version = step = -1
        try:
            import torch

            # Both numbers belong to the thread that sets them; the server's own are untouched.
            torch.set_num_threads(self._num_threads)
            use_threads(self._num_threads)
            while (job := self._jobs.get()) is not None and not self._is_cancelled.is_set():
                version, step = job.version, job.step
                self._build(job)
        except BaseException as error:  # The server's thread raises it.
            self._finished.put(Build(version=version, step=step, shard=None, error=error))

    def _build(self, job: Snapshot | Embedded) -> None:
        started_at = time.monotonic()
        is_stored = False
        if isinstance(job, Embedded):
            table, source = job.table, "had from builder ranks"
        else:
            stored = self._stored(job)
            is_stored, source = stored is not None, "embedded" if stored is None else "read from disk"
            made = stored or self._embedded(job)
            if made is None:
                return
            table = made
        shard = build_shard(
            self._passages, table, version=job.version, spec=self._spec, device=self._device
        )  # fmt: skip
        log.info("index version %d: %d passages %s, %.1f s", job.version, len(table), source,
                 time.monotonic() - started_at)  # fmt: skip
        self._progress = None
        self._finished.put(Build(version=job.version, step=job.step, shard=shard))
        if self._store is not None and not is_stored:
            self._store.save(
                table.vectors_NP, version=job.version, snapshot_sha256=job.sha256, start=self._passages.start
            )

    def _stored(self, snapshot: Snapshot) -> VectorTable | None:
        """The vectors of all passages as an earlier run left them, if it did."""
        if self._store is None or not self._store.has_parts(snapshot.version):
            return None
        table = self.empty_table()
        is_whole = self._store.load(
            table.vectors_NP, version=snapshot.version, snapshot_sha256=snapshot.sha256, start=self._passages.start
        )
        return table if is_whole else None

    def _embedded(self, snapshot: Snapshot) -> VectorTable | None:
        """The vectors of all passages, in corpus order; None if given up."""
        self._progress = BuildProgress(version=snapshot.version, passages_done=0)
        # Before there is a table: while weights are read they take several times their room.
        embed = self._embed_factory(snapshot.take())
        table = self.empty_table()
        for num_done in self._embedder.run(embed, table.vectors_NP):
            if self._is_cancelled.is_set():
                return None
            self._progress = BuildProgress(version=snapshot.version, passages_done=num_done)
        return table
