"""The thread that turns snapshots into index versions while the server goes on answering. It never speaks MPI.

Shapes: N passages of the shard, B passages of one batch, L tokens, P embedding.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from realm_ds.data.records import SpecialIds
from realm_ds.errors import IndexFault, RealmError
from realm_ds.index.embedding import Embed, ShardEmbedder
from realm_ds.index.shard import BuiltShard, PassageShard, build_shard, use_threads
from realm_ds.index.store import IndexStore

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The passage tower's weights of one index version."""

    version: int
    sha256: str
    data: bytes
    """A safetensors file."""


@dataclass(frozen=True, kw_only=True)
class BuildProgress:
    """How far the build going on is."""

    version: int
    passages_done: int


@dataclass(frozen=True, kw_only=True)
class Build:
    """A finished build, or the error that ended it."""

    version: int
    shard: BuiltShard | None
    error: BaseException | None = None


class Builder:
    """Builds one version after the other, in the order submitted. All methods are for the server's thread."""

    def __init__(
        self,
        passages: PassageShard,
        *,
        embed_factory: Callable[[bytes], Embed],
        special: SpecialIds,
        passage_tokens: int,
        width: int,
        factory: str,
        batch_tokens: int,
        num_threads: int,
        store: IndexStore | None,
    ) -> None:
        """`num_threads` of torch and faiss for building; `store`, if any, is where versions are kept and looked for."""
        self._passages = passages
        self._embed_factory = embed_factory
        self._width = width
        self._factory = factory
        self._num_threads = num_threads
        self._store = store
        self._embedder = ShardEmbedder(
            passages, special=special, passage_tokens=passage_tokens, batch_tokens=batch_tokens, width=width
        )
        self._jobs: queue.SimpleQueue[Snapshot | None] = queue.SimpleQueue()
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

    def submit(self, snapshot: Snapshot) -> None:
        """Build this version after those submitted before."""
        self._num_open += 1
        self._jobs.put(snapshot)

    def take(self) -> BuiltShard | None:
        """The next finished version, or None; raises what ended the build, so that the world learns of it."""
        try:
            build = self._finished.get_nowait()
        except queue.Empty:
            return None
        if build.error is not None:
            if isinstance(build.error, RealmError):
                raise build.error
            raise IndexFault(
                f"building index version {build.version} of passages {self._passages.start} to "
                f"{self._passages.stop - 1} failed: {type(build.error).__name__}: {build.error}"
            ) from build.error
        self._num_open -= 1
        return build.shard

    def cancel(self) -> None:
        """Give up what is being built, at the next batch."""
        self._is_cancelled.set()
        self._jobs.put(None)

    def close(self, timeout_s: float) -> None:
        """Give up what is being built, but finish writing what has been; raises if that failed."""
        self.cancel()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            raise IndexFault(f"waited {timeout_s:g} s for the index builder to finish writing a version; a slow disk?")
        while self.take() is not None:
            pass

    def _run(self) -> None:
        version = -1
        try:
            import torch

            # Both numbers belong to the thread that sets them; the server's own are untouched.
            torch.set_num_threads(self._num_threads)
            use_threads(self._num_threads)
            while (snapshot := self._jobs.get()) is not None and not self._is_cancelled.is_set():
                version = snapshot.version
                self._build(snapshot)
        except BaseException as error:  # The server's thread raises it.
            self._finished.put(Build(version=version, shard=None, error=error))

    def _build(self, snapshot: Snapshot) -> None:
        started_at = time.monotonic()
        stored_NP = self._stored(snapshot)
        vectors_NP = self._embedded(snapshot) if stored_NP is None else stored_NP
        if vectors_NP is None:
            return
        shard = build_shard(self._passages, vectors_NP, version=snapshot.version, factory=self._factory)
        source = "embedded" if stored_NP is None else "read from disk"
        log.info("index version %d: %d passages %s, %.1f s", snapshot.version, len(vectors_NP), source,
                 time.monotonic() - started_at)  # fmt: skip
        self._progress = None
        self._finished.put(Build(version=snapshot.version, shard=shard))
        if self._store is not None and stored_NP is None:
            self._store.save(
                vectors_NP, version=snapshot.version, snapshot_sha256=snapshot.sha256, start=self._passages.start
            )

    def _stored(self, snapshot: Snapshot) -> np.ndarray | None:
        if self._store is None:
            return None
        return self._store.load(
            version=snapshot.version, snapshot_sha256=snapshot.sha256, start=self._passages.start,
            stop=self._passages.stop, width=self._width,
        )  # fmt: skip

    def _embedded(self, snapshot: Snapshot) -> np.ndarray | None:
        """Vectors of all passages, in corpus order; None if given up."""
        vectors_NP = self._embedder.empty()
        self._progress = BuildProgress(version=snapshot.version, passages_done=0)
        for num_done in self._embedder.run(self._embed_factory(snapshot.data), vectors_NP):
            if self._is_cancelled.is_set():
                return None
            self._progress = BuildProgress(version=snapshot.version, passages_done=num_done)
        return vectors_NP
