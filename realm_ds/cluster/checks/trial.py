"""Tries what ranks do with each other, rank 0 conducting: the way of messages, the way of connections, the clocks.

The mailbox is that of training, so a time here is what a search would see of it. What it means is judge_network.py's.
"""

import contextlib
import itertools
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Annotated, TypeVar

import numpy as np

from realm_ds.cluster.checks.facts import Facts
from realm_ds.cluster.checks.look import ALL_LOOKS_S
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
FACTS_TIMEOUT_S = 60.0
"""After the slowest look of rank 0, which has a deadline of its own."""
TRIALS_TIMEOUT_S = 60.0
"""No trial begins later."""
SPARE_S = 30.0
"""More than the last trial takes."""
CONDUCTED_WITHIN_S = ALL_LOOKS_S + FACTS_TIMEOUT_S + TRIALS_TIMEOUT_S + SPARE_S
"""An answering rank that hears nothing for so long gives up: rank 0 has given up or told its findings before."""

Thing = TypeVar("Thing")
Numbered = TypeVar("Numbered", "Pong", "Tried")
_NUMBERS = itertools.count(1)
"""Of the questions of this rank; an answer to an earlier one comes late and counts for none."""


@dataclass(frozen=True, kw_only=True)
class Told:
    """To rank 0: a rank's facts."""

    facts: str


@dataclass(frozen=True, kw_only=True)
class Ping:
    number: int
    load: Annotated[np.ndarray, Array("u1", 1)]


@dataclass(frozen=True, kw_only=True)
class Pong:
    number: int
    time: float
    """By the clock of whoever answers."""


@dataclass(frozen=True, kw_only=True)
class TryLink:
    """From rank 0: measure the way to another rank."""

    number: int
    to: int


@dataclass(frozen=True, kw_only=True)
class TryDial:
    """From rank 0: connect to where another rank listens."""

    number: int
    to: int
    address: str
    port: int


@dataclass(frozen=True, kw_only=True)
class Tried:
    """To rank 0: what came of it."""

    number: int = 0
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
    """How far the clock of a host is ahead of rank 0's; NaN if it was not told in time."""
    num_skipped: int = 0
    """Not begun, since the time for all was over."""


def conduct(
    world: World,
    mailbox: Mailbox,
    mine: Facts,
    *,
    timeout_s: float = FACTS_TIMEOUT_S,
    trials_timeout_s: float = TRIALS_TIMEOUT_S,
    clock: Clock | None = None,
) -> tuple[dict[int, Facts], Trials]:
    """Rank 0: everybody's facts, by rank (who is silent until the deadline is left out), and the trials."""
    clock = clock or Clock()
    facts = _hear(world, mailbox, mine, timeout_s=timeout_s, clock=clock)
    deadline = clock.now() + trials_timeout_s
    wanted_dials = choose_dials(world, facts)
    wanted_links = [(source, to) for source, to in choose_links(world) if {source, to} <= set(facts)]
    wanted_clocks = [rank for rank in first_ranks(world.hosts)[1:] if rank in facts]
    dials = _dial_all(mailbox, list(_in_time(wanted_dials, deadline=deadline, clock=clock)), clock=clock)
    links = tuple(
        Link(source=source, to=to, tried=_try_link(mailbox, source, to, clock=clock))
        for source, to in _in_time(wanted_links, deadline=deadline, clock=clock)
    )
    skews_s = {
        world.hosts[rank]: _skew(mailbox, rank, clock=clock)
        for rank in _in_time(wanted_clocks, deadline=deadline, clock=clock)
    }
    for rank in range(1, world.world_size):
        mailbox.send(Finish(), to=rank)
    num_wanted = len(wanted_dials) + len(wanted_links) + len(wanted_clocks)
    num_skipped = num_wanted - len(dials) - len(links) - len(skews_s)
    return facts, Trials(links=links, dials=dials, skews_s=skews_s, num_skipped=num_skipped)


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
            mailbox.send(Pong(number=message.number, time=time.time()), to=source)
        elif isinstance(message, TryLink):
            mailbox.send(replace(_measure(mailbox, message.to, clock=clock), number=message.number), to=0)
        elif isinstance(message, TryDial):
            fault = dial(message.address, message.port, answer=message.to)
            mailbox.send(Tried(number=message.number, fault=fault), to=0)


def first_ranks(hosts: Sequence[str]) -> list[int]:
    """The first rank of each host, in the order of ranks."""
    return sorted({host: rank for rank, host in reversed(list(enumerate(hosts)))}.values())


def trainer_firsts(world: World) -> list[int]:
    """The first trainer of each host that has one: only trainers open connections of their own."""
    trainers = world.trainer_ranks
    return [trainers[place] for place in first_ranks([world.hosts[rank] for rank in trainers])]


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
    """Each host of trainers the next one's address for gloo, and all of them that of the trainers' store."""
    firsts = [rank for rank in trainer_firsts(world) if rank in facts and facts[rank].network is not None]
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


