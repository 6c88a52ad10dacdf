"""Tries what ranks do with each other, rank 0 conducting: the way of messages, the way of connections, the clocks.

The mailbox is that of training, so a time here is what a search would see of it. What it means is judge_hosts.py's.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Annotated

import numpy as np

from realm_ds.cluster.checks.facts import Facts
from realm_ds.comm.codec import Array
from realm_ds.comm.mailbox import Mailbox
from realm_ds.comm.waiting import Backoff, Clock
from realm_ds.comm.world import World
from realm_ds.errors import IndexFault

PINGS = 20
BULK_BYTES = 4 << 20
NUM_BULKS = 4
NUM_LINKS = 4
LINK_TIMEOUT_S = 10.0
DIAL_TIMEOUT_S = 5.0
DIALS_EACH = 2
CONDUCTED_WITHIN_S = 180.0
"""An answering rank that hears nothing for so long gives up."""


@dataclass(frozen=True, kw_only=True)
class Told:
    """To rank 0: a rank's facts."""

    facts: str


@dataclass(frozen=True, kw_only=True)
class Ping:
    load: Annotated[np.ndarray, Array("u1", 1)]


@dataclass(frozen=True, kw_only=True)
class Pong:
    time: float
    """By the clock of whoever answers."""


@dataclass(frozen=True, kw_only=True)
class TryLink:
    """From rank 0: measure the way to another rank."""

    to: int


@dataclass(frozen=True, kw_only=True)
class TryDial:
    """From rank 0: connect to where another rank listens."""

    to: int
    address: str
    port: int


@dataclass(frozen=True, kw_only=True)
class Tried:
    """To rank 0: what came of it."""

    latency_s: float = 0.0
    bytes_per_s: float = 0.0
    fault: str = ""


@dataclass(frozen=True, kw_only=True)
class Finish:
    """From rank 0."""


KINDS = (Told, Ping, Pong, TryLink, TryDial, Tried, Finish)


@dataclass(frozen=True, kw_only=True)
class Link:
    """Messages between two ranks."""

    source: int
    to: int
    tried: Tried


@dataclass(frozen=True, kw_only=True)
class Dial:
    """One host's connection to another, by the address that this one gives."""

    source: int
    to: int
    address: str
    port: int
    fault: str = ""


@dataclass(frozen=True, kw_only=True)
class Trials:
    links: tuple[Link, ...] = ()
    dials: tuple[Dial, ...] = ()
    skews_s: Mapping[str, float] = field(default_factory=dict)
    """How far the clock of a host is ahead of rank 0's."""


def conduct(
    world: World, mailbox: Mailbox, mine: Facts, *, timeout_s: float, clock: Clock | None = None
) -> tuple[dict[int, Facts], Trials]:
    """Rank 0: everybody's facts, by rank (who is silent until the deadline is left out), and the trials."""
    facts = _hear(world, mailbox, mine, timeout_s=timeout_s, clock=clock or Clock())
    here = set(facts)
    links = tuple(
        Link(source=source, to=to, tried=_ask(mailbox, source, TryLink(to=to), timeout_s=LINK_TIMEOUT_S))
        for source, to in choose_links(world)
        if {source, to} <= here
    )
    dials = _dial_all(mailbox, choose_dials(world, facts))
    skews = {world.hosts[rank]: _skew(mailbox, rank) for rank in first_ranks(world.hosts)[1:] if rank in here}
    for rank in range(1, world.world_size):
        mailbox.send(Finish(), to=rank)
    return facts, Trials(links=links, dials=dials, skews_s=skews)


def answer(mailbox: Mailbox, mine: Facts, *, clock: Clock | None = None) -> None:
    """Every other rank: tell the facts, then do as rank 0 says until it has done."""
    clock = clock or Clock()
    mailbox.send(Told(facts=mine.to_json()), to=0)
    heard_at, backoff = clock.now(), Backoff(clock)
    while True:
        arrived = mailbox.poll()
        if arrived is None:
            if clock.now() - heard_at > CONDUCTED_WITHIN_S:
                raise IndexFault(f"rank {mailbox.rank} heard nothing of rank 0 for {CONDUCTED_WITHIN_S:g} s")
            backoff.sleep()
            continue
        source, message = arrived
        heard_at = clock.now()
        backoff.reset()
        if isinstance(message, Finish):
            return
        if isinstance(message, Ping):
            mailbox.send(Pong(time=time.time()), to=source)
        elif isinstance(message, TryLink):
            mailbox.send(_measure(mailbox, message.to), to=0)
        elif isinstance(message, TryDial):
            mailbox.send(Tried(fault=dial(message.address, message.port, answer=message.to)), to=0)


def first_ranks(hosts: Sequence[str]) -> list[int]:
    """The first rank of each host, in the order of ranks."""
    return sorted({host: rank for rank, host in reversed(list(enumerate(hosts)))}.values())


