"""The thread of a builder rank: snapshots to vectors of its range of the corpus, piece by piece. It never speaks MPI.

Where the pieces go is builder_rank.py's business; shards that embed for themselves do it in builder.py.

Shapes: N passages of one piece or of the range, P embedding.
"""

import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from realm_ds.data.records import SpecialIds
from realm_ds.data.shards import Shards, passage_range
from realm_ds.errors import IndexFault, RealmError
from realm_ds.index.builder import BuildProgress
from realm_ds.index.embedding import Embed, ShardEmbedder
from realm_ds.index.factory import VectorType
from realm_ds.index.passages import PassageShard
from realm_ds.index.relay import Snapshot
from realm_ds.index.store import NUMPY_DTYPES, IndexStore

log = logging.getLogger(__name__)

PIECE_PASSAGES = 16_384
"""Passages embedded together, in batches of like length, before their vectors are sent: enough for full batches, and so
few that shards have most of the vectors when the last are embedded."""
MOST_WAITING = 2
"""Pieces that may wait to be sent before the thread waits too: vectors on disk come faster than they travel."""
LOOK_UP_S = 0.1
"""How soon a thread that waits for room notices that it is to stop."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Vectors of consecutive passages, ready to be sent."""

    version: int
    step: int
    start: int
    """Place in the corpus of the first passage."""
    vectors_NP: np.ndarray
    """float32 or float16."""


@dataclass(frozen=True, kw_only=True)
class _Failure:
    """What ended the thread."""

    version: int
    step: int
    error: BaseException


def load_pieces(
    corpus: Shards, *, builder_rank: int, num_builders: int, max_tokens: int,
    piece_passages: int = PIECE_PASSAGES,
) -> list[PassageShard]:  # fmt: skip
    """The passages of one of `num_builders` equal parts of the corpus, cut into pieces."""
    start, stop = passage_range(corpus.count, builder_rank, num_builders, setting="index.builders")
    passages = corpus.passages(start, stop, max_tokens=max_tokens)
    return [
        PassageShard.from_passages(itertools.islice(passages, min(piece_passages, stop - first)), start=first)
        for first in range(start, stop, piece_passages)
    ]


