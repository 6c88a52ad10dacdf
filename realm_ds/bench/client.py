"""A client of the index in a benchmark: what trainers do in production, without the training.

Shapes: B queries, K hits, P embedding.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from realm_ds.bench.corpora import FIRST_UID
from realm_ds.bench.processes import write_progress
from realm_ds.comm.waiting import Clock
from realm_ds.comm.world import World, polled_barrier
from realm_ds.errors import IndexFault
from realm_ds.index.client import IndexClient, Replies
from realm_ds.index.exclusion import exclude_nothing
from realm_ds.index.merge import Candidates
from realm_ds.index.messages import MESSAGES
from realm_ds.index.relay import snapshot_messages
from realm_ds.index.tree import SnapshotTree

CHUNK_BYTES = 4 * 2**20
CALM_S = 0.02
"""Sleep of a client that waits while another measures something else: it must not take a share of a core."""


class Desk:
    """One client: its IndexClient, its place among the clients, what it tells of its progress."""

    def __init__(
        self, world: World, options: Mapping[str, Any], *, folder: Path, tree: SnapshotTree, timeout_s: float
    ) -> None:
        self.world, self.number, self.num_clients = world, world.trainer_rank or 0, world.num_trainers
        self._mailbox = world.mailbox(MESSAGES, timeout_s=timeout_s)
        self.folder, self._tree, self._timeout_s = folder, tree, timeout_s
        self._step = 0
        # One that asks in each way; a run of requests is over before the other way is asked, so numbers cannot mix.
        self._clients = {mode: self._client(mode) for mode in ("whole", "two_phase")}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._clients["whole"].close()

    def _client(self, replies: Replies) -> IndexClient:
        return IndexClient(
            self._mailbox, index_ranks=self.world.index_ranks, timeout_s=self._timeout_s,
            build_timeout_s=self._timeout_s, replies=replies,
        )  # fmt: skip

    @property
    def client(self) -> IndexClient:
        """The one that gets tokens with the hits."""
        return self._clients["whole"]

    def launch(self, version: int, data: bytes) -> None:
        """Have the index built from these weights; trainer 0 does, as in production."""
        if self.number == 0:
            for message in snapshot_messages(data, version=version, step=self._step, chunk_bytes=CHUNK_BYTES):
                self._mailbox.send(message, to=self._tree.root)

    def ask(self, queries_BP: np.ndarray, *, hits: int, version: int = 0, replies: Replies = "whole") -> Candidates:
        """One search, from asking to having the answer of all shards merged."""
        client = self._clients[replies]
        self._step += 1
        request = client.submit(
            queries_BP, exclusion=exclude_nothing(len(queries_BP)), num_hits=hits, step=self._step, version=version
        )
        candidates = client.collect(request)
        if candidates.version != version:
            raise IndexFault(f"asked for index version {version}, answered from {candidates.version}")
        return candidates

    def build_reports(self) -> dict[int, list[tuple[int, int, float]]]:
        """New reports by version: passages done, passages in all, seconds since launch. On trainer 0."""
        reports: dict[int, list[tuple[int, int, float]]] = {}
        for _, report in self.client.build_reports():
            told = (report.passages_done, report.passages_total, report.took_s)
            reports.setdefault(report.version, []).append(told)
        return reports

    def together(self, *, calmly: bool = False) -> None:
        """Returns when all clients are here."""
        sleep = (lambda seconds: time.sleep(max(seconds, CALM_S))) if calmly else time.sleep
        polled_barrier(
            self.world.trainer_comm, timeout_s=self._timeout_s, waiting_for="the other clients",
            clock=Clock(sleep=sleep),
        )  # fmt: skip

    def tell(self, done: int, total: int, now: str = "") -> None:
        """How far the job is."""
        if self.number == 0:
            write_progress(self.folder, done=done, total=total, now=now)


def places_of(candidates: Candidates) -> np.ndarray:
    """Places [B, K] in the corpus, of numbered passages."""
    places_BK: np.ndarray = candidates.uids_BK - FIRST_UID
    return places_BK


def check_agreement(found_BK: np.ndarray, expected_BK: np.ndarray, *, side: str) -> None:
    """Raise IndexFault where two sides found other passages, but for near-ties that FAISS rounds one way or the other:
    a benchmark of wrong answers means nothing."""
    agreement = float((found_BK == expected_BK).mean())
    if agreement < 0.999:
        raise IndexFault(f"{side} found only {agreement:.1%} of the hits that FAISS found: its speed means nothing")
