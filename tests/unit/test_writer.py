"""The writer's thread: in order, one of each kind, and what fails is told to who trains."""

import errno
import threading

import pytest

from realm_ds.comm.waiting import Clock
from realm_ds.errors import CheckpointError
from realm_ds.train.writer import Writer


def test_jobs_are_done_in_the_order_they_came() -> None:
    writer, done = Writer(timeout_s=5), []
    gate = threading.Event()
    writer.submit("snapshot", gate.wait)
    writer.submit("checkpoint", lambda: done.append("checkpoint"))
    writer.submit("pruning", lambda: done.append("pruning"))
    assert done == []
    gate.set()
    writer.drain()
    assert done == ["checkpoint", "pruning"]
    writer.close()


def test_a_second_of_its_kind_waits_for_the_first_and_not_for_ever() -> None:
    gate, time_s = threading.Event(), [0.0]

    def sleep(seconds: float) -> None:
        time_s[0] += 1.0

    writer = Writer(timeout_s=3, clock=Clock(now=lambda: time_s[0], sleep=sleep))
    writer.submit("snapshot", gate.wait)
    writer.submit("checkpoint", lambda: None)  # another kind does not wait
    assert time_s[0] == 0.0
    with pytest.raises(CheckpointError, match="waited 3 s for the snapshot before this one to be on the disk"):
        writer.submit("snapshot", lambda: None)
    gate.set()
    writer.close()


def test_a_failure_is_told_at_the_next_call_and_nothing_after_it_is_done() -> None:
    writer, done = Writer(timeout_s=5), []
    gate = threading.Event()

    def fail() -> None:
        gate.wait()
        raise OSError(errno.EIO, "Input/output error", "/runs/x")

    writer.submit("snapshot", fail)
    writer.submit("checkpoint", lambda: done.append("checkpoint"))
    writer.check()
    gate.set()
    with pytest.raises(
        CheckpointError, match=r"the snapshot could not be written \(OSError: .*/runs/x'\): mend that, then go on with"
    ):
        writer.drain()
    for call in (writer.check, writer.drain, lambda: writer.submit("checkpoint", lambda: None)):
        with pytest.raises(CheckpointError, match="the snapshot could not be written"):
            call()
    assert done == []
    writer.close()


@pytest.mark.parametrize("fault", [OSError(errno.ENOSPC, "No space left", "/runs/x"), CheckpointError("told already")])
def test_a_full_disk_and_what_is_told_already_are_raised_as_they_are(fault: Exception) -> None:
    def fail() -> None:
        raise fault

    writer = Writer(timeout_s=5)
    writer.submit("checkpoint", fail)
    with pytest.raises(type(fault)) as caught:
        writer.drain()
    assert caught.value is fault
    writer.close()
