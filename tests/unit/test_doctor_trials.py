"""What ranks try with each other for the doctor, over queues; what it judges of that is test_doctor.py's."""

import math
import socket
import threading
from dataclasses import replace
from typing import Any

import pytest

from realm_ds.cluster.checks import look, trial
from realm_ds.cluster.checks.facts import Facts
from realm_ds.cluster.checks.trial import Listener, Trials, Tried, choose_dials, choose_links, dial
from realm_ds.comm.loopback import LoopbackHub
from realm_ds.comm.waiting import Clock
from realm_ds.comm.world import World
from realm_ds.errors import IndexFault
from tests.support.facts import WORLD, facts_of


def test_links_go_from_trainers_to_index_ranks_elsewhere() -> None:
    assert choose_links(WORLD) == [(0, 3), (2, 1)]
    assert choose_links(replace(WORLD, roles=("trainer",) * 4)) == [(0, 2)]
    assert choose_links(World(world_rank=0, hosts=("a", "a"), roles=("index", "trainer"))) == [(0, 1)]
    assert choose_links(World(world_rank=0, hosts=("a",), roles=("trainer",))) == []
    many = World(world_rank=0, hosts=("a",) * 64 + ("b",) * 64, roles=("trainer",) * 100 + ("index",) * 28)
    assert len(choose_links(many)) == 4


def test_whoever_answers_a_call_must_be_the_one() -> None:
    listener = Listener(5)
    assert dial("127.0.0.1", listener.port, answer=5) == ""
    assert dial("127.0.0.1", listener.port, answer=6) == "another program answers there"
    listener.close()
    assert "refused" in dial("127.0.0.1", listener.port, answer=5)


THREE = World(world_rank=0, hosts=("a", "b", "b"), roles=("trainer", "index", "trainer"))


def facts_here(world_rank: int, port: int) -> Facts:
    """Of a rank that is reached on this machine."""
    facts = facts_of(world_rank)
    assert facts.network is not None
    return replace(facts, network=replace(facts.network, address="127.0.0.1", port=port, store=""))


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def test_ranks_try_each_other() -> None:
    """Over queues; what comes late of earlier questions counts for none."""
    hub, port = LoopbackHub(3, trial.KINDS), closed_port()
    mine = [facts_here(rank, port) for rank in range(3)]
    for late in (Tried(number=0, latency_s=99.0), trial.Pong(number=0, time=0.0)):
        hub.mailbox(1).send(late, to=0)
        hub.mailbox(2).send(late, to=0)
    others = [
        threading.Thread(target=trial.answer, args=(hub.mailbox(rank), mine[rank]), daemon=True) for rank in (1, 2)
    ]
    for thread in others:
        thread.start()
    facts, trials = trial.conduct(THREE, hub.mailbox(0), mine[0], timeout_s=20)
    for thread in others:
        thread.join(20)
        assert not thread.is_alive()
    assert facts == {rank: Facts.from_json(mine[rank].to_json()) for rank in range(3)} | {0: mine[0]}
    assert [(link.source, link.to, link.tried.fault) for link in trials.links] == [(0, 1, ""), (2, 1, "")]
    assert all(0 < link.tried.latency_s < 5 and link.tried.bytes_per_s > 0 for link in trials.links)
    assert list(trials.skews_s) == ["b"]
    assert abs(trials.skews_s["b"]) < 5
    assert [(one.source, one.to, one.fault) for one in trials.dials] == [
        (0, 2, "Connection refused"), (2, 0, "Connection refused")
    ]  # fmt: skip
    assert trials.num_skipped == 0


class Quick:
    """A clock that passes time only where somebody sleeps."""

    def __init__(self) -> None:
        self.time_s = 0.0
        self.clock = Clock(now=lambda: self.time_s, sleep=self.sleep)

    def sleep(self, seconds: float) -> None:
        self.time_s += seconds


def test_rank_0_has_done_before_the_others_give_up() -> None:
    """However many told their facts and then fell silent."""
    world = World(world_rank=0, hosts=tuple("abcdefgh"), roles=("trainer",) * 4 + ("index",) * 4)
    quick, port = Quick(), closed_port()
    hub = LoopbackHub(8, trial.KINDS, clock=quick.clock)
    for rank in range(1, 7):
        facts = replace(facts_here(0, port), world_rank=rank)
        hub.mailbox(rank).send(trial.Told(facts=facts.to_json()), to=0)
    facts, trials = trial.conduct(world, hub.mailbox(0), facts_here(0, port), clock=quick.clock)
    assert list(facts) == list(range(7))
    assert all(one.fault for one in (*trials.dials, *(link.tried for link in trials.links)))
    assert trials.links[0].tried.fault == "rank 0 waited 10 s for world rank 4 to answer a ping"
    assert trials.num_skipped > 0
    wanted = len(choose_dials(world, facts)) + 3 + 6  # a link of four leads to the rank that told nothing
    assert len(trials.dials) + len(trials.links) + len(trials.skews_s) + trials.num_skipped == wanted
    assert all(math.isnan(skew_s) for skew_s in trials.skews_s.values())
    assert quick.time_s + look.ALL_LOOKS_S < trial.CONDUCTED_WITHIN_S

    before_s = quick.time_s
    alone, trials = trial.conduct(
        THREE, LoopbackHub(3, trial.KINDS, clock=quick.clock).mailbox(0), facts_of(0), clock=quick.clock
    )
    assert (list(alone), trials) == ([0], Trials())
    assert quick.time_s - before_s == pytest.approx(trial.FACTS_TIMEOUT_S, abs=0.01)


def test_a_rank_that_hears_nothing_of_rank_0_gives_up() -> None:
    quick = Quick()
    hub = LoopbackHub(2, trial.KINDS, clock=quick.clock)
    with pytest.raises(IndexFault, match="rank 1 heard nothing of rank 0 for 190 s"):
        trial.answer(hub.mailbox(1), facts_of(1), clock=quick.clock)


def test_a_large_message_is_timed_without_its_way_there_and_the_pongs_way_back() -> None:
    quick, latency_s, bytes_per_s = Quick(), 0.025, 20e6
    hub = LoopbackHub(2, trial.KINDS, clock=quick.clock)
    mailbox, other = hub.mailbox(0), hub.mailbox(1)

    class Wire:
        rank = 0

        def send(self, message: Any, *, to: int) -> None:
            quick.sleep(2 * latency_s + len(message.load) / bytes_per_s)
            other.send(trial.Pong(number=message.number, time=0.0), to=0)

        receive = staticmethod(mailbox.receive)

    measured = trial._measure(Wire(), 1, clock=quick.clock)  # type: ignore[arg-type]
    assert measured.latency_s == pytest.approx(latency_s, rel=1e-3)
    assert measured.bytes_per_s == pytest.approx(bytes_per_s, rel=1e-3)