def choose_links(world: World, *, most: int = NUM_LINKS) -> list[tuple[int, int]]:
    """A few ways to measure: from trainers, spread over hosts, to index ranks on other hosts where there are such;
    without index ranks from rank 0 to others. Rank 0 is never the one that is only asked."""
    if world.index_ranks:
        firsts = set(first_ranks(world.hosts))
        trainers = sorted(world.trainer_ranks, key=lambda rank: (rank not in firsts, rank))[:most]
        pairs = []
        for number, trainer in enumerate(trainers):
            others = [rank for rank in world.index_ranks if world.hosts[rank] != world.hosts[trainer]]
            choice = others or world.index_ranks
            pairs.append((trainer, choice[number * len(choice) // len(trainers)]))
        return [(to, source) if to == 0 else (source, to) for source, to in pairs]
    others = first_ranks(world.hosts)[1:] or list(range(1, world.world_size))
    return [(0, rank) for rank in others[:most]]


def choose_dials(world: World, facts: Mapping[int, Facts]) -> list[Dial]:
    """Each host the next one's address for gloo, and all of them that of the trainers' store."""
    firsts = [rank for rank in first_ranks(world.hosts) if rank in facts and facts[rank].network is not None]
    if len(firsts) < 2:
        return []
    known = {rank: network for rank in firsts if (network := facts[rank].network) is not None}
    dials = [
        Dial(source=source, to=to, address=known[to].address, port=known[to].port)
        for source, to in zip(firsts, [*firsts[1:], firsts[0]], strict=True)
    ]
    for to, network in known.items():
        if network.store:
            dials += [
                Dial(source=rank, to=to, address=network.store, port=network.port) for rank in firsts if rank != to
            ]
    return dials


class Listener:
    """Answers whoever connects with this rank's number, on all interfaces of the host, until it is closed."""

    def __init__(self, world_rank: int) -> None:
        self._socket = socket.create_server(("", 0))
        self._words = str(world_rank).encode()
        self.port: int = self._socket.getsockname()[1]
        threading.Thread(target=self._answer, daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _answer(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                connection, _ = self._socket.accept()
                with connection, contextlib.suppress(OSError):
                    connection.sendall(self._words)


def dial(address: str, port: int, *, answer: int, timeout_s: float = DIAL_TIMEOUT_S) -> str:
    """What went wrong when connecting to where rank `answer` listens; "" if it answered."""
    try:
        with socket.create_connection((address, port), timeout=timeout_s) as connection:
            said = connection.recv(16).decode(errors="replace")
    except OSError as error:
        return error.strerror or str(error) or type(error).__name__
    return "" if said == str(answer) else "another program answers there"


def _hear(world: World, mailbox: Mailbox, mine: Facts, *, timeout_s: float, clock: Clock) -> dict[int, Facts]:
    facts, deadline = {world.world_rank: mine}, clock.now() + timeout_s
    with contextlib.suppress(IndexFault):
        while len(facts) < world.world_size:
            left_s = max(deadline - clock.now(), 0.0)
            told = mailbox.receive(Told, source=None, timeout_s=left_s, waiting_for="all ranks to look around")
            theirs = Facts.from_json(told.facts)
            facts[theirs.world_rank] = theirs
    return facts


def _ask(mailbox: Mailbox, rank: int, order: TryLink, *, timeout_s: float) -> Tried:
    if rank == mailbox.rank:
        return _measure(mailbox, order.to)
    mailbox.send(order, to=rank)
    return _reply(mailbox, rank, timeout_s=2 * timeout_s)


def _reply(mailbox: Mailbox, rank: int, *, timeout_s: float) -> Tried:
    try:
        return mailbox.receive(Tried, source=rank, timeout_s=timeout_s, waiting_for=f"world rank {rank} to measure")
    except IndexFault as error:
        return Tried(fault=str(error))


def _dial_all(mailbox: Mailbox, dials: Sequence[Dial]) -> tuple[Dial, ...]:
    """All at once, since each may take until its deadline."""
    for one in dials:
        if one.source != mailbox.rank:
            mailbox.send(TryDial(to=one.to, address=one.address, port=one.port), to=one.source)
    faults = []
    for one in dials:
        if one.source == mailbox.rank:
            faults.append(dial(one.address, one.port, answer=one.to))
        else:
            faults.append(_reply(mailbox, one.source, timeout_s=(DIALS_EACH + 1) * DIAL_TIMEOUT_S).fault)
    return tuple(
        Dial(source=one.source, to=one.to, address=one.address, port=one.port, fault=fault)
        for one, fault in zip(dials, faults, strict=True)
    )


def _measure(mailbox: Mailbox, to: int) -> Tried:
    """Latency of one way, and bytes a second of large messages."""
    deadline = time.monotonic() + LINK_TIMEOUT_S
    try:
        pings_s = [_ping(mailbox, to, np.zeros(8, np.uint8), deadline=deadline)[0] for _ in range(PINGS)]
        load = np.zeros(BULK_BYTES, np.uint8)
        bulks_s = [_ping(mailbox, to, load, deadline=deadline)[0] for _ in range(NUM_BULKS)]
    except IndexFault as error:
        return Tried(fault=str(error))
    latency_s = median(pings_s) / 2
    return Tried(latency_s=latency_s, bytes_per_s=BULK_BYTES / max(min(bulks_s) - latency_s, 1e-6))


def _skew(mailbox: Mailbox, rank: int) -> float:
    """From the quickest of a few exchanges: half of what it took is the most that this can be off by."""
    deadline = time.monotonic() + LINK_TIMEOUT_S
    best_s, skew_s = float("inf"), float("nan")
    with contextlib.suppress(IndexFault):
        for _ in range(PINGS):
            took_s, middle, theirs = _ping(mailbox, rank, np.zeros(8, np.uint8), deadline=deadline)
            if took_s < best_s:
                best_s, skew_s = took_s, theirs - middle
    return skew_s


def _ping(mailbox: Mailbox, to: int, load: np.ndarray, *, deadline: float) -> tuple[float, float, float]:
    """How long it took, the wall clock's time in the middle of that, and what the other's clock said."""
    sent_at, sent_time = time.monotonic(), time.time()
    mailbox.send(Ping(load=load), to=to)
    pong = mailbox.receive(
        Pong, source=to, timeout_s=max(deadline - sent_at, 0.0), waiting_for=f"world rank {to} to answer a ping"
    )
    took_s = time.monotonic() - sent_at
    return took_s, sent_time + took_s / 2, pong.time
