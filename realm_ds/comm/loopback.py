"""The mailbox over queues, for ranks that are threads of one process and for unit tests. No MPI here.

Messages go through the same codec as over MPI, so that what works here does not fail there for its types.
"""

from collections import deque
from collections.abc import Sequence

from realm_ds.comm.codec import Buffer, Codec
from realm_ds.comm.mailbox import PollingMailbox, check_size
from realm_ds.comm.waiting import Clock


class LoopbackHub:
    """`num_ranks` mailboxes that reach one another; each may be used by a thread of its own."""

    def __init__(self, num_ranks: int, kinds: Sequence[type], *, clock: Clock | None = None) -> None:
        # Appending to and popping from a deque are atomic; nothing more is shared between the threads.
        self._inboxes: list[deque[tuple[int, Buffer]]] = [deque() for _ in range(num_ranks)]
        self._codec = Codec(kinds)
        self._clock = clock or Clock()

    def mailbox(self, rank: int) -> "LoopbackMailbox":
        if not 0 <= rank < len(self._inboxes):
            raise ValueError(f"rank {rank} is not one of the hub's {len(self._inboxes)}")
        return LoopbackMailbox(rank, self._inboxes, self._codec, self._clock)


class LoopbackMailbox(PollingMailbox):
    """What one rank of a LoopbackHub sends and receives with; `LoopbackHub.mailbox` makes it."""

    def __init__(self, rank: int, inboxes: list[deque[tuple[int, Buffer]]], codec: Codec, clock: Clock) -> None:
        super().__init__(codec, clock)
        self._rank = rank
        self._inboxes = inboxes

    @property
    def rank(self) -> int:
        return self._rank

    def send(self, message: object, *, to: int) -> None:
        if not 0 <= to < len(self._inboxes):
            raise ValueError(f"rank {to} is not one of the hub's {len(self._inboxes)}")
        buffer = self._codec.encode(message)
        check_size(buffer.size, message)
        self._inboxes[to].append((self._rank, buffer))

    def _arrival(self) -> tuple[int, Buffer] | None:
        try:
            return self._inboxes[self._rank].popleft()
        except IndexError:
            return None

    def _unsent(self) -> Sequence[int]:
        return ()

    def _rank_name(self) -> str:
        return str(self._rank)
