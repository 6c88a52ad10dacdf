"""Typed messages between ranks: what a mailbox is, and the one over MPI. What the messages mean is index/'s business.

One MPI message per message, on a communicator of its own. Messages from one rank to another arrive in the order sent.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np

from realm_ds.comm.codec import Buffer, Codec
from realm_ds.comm.waiting import Backoff, Clock, wait_until
from realm_ds.errors import IndexFault
from realm_ds.observe.waiting import waiting_for as named

if TYPE_CHECKING:
    from mpi4py import MPI

Message = TypeVar("Message")

MAX_MESSAGE_BYTES = 2**31 - 1
"""MPI counts are 32-bit on many sites; snapshots are chunked far below this."""


class Mailbox(Protocol):
    """Sends and receives dataclass messages; used by one thread only."""

    @property
    def rank(self) -> int:
        """The rank that others send to."""
        ...

    def send(self, message: object, *, to: int) -> None:
        """Returns at once; the message is copied, so its arrays may be changed after."""
        ...

    def poll(self) -> tuple[int, object] | None:
        """The oldest message not yet taken and the rank it came from, or None; never blocks."""
        ...

    def receive(
        self, kind: type[Message], *, source: int | None, timeout_s: float, waiting_for: str, waited_s: float = 0.0
    ) -> Message:
        """The oldest message of `kind` (from `source`, unless None); others are kept, in order, for later.

        Raises IndexFault after `timeout_s`, of which `waited_s` have gone already, naming `waiting_for`.
        """
        ...

    def flush(self, timeout_s: float) -> None:
        """Returns once all that was sent has left; raises IndexFault after `timeout_s`."""
        ...


class PollingMailbox(ABC):
    """The half of a mailbox that does not depend on how messages travel: order, keeping, waiting."""

    def __init__(self, codec: Codec, clock: Clock) -> None:
        self._codec = codec
        self._clock = clock
        self._kept: deque[tuple[int, object]] = deque()

    @abstractmethod
    def _arrival(self) -> tuple[int, Buffer] | None:
        """The next buffer that has arrived and its source, or None at once; also moves pending sends on."""

    @abstractmethod
    def _unsent(self) -> Sequence[int]:
        """The ranks to which something is still on its way, after moving it on."""

    def poll(self) -> tuple[int, object] | None:
        if self._kept:
            self._unsent()  # A rank that only takes kept messages must still let its own sends move.
            return self._kept.popleft()
        return self._arrived()

    def receive(
        self, kind: type[Message], *, source: int | None, timeout_s: float, waiting_for: str, waited_s: float = 0.0
    ) -> Message:
        self._codec.check_kind(kind)
        for place, (sender, message) in enumerate(self._kept):
            if isinstance(message, kind) and source in (None, sender):
                del self._kept[place]
                return message
        deadline = self._clock.now() + timeout_s - waited_s
        backoff = Backoff(self._clock)
        with named(waiting_for):
            while True:
                arrived = self._arrived()
                if arrived is not None:
                    sender, message = arrived
                    if isinstance(message, kind) and source in (None, sender):
                        return message
                    self._kept.append(arrived)
                    backoff.reset()
                # Checked after arrivals too: a flood of other messages must not stretch the deadline.
                if self._clock.now() >= deadline:
                    raise IndexFault(f"rank {self._rank_name()} waited {timeout_s:g} s for {waiting_for}")
                if arrived is None:
                    backoff.sleep()

    def flush(self, timeout_s: float) -> None:
        def is_empty() -> bool:
            # Two ranks that flush to each other must both take what arrives, or neither send completes.
            while (arrived := self._arrived()) is not None:
                self._kept.append(arrived)
            return not self._unsent()

        ranks = sorted(set(self._unsent()))
        waiting_for = f"rank(s) {', '.join(map(str, ranks))} to take what rank {self._rank_name()} sent"
        wait_until(is_empty, timeout_s=timeout_s, waiting_for=waiting_for, clock=self._clock)

    def _arrived(self) -> tuple[int, object] | None:
        arrival = self._arrival()
        if arrival is None:
            return None
        source, buffer = arrival
        try:
            return source, self._codec.decode(buffer)
        except IndexFault as error:
            raise IndexFault(f"rank {self._rank_name()}, from rank {source}: {error}") from error

    @abstractmethod
    def _rank_name(self) -> str:
        """Who this is, in errors."""


class MpiMailbox(PollingMailbox):
    """A mailbox over MPI. Creating one is collective over `comm`; only the main thread may use it, which is checked."""

    def __init__(
        self, comm: "MPI.Intracomm", kinds: Sequence[type], *, timeout_s: float = 600.0, clock: Clock | None = None
    ) -> None:
        super().__init__(Codec(kinds), clock or Clock())
        from mpi4py import MPI

        self._mpi = MPI
        self._check_thread()
        # A communicator of its own: no other part of the program can receive these messages, or send into them.
        self._comm, request = comm.Idup()
        waiting_for = f"the other {comm.Get_size() - 1} rank(s) to open their mailboxes"
        wait_until(request.Test, timeout_s=timeout_s, waiting_for=waiting_for, clock=self._clock)
        self._status = MPI.Status()
        self._outgoing: list[tuple[MPI.Request, Buffer, int]] = []
        self._incoming: list[tuple[MPI.Request, Buffer, int]] = []

    @property
    def rank(self) -> int:
        return self._comm.Get_rank()

    def send(self, message: object, *, to: int) -> None:
        self._check_thread()
        if not 0 <= to < self._comm.Get_size():
            raise ValueError(f"rank {to} is not one of the world's {self._comm.Get_size()}")
        buffer = self._codec.encode(message)
        check_size(buffer.size, message)
        self._outgoing.append((self._comm.Isend([buffer, self._mpi.BYTE], dest=to), buffer, to))
        self._unsent()

    def _arrival(self) -> tuple[int, Buffer] | None:
        self._unsent()
        found = self._comm.Improbe(status=self._status)
        if found is not None:
            buffer = np.empty(self._status.Get_count(self._mpi.BYTE), np.uint8)
            # Not the blocking Recv: a large message moves only while its sender is inside MPI, and it may be training.
            self._incoming.append((found.Irecv([buffer, self._mpi.BYTE]), buffer, self._status.Get_source()))
        unfinished: set[int] = set()
        for place, (request, buffer, source) in enumerate(self._incoming):
            # A small message must not overtake a large one from the same rank.
            if source not in unfinished and request.Test():
                del self._incoming[place]
                return source, buffer
            unfinished.add(source)
        return None

    def _unsent(self) -> Sequence[int]:
        self._check_thread()
        if self._outgoing:
            self._outgoing = [outgoing for outgoing in self._outgoing if not outgoing[0].Test()]
        return [to for _, _, to in self._outgoing]

    def _check_thread(self) -> None:
        if not self._mpi.Is_thread_main():
            raise RuntimeError("only the main thread may use the MPI mailbox (MPI thread level FUNNELED)")

    def _rank_name(self) -> str:
        return str(self.rank)


def check_size(num_bytes: int, message: object) -> None:
    """Refuses what one MPI message cannot carry everywhere."""
    if num_bytes > MAX_MESSAGE_BYTES:
        raise IndexFault(
            f"a {type(message).__name__} of {num_bytes} bytes is too large for one message "
            f"(at most {MAX_MESSAGE_BYTES}): send it in parts "
            "(index.snapshot_chunk_bytes, a smaller micro_batch_size or fewer candidates)"
        )
