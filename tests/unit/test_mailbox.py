"""Order, keeping, deadlines of mailboxes over queues; time is a list of numbers here."""

import itertools
import threading
from dataclasses import dataclass

import numpy as np
import pytest

from realm_ds.comm import mailbox as mailbox_module
from realm_ds.comm.loopback import LoopbackHub
from realm_ds.comm.mailbox import Mailbox, check_size
from realm_ds.comm.waiting import LONGEST_SLEEP_S, SHORTEST_SLEEP_S, Clock, wait_until
from realm_ds.errors import IndexFault, LaunchError
from realm_ds.observe.waiting import current_waits


@dataclass(frozen=True, kw_only=True)
class Red:
    number: int


@dataclass(frozen=True, kw_only=True)
class Blue:
    number: int


KINDS = (Red, Blue)


class FakeTime:
    """A clock that moves only by sleeping."""

    def __init__(self) -> None:
        self.at = 100.0
        self.slept: list[float] = []

    def now(self) -> float:
        return self.at

    def sleep(self, duration_s: float) -> None:
        self.slept.append(duration_s)
        self.at += duration_s

    @property
    def clock(self) -> Clock:
        return Clock(now=self.now, sleep=self.sleep)


def take(mailbox: Mailbox, kind: type, source: int | None = None) -> object:
    return mailbox.receive(kind, source=source, timeout_s=1, waiting_for="a test's message")


def test_poll_takes_in_the_order_sent_and_never_waits() -> None:
    time = FakeTime()
    hub = LoopbackHub(2, KINDS, clock=time.clock)
    first, second = hub.mailbox(0), hub.mailbox(1)
    assert (first.rank, second.rank) == (0, 1)
    for number in range(3):
        first.send(Red(number=number), to=1)
    first.send(Blue(number=9), to=0)
    assert [second.poll() for _ in range(4)] == [(0, Red(number=n)) for n in range(3)] + [None]
    assert first.poll() == (0, Blue(number=9))
    assert not time.slept
    first.flush(timeout_s=1)


def test_messages_of_other_kinds_and_sources_are_kept_in_order() -> None:
    hub = LoopbackHub(3, KINDS)
    receiver = hub.mailbox(0)
    for number in range(3):
        hub.mailbox(1).send(Red(number=number), to=0)
        hub.mailbox(2).send(Red(number=10 + number), to=0)
    hub.mailbox(1).send(Blue(number=5), to=0)
    assert take(receiver, Blue) == Blue(number=5)
    assert take(receiver, Red, source=2) == Red(number=10)
    assert take(receiver, Red) == Red(number=0)
    assert [receiver.poll() for _ in range(5)] == [
        (1, Red(number=1)),
        (2, Red(number=11)),
        (1, Red(number=2)),
        (2, Red(number=12)),
        None,
    ]


def test_the_deadline_says_what_was_waited_for_and_keeps_the_rest() -> None:
    time = FakeTime()
    hub = LoopbackHub(2, KINDS, clock=time.clock)
    receiver = hub.mailbox(0)
    hub.mailbox(1).send(Blue(number=1), to=0)
    with pytest.raises(IndexFault, match="^rank 0 waited 0.5 s for shard 1, index version 3, step 7$"):
        receiver.receive(Red, source=1, timeout_s=0.5, waiting_for="shard 1, index version 3, step 7")
    assert 0.5 <= time.at - 100 < 0.51
    assert receiver.poll() == (1, Blue(number=1))


def test_sleep_grows_from_the_shortest_to_the_longest() -> None:
    time = FakeTime()
    receiver = LoopbackHub(1, KINDS, clock=time.clock).mailbox(0)
    with pytest.raises(IndexFault):
        take(receiver, Red)
    assert time.slept[0] == SHORTEST_SLEEP_S
    assert time.slept == sorted(time.slept)
    assert time.slept[-1] == LONGEST_SLEEP_S
    waited = itertools.accumulate(time.slept)
    assert all(sleep <= max(SHORTEST_SLEEP_S, sum_s / 32) for sleep, sum_s in zip(time.slept[1:], waited, strict=False))


def test_a_flood_of_other_messages_does_not_stretch_the_deadline() -> None:
    time = FakeTime()
    hub = LoopbackHub(2, KINDS, clock=time.clock)
    for number in range(100):
        hub.mailbox(1).send(Blue(number=number), to=0)
    with pytest.raises(IndexFault, match="waited 0 s"):
        hub.mailbox(0).receive(Red, source=None, timeout_s=0, waiting_for="a red one")


def test_waiting_for_a_kind_that_cannot_arrive_is_our_mistake() -> None:
    with pytest.raises(TypeError, match="int is not one of this codec's messages: Red, Blue"):
        take(LoopbackHub(1, KINDS).mailbox(0), int)


@pytest.mark.parametrize("rank", [-1, 2])
def test_ranks_that_do_not_exist_are_refused(rank: int) -> None:
    hub = LoopbackHub(2, KINDS)
    with pytest.raises(ValueError, match=f"rank {rank} is not one of the hub's 2"):
        hub.mailbox(rank)
    with pytest.raises(ValueError, match=f"rank {rank} is not one of the hub's 2"):
        hub.mailbox(0).send(Red(number=1), to=rank)


def test_two_threads_play_ping_pong() -> None:
    hub = LoopbackHub(2, KINDS)

    def answer() -> None:
        mailbox = hub.mailbox(1)
        for _ in range(50):
            red = mailbox.receive(Red, source=0, timeout_s=30, waiting_for="a ball")
            mailbox.send(Blue(number=red.number + 1), to=0)

    thread = threading.Thread(target=answer)
    thread.start()
    mine, number = hub.mailbox(0), 0
    for _ in range(50):
        mine.send(Red(number=number), to=1)
        number = mine.receive(Blue, source=1, timeout_s=30, waiting_for="the ball").number
    thread.join()
    assert number == 50


def test_a_damaged_message_names_its_sender() -> None:
    hub = LoopbackHub(2, KINDS)
    hub._inboxes[0].append((1, np.zeros(64, np.uint8)))
    with pytest.raises(IndexFault, match="^rank 0, from rank 1: received 64 bytes that are no message"):
        hub.mailbox(0).poll()


def test_too_large_a_message_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(IndexFault, match=r"a Red of 2147483648 bytes is too large .*at most 2147483647.*in parts"):
        check_size(2**31, Red(number=1))
    check_size(2**31 - 1, Red(number=1))
    monkeypatch.setattr(mailbox_module, "MAX_MESSAGE_BYTES", 16)
    with pytest.raises(IndexFault, match="too large"):
        LoopbackHub(1, KINDS).mailbox(0).send(Red(number=1), to=0)


def test_wait_until_asks_first_and_raises_the_fault_of_its_caller() -> None:
    time = FakeTime()
    wait_until(lambda: True, timeout_s=0, waiting_for="nothing", clock=time.clock)
    with pytest.raises(LaunchError, match="^waited 2 s for godot$"):
        wait_until(lambda: False, timeout_s=2, waiting_for="godot", clock=time.clock, fault=LaunchError)
    answers = iter([False, False, True])
    wait_until(lambda: next(answers), timeout_s=1, waiting_for="the third", clock=time.clock)
    named: list[str] = []
    wait_until(lambda: named.extend(current_waits()) is None, timeout_s=1, waiting_for="its name", clock=time.clock)
    assert [wait.startswith("its name, for") for wait in named] == [True]
    assert current_waits() == []
