"""What a trainer asks the index with: it sends a batch of queries to every shard and merges what comes back.

When to ask for what is train/'s business; the shards know nothing of one another.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from realm_ds.comm.mailbox import Mailbox
from realm_ds.errors import IndexFault
from realm_ds.index.merge import Candidates, merge
from realm_ds.index.messages import BuildReport, Query, Reply, Stop

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class SearchTotals:
    """What a client has counted since it was made."""

    searches: int = 0
    """Batches of queries answered by all shards."""
    queries: int = 0
    wait_s: float = 0.0
    """Time in which the trainer stood still for an answer."""
    search_ms: float = 0.0
    """Sum over searches of the slowest shard's time."""
    parked_ms: float = 0.0
    mixed_version_replies: int = 0
    """Replies of another version than asked for; each also ends the run."""
    strangers: int = 0
    """Replies to no open request, dropped."""


@dataclass(kw_only=True)
class _Open:
    """A request on its way."""

    step: int
    version: int
    num_queries: int
    num_hits: int
    replies: dict[int, Reply] = field(default_factory=dict)
    """By the world rank of the shard."""


class IndexClient:
    """One trainer's view of the whole index. Requests may overlap; each is collected once, in any order."""

    def __init__(
        self, mailbox: Mailbox, *, index_ranks: Sequence[int], timeout_s: float, build_timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.totals = SearchTotals()
        self._mailbox = mailbox
        self._index_ranks = tuple(index_ranks)
        self._timeout_s, self._build_timeout_s = timeout_s, build_timeout_s
        self._clock = clock
        self._next_request = 0
        self._open: dict[int, _Open] = {}

    def submit(self, vectors_BP: np.ndarray, *, exclude_B: np.ndarray, num_hits: int, step: int, version: int) -> int:
        """Ask every shard for its best `num_hits`; returns at once the number to collect the answer with."""
        if not np.isfinite(vectors_BP).all():
            raise IndexFault(
                f"the queries of step {step} (index version {version}) hold values that are not finite: the query "
                "tower of that snapshot has diverged; resume from an earlier checkpoint with a lower learning rate"
            )
        request = self._next_request
        self._next_request += 1
        query = Query(
            request=request, step=step, version=version, num_hits=num_hits,
            vectors_BP=np.ascontiguousarray(vectors_BP, dtype=np.float32), exclude_B=exclude_B.astype(np.int64),
        )  # fmt: skip
        for rank in self._index_ranks:
            self._mailbox.send(query, to=rank)
        self._open[request] = _Open(step=step, version=version, num_queries=len(vectors_BP), num_hits=num_hits)
        return request

    def collect(self, request: int) -> Candidates:
        """The merged answer; waits for the slowest shard, which may have to build the version first."""
        started_at = self._clock()
        opened = self._open[request]
        while len(opened.replies) < len(self._index_ranks):
            self._take_reply(opened, deadline=started_at + self._build_timeout_s)
        del self._open[request]
        replies = [opened.replies[rank] for rank in self._index_ranks]
        self._check_versions(opened)
        candidates = merge(replies, wait_s=self._clock() - started_at)
        self.totals.searches += 1
        self.totals.queries += opened.num_queries
        self.totals.wait_s += candidates.wait_s
        self.totals.search_ms += candidates.search_ms
        self.totals.parked_ms += candidates.parked_ms
        return candidates

    def build_reports(self) -> list[tuple[int, BuildReport]]:
        """What index ranks have said of their builds since the last call, by world rank (they tell trainer 0 only)."""
        reports = []
        while (arrived := self._mailbox.poll()) is not None:
            source, message = arrived
            if isinstance(message, BuildReport):
                reports.append((source, message))
            else:
                self._take(source, message)
        return reports

    def close(self) -> None:
        """Tell the shards that no more is asked, and take what they had already sent. Open requests are given up."""
        for rank in self._index_ranks:
            self._mailbox.send(Stop(), to=rank)
        self._open.clear()
        for rank in self._index_ranks:
            self._mailbox.receive(
                Stop, source=rank, timeout_s=self._timeout_s, waiting_for=f"index rank {rank} to take leave"
            )
        while self._mailbox.poll() is not None:
            pass
        self._mailbox.flush(self._timeout_s)

    def _take_reply(self, opened: _Open, *, deadline: float) -> None:
        missing = [rank for rank in self._index_ranks if rank not in opened.replies]
        reply = self._mailbox.receive(
            Reply,
            # Of one shard at a time: what other shards send meanwhile is kept. The merge does not care for order.
            source=missing[0],
            timeout_s=max(0.0, deadline - self._clock()),
            waiting_for=f"the answer of index rank(s) {missing} to the queries of step {opened.step}, "
            f"index version {opened.version}; their logs tell whether it is still being built: if building takes that "
            "long, raise index.build_timeout_s or add index ranks",
        )
        self._take(missing[0], reply)

    def _take(self, source: int, message: object) -> None:
        """Put a reply to its request; one that nobody asked for must not be taken for another's."""
        if not isinstance(message, Reply):
            raise IndexFault(f"a trainer received {type(message).__name__} from rank {source}; only replies were due")
        opened = self._open.get(message.request)
        if opened is None or source not in self._index_ranks or source in opened.replies:
            self.totals.strangers += 1
            log.warning("dropped a reply of rank %d to request %d, which is not open", source, message.request)
            return
        shape = (opened.num_queries, opened.num_hits)
        if message.uids_BK.shape != shape:
            raise IndexFault(
                f"index rank {source} answered {message.uids_BK.shape} hits where step {opened.step} asked for {shape}"
            )
        opened.replies[source] = message

    def _check_versions(self, opened: _Open) -> None:
        """Measured at every merge, not assumed: all replies carry the version that was asked for."""
        others = {rank: reply.version for rank, reply in opened.replies.items() if reply.version != opened.version}
        if others:
            self.totals.mixed_version_replies += len(others)
            raise IndexFault(
                f"step {opened.step} asked for index version {opened.version}, but rank(s) answered from others "
                f"{others}: a fault of the index, please report it"
            )