def _in_time(things: Iterable[Thing], *, deadline: float, clock: Clock) -> Iterator[Thing]:
    """Those whose turn comes before the deadline."""
    return itertools.takewhile(lambda _: clock.now() < deadline, things)


def _try_link(mailbox: Mailbox, source: int, to: int, *, clock: Clock) -> Tried:
    if source == mailbox.rank:
        return _measure(mailbox, to, clock=clock)
    order = TryLink(number=next(_NUMBERS), to=to)
    mailbox.send(order, to=source)
    return _outcome(mailbox, source, order.number, since=clock.now(), timeout_s=2 * LINK_TIMEOUT_S, clock=clock)


def _dial_all(mailbox: Mailbox, dials: Sequence[Dial], *, clock: Clock) -> tuple[Dial, ...]:
    """All at once, since each may take until its deadline."""
    orders = [TryDial(number=next(_NUMBERS), to=one.to, address=one.address, port=one.port) for one in dials]
    for one, order in zip(dials, orders, strict=True):
        if one.source != mailbox.rank:
            mailbox.send(order, to=one.source)
    faults = {
        order.number: dial(one.address, one.port, answer=one.to)
        for one, order in zip(dials, orders, strict=True)
        if one.source == mailbox.rank
    }
    since, timeout_s = clock.now(), (DIALS_EACH + 1) * DIAL_TIMEOUT_S
    for one, order in zip(dials, orders, strict=True):
        if order.number not in faults:
            outcome = _outcome(mailbox, one.source, order.number, since=since, timeout_s=timeout_s, clock=clock)
            faults[order.number] = outcome.fault
    return tuple(replace(one, fault=faults[order.number]) for one, order in zip(dials, orders, strict=True))


def _outcome(mailbox: Mailbox, rank: int, number: int, *, since: float, timeout_s: float, clock: Clock) -> Tried:
    waiting_for = f"world rank {rank} to measure"
    try:
        return _answer_to(
            number, Tried, mailbox, rank, since=since, timeout_s=timeout_s, waiting_for=waiting_for, clock=clock
        )
    except IndexFault as error:
        return Tried(fault=str(error))


def _measure(mailbox: Mailbox, to: int, *, clock: Clock) -> Tried:
    """Latency of one way, and bytes a second of large messages."""
    since = clock.now()
    few, many = np.zeros(8, np.uint8), np.zeros(BULK_BYTES, np.uint8)
    try:
        pings_s = [_ping(mailbox, to, few, since=since, clock=clock)[0] for _ in range(PINGS)]
        bulks_s = [_ping(mailbox, to, many, since=since, clock=clock)[0] for _ in range(NUM_BULKS)]
    except IndexFault as error:
        return Tried(fault=str(error))
    round_trip_s = median(pings_s)  # a large message goes one way, and a pong comes back
    return Tried(latency_s=round_trip_s / 2, bytes_per_s=BULK_BYTES / max(min(bulks_s) - round_trip_s, 1e-6))


def _skew(mailbox: Mailbox, rank: int, *, clock: Clock) -> float:
    """From the quickest of a few exchanges: half of what it took is the most that this can be off by."""
    since = clock.now()
    best_s, skew_s = float("inf"), float("nan")
    with contextlib.suppress(IndexFault):
        for _ in range(PINGS):
            took_s, middle, theirs = _ping(mailbox, rank, np.zeros(8, np.uint8), since=since, clock=clock)
            if took_s < best_s:
                best_s, skew_s = took_s, theirs - middle
    return skew_s


def _ping(mailbox: Mailbox, to: int, load: np.ndarray, *, since: float, clock: Clock) -> tuple[float, float, float]:
    """How long it took, the wall clock's time in the middle of that, and what the other's clock said."""
    ping = Ping(number=next(_NUMBERS), load=load)
    sent_at, sent_time = clock.now(), time.time()
    mailbox.send(ping, to=to)
    waiting_for = f"world rank {to} to answer a ping"
    pong = _answer_to(
        ping.number, Pong, mailbox, to, since=since, timeout_s=LINK_TIMEOUT_S, waiting_for=waiting_for, clock=clock
    )
    took_s = clock.now() - sent_at
    return took_s, sent_time + took_s / 2, pong.time


def _answer_to(
    number: int,
    kind: type[Numbered],
    mailbox: Mailbox,
    rank: int,
    *,
    since: float,
    timeout_s: float,
    waiting_for: str,
    clock: Clock,
) -> Numbered:
    """The answer to this question; those to earlier ones are dropped."""
    while True:
        waited_s = clock.now() - since
        answer = mailbox.receive(kind, source=rank, timeout_s=timeout_s, waiting_for=waiting_for, waited_s=waited_s)
        if answer.number == number:
            return answer
