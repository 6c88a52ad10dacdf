"""A storm for the index: several clients search while version after version is swapped in and every message is late.

The same on loopback, with a thread for each rank, and over MPI, with a process for each: the caller gives the mailbox.
"""

import itertools
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from realm_ds.comm.mailbox import Mailbox, Message
from realm_ds.index.client import IndexClient, Replies
from realm_ds.index.exclusion import exclude_passages
from realm_ds.index.messages import NO_HIT
from tests.support.index_cases import WIDTH, make_passages, send_snapshot, vectors_of

NUM_CLIENTS = 3
NUM_SWAPS = 50
NUM_QUERIES, NUM_HITS, IN_FLIGHT = 64, 5, 3
SEARCHES_PER_VERSION = 11
"""Of each client: 3 x 51 x 11 x 64 are more than 100,000 queries."""
PASSAGES = make_passages(list(range(1000, 1150)))
UIDS = np.array([passage.uid for passage in PASSAGES])
TIMEOUT_S = 90.0


class LateMailbox:
    """A mailbox that lets each arriving message wait for a moment of its own; those of one rank keep their order."""

    def __init__(self, mailbox: Mailbox, *, seed: int, latest_s: float = 2e-3) -> None:
        self._mailbox, self._latest_s = mailbox, latest_s
        self._random = np.random.default_rng([seed, mailbox.rank])
        self._held: dict[int, deque[tuple[float, object]]] = {}

    @property
    def rank(self) -> int:
        return self._mailbox.rank

    def send(self, message: object, *, to: int) -> None:
        self._mailbox.send(message, to=to)

    def poll(self) -> tuple[int, object] | None:
        while (arrived := self._mailbox.poll()) is not None:
            source, message = arrived
            due_at = time.monotonic() + self._random.random() ** 4 * self._latest_s  # mostly soon, now and then late
            self._held.setdefault(source, deque()).append((due_at, message))
        now = time.monotonic()
        for source, held in self._held.items():
            if held and held[0][0] <= now:
                return source, held.popleft()[1]
        return None

    def receive(
        self, kind: type[Message], *, source: int | None, timeout_s: float, waiting_for: str, waited_s: float = 0.0
    ) -> Message:
        deadline, others = time.monotonic() + timeout_s - waited_s, []
        try:
            while time.monotonic() < deadline:
                arrived = self.poll()
                if arrived is None:
                    time.sleep(5e-5)
                elif isinstance(arrived[1], kind) and source in (None, arrived[0]):
                    return arrived[1]
                else:
                    others.append(arrived)
        finally:
            for sender, message in reversed(others):
                self._held.setdefault(sender, deque()).appendleft((0.0, message))
        raise AssertionError(f"rank {self.rank} waited {timeout_s:g} s for {waiting_for}")

    def flush(self, timeout_s: float) -> None:
        self._mailbox.flush(timeout_s)


@dataclass(frozen=True, kw_only=True)
class Weathered:
    """What one client saw."""

    queries: int
    wrong: int
    """Answers that differ from brute force over the vectors of the version that was asked for."""
    lost: int
    mixed: int
    strangers: int
    two_phase: int


def weather(
    mailbox: Mailbox, *, client_rank: int, index_ranks: Sequence[int], root: int, meet: Callable[[int], None],
    replies: Replies = "whole",
) -> Weathered:  # fmt: skip
    """One client's part. Client 0 launches versions; `meet` keeps all clients within one version, as gradients do."""
    client = IndexClient(
        mailbox, index_ranks=index_ranks, timeout_s=TIMEOUT_S, build_timeout_s=TIMEOUT_S, replies=replies
    )
    random = np.random.default_rng(client_rank)
    asked = wrong = answered = 0
    for version in range(NUM_SWAPS + 1):
        meet(version)
        if client_rank == 0:
            send_snapshot(mailbox, version, to=root)
        vectors_NP, under_way = vectors_of(PASSAGES, version), deque()
        for number in itertools.count():
            if number < SEARCHES_PER_VERSION:
                queries = random.integers(-3, 4, size=(NUM_QUERIES, WIDTH)).astype(np.float32)
                exclude = random.choice([0, *UIDS], size=NUM_QUERIES)
                request = client.submit(
                    queries, exclusion=exclude_passages(exclude), num_hits=NUM_HITS, step=version, version=version
                )
                under_way.append((request, queries, exclude))
                asked += NUM_QUERIES
            if number >= IN_FLIGHT and under_way:
                request, queries, exclude = under_way.popleft()
                found = client.collect(request)
                answered += NUM_QUERIES
                wrong += int((found.uids_BK != best(queries, vectors_NP, exclude)).any(axis=1).sum())
            if not under_way:
                break
    client.close()
    totals = client.totals
    return Weathered(
        queries=asked, wrong=wrong, lost=asked - answered, mixed=totals.mixed_version_replies,
        strangers=totals.strangers, two_phase=totals.two_phase,
    )  # fmt: skip


def best(queries_BP: np.ndarray, vectors_NP: np.ndarray, exclude_B: np.ndarray) -> np.ndarray:
    """Brute force: whole numbers, so exact; ties by uid."""
    scores_BN = queries_BP.astype(np.int64) @ vectors_NP.astype(np.int64).T
    is_out_BN = UIDS[None] == exclude_B[:, None]
    order_BN = np.lexsort((np.broadcast_to(UIDS, scores_BN.shape), -scores_BN, is_out_BN), axis=-1)[:, :NUM_HITS]
    uids_BK: np.ndarray = UIDS[order_BN]
    assert NO_HIT not in uids_BK
    return uids_BK