class RangeEmbedder:
    """Embeds one snapshot after the other, in the order submitted. All methods are for the thread that speaks MPI."""

    def __init__(
        self,
        pieces: Sequence[PassageShard],
        *,
        embed_factory: Callable[[bytes], Embed],
        special: SpecialIds,
        passage_tokens: int,
        width: int,
        dtype: VectorType,
        batch_tokens: int,
        num_threads: int,
        store: IndexStore | None,
    ) -> None:
        """`pieces` follow one another in the corpus; `store`, if any, is where vectors of a resumed run may be."""
        self.start, self.stop = pieces[0].start, pieces[-1].stop
        self.embed_s = 0.0
        """Time spent embedding so far."""
        self._pieces = tuple(pieces)
        self._embedders = [
            ShardEmbedder(piece, special=special, passage_tokens=passage_tokens, batch_tokens=batch_tokens, width=width)
            for piece in pieces
        ]
        self._embed_factory, self._store = embed_factory, store
        self._width, self._dtype, self._num_threads = width, NUMPY_DTYPES[dtype], num_threads
        self._jobs: queue.SimpleQueue[Snapshot | None] = queue.SimpleQueue()
        self._finished: queue.Queue[Piece | _Failure] = queue.Queue(MOST_WAITING)
        self._progress: BuildProgress | None = None
        self._oldest_wanted = 0
        self._is_cancelled = threading.Event()
        self._thread = threading.Thread(target=self._run, name="range-embedder", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def progress(self) -> BuildProgress | None:
        """Of the version being embedded."""
        return self._progress

    def submit(self, snapshot: Snapshot) -> None:
        """Embed with this snapshot after those submitted before."""
        self._jobs.put(snapshot)

    def give_up_before(self, version: int) -> None:
        """Nobody will ask for older versions any more: stop at the next batch, and leave out those still waiting."""
        self._oldest_wanted = version

    def take(self) -> Piece | None:
        """The next finished piece, or None; raises what ended the thread, so that the world learns of it."""
        try:
            finished = self._finished.get_nowait()
        except queue.Empty:
            return None
        if isinstance(finished, Piece):
            return finished
        error = finished.error
        what = (
            f"embedding passages {self.start} to {self.stop - 1} for index version {finished.version} (step "
            f"{finished.step}) failed"
        )
        if isinstance(error, RealmError):
            raise type(error)(f"{what}: {error}") from error
        raise IndexFault(f"{what}: {type(error).__name__}: {error}") from error

    def close(self, timeout_s: float) -> None:
        """Give up what is being embedded, at the next batch."""
        self.cancel()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            raise IndexFault(f"waited {timeout_s:g} s for a batch of passages to be embedded before leaving")

    def cancel(self) -> None:
        """Give up what is being embedded, without waiting for it."""
        self._is_cancelled.set()
        self._jobs.put(None)

    def _run(self) -> None:
        version = step = -1
        try:
            import torch

            torch.set_num_threads(self._num_threads)
            while (snapshot := self._jobs.get()) is not None:
                version, step = snapshot.version, snapshot.step
                for piece in self._vectors(snapshot):
                    if not self._put(piece):
                        break
                self._progress = None
        except BaseException as error:  # The thread that speaks MPI raises it.
            self._put(_Failure(version=version, step=step, error=error))

    def _put(self, finished: Piece | _Failure) -> bool:
        """Whether it was handed over: False once nobody wants it."""
        while not self._is_cancelled.is_set():
            # A failure is always told, since the thread ends with it.
            if isinstance(finished, Piece) and self._is_unwanted(finished.version):
                return False
            try:
                self._finished.put(finished, timeout=LOOK_UP_S)
            except queue.Full:
                continue
            return True
        return False

    def _is_unwanted(self, version: int) -> bool:
        return self._is_cancelled.is_set() or version < self._oldest_wanted

    def _vectors(self, snapshot: Snapshot) -> Iterator[Piece]:
        """The vectors of the range, in pieces; ends early if nobody wants them any more."""
        if self._is_unwanted(snapshot.version):
            return
        started_at = time.monotonic()
        self._progress = BuildProgress(version=snapshot.version, passages_done=0)
        stored_NP = self._stored(snapshot)
        parts = self._embedded(snapshot) if stored_NP is None else np.split(stored_NP, self._cuts())
        for piece, vectors_NP in zip(self._pieces, parts, strict=False):
            yield Piece(version=snapshot.version, step=snapshot.step, start=piece.start, vectors_NP=vectors_NP)
        if not self._is_unwanted(snapshot.version):
            source = "embedded" if stored_NP is None else "read from disk"
            log.info("index version %d: passages %d to %d %s, %.1f s", snapshot.version, self.start, self.stop - 1,
                     source, time.monotonic() - started_at)  # fmt: skip

    def _cuts(self) -> list[int]:
        """Where in the range each piece but the first begins."""
        return [piece.start - self.start for piece in self._pieces[1:]]

    def _stored(self, snapshot: Snapshot) -> np.ndarray | None:
        """Vectors of the whole range as an earlier run left them, whichever shards wrote them."""
        if self._store is None:
            return None
        vectors_NP = np.empty((len(self), self._width), dtype=self._dtype)
        is_there = self._store.load(
            vectors_NP, version=snapshot.version, snapshot_sha256=snapshot.sha256, start=self.start
        )
        return vectors_NP if is_there else None

    def _embedded(self, snapshot: Snapshot) -> Iterator[np.ndarray]:
        """Vectors of one piece after the other; ends early if nobody wants them any more."""
        embed = self._embed_factory(snapshot.take())
        for piece, embedder in zip(self._pieces, self._embedders, strict=True):
            started_at = time.monotonic()
            vectors_NP = np.empty((len(piece), self._width), dtype=self._dtype)
            for num_done in embedder.run(embed, vectors_NP):
                if self._is_unwanted(snapshot.version):
                    return
                done = piece.start - self.start + num_done
                self._progress = BuildProgress(version=snapshot.version, passages_done=done)
            self.embed_s += time.monotonic() - started_at
            yield vectors_NP
