"""Read-ahead: in order, one ahead and no more, errors where their result is due, no wait without end."""

import gc
import itertools
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realm_ds.data.read_ahead import read_ahead
from realm_ds.errors import DataError


def squares(items: Iterator[int], *, timeout_s: float = 60.0) -> Iterator[int]:
    return read_ahead(items, lambda item: item * item, timeout_s=timeout_s, what="squaring")


@given(items=st.lists(st.integers(), min_size=1, max_size=9))
def test_results_are_in_order(items: list[int]) -> None:
    assert list(squares(iter(items))) == [item * item for item in items]


def test_one_item_is_worked_on_ahead_and_no_more() -> None:
    begun: list[int] = []
    second = threading.Event()

    def work(item: int) -> int:
        begun.append(item)
        if item == 1:
            second.set()
        return item

    results = read_ahead(itertools.count(), work, timeout_s=60, what="counting")
    assert next(results) == 0
    assert second.wait(60)
    assert begun == [0, 1]
    assert next(results) == 1
    assert begun[:2] == [0, 1]
    assert len(begun) <= 3


def test_an_error_is_raised_where_its_result_is_due() -> None:
    def work(item: int) -> float:
        try:
            return 1 / (2 - item)
        except ZeroDivisionError as error:
            raise DataError("no such number") from error

    results = read_ahead(itertools.count(), work, timeout_s=60, what="dividing")
    assert [next(results), next(results)] == [0.5, 1.0]
    with pytest.raises(DataError, match="no such number") as caught:
        next(results)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert any(entry.name == "work" for entry in caught.traceback)


def test_a_wait_has_an_end() -> None:
    never = threading.Event()
    results = read_ahead(iter([1]), lambda _: never.wait(), timeout_s=0.01, what="waiting for Godot")
    with pytest.raises(
        DataError, match="waiting for Godot took longer than runtime.wait_timeout_s=0.01 seconds; raise"
    ):
        next(results)
    never.set()


def test_the_thread_ends_with_its_window() -> None:
    results = squares(itertools.count())
    assert next(results) == 0
    mine = [thread for thread in threading.enumerate() if thread.name == "read-ahead"]
    del results
    gc.collect()
    for thread in mine:
        thread.join(60)
        assert not thread.is_alive()
    assert not [thread for thread in mine if thread in threading.enumerate()]
