"""Work that is done behind the one who needs it, one item ahead and no more. What the work is, is not known here."""

import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from realm_ds.errors import DataError
from realm_ds.observe.waiting import waiting_for

Item = TypeVar("Item")
Result = TypeVar("Result")


def read_ahead(
    items: Iterator[Item], work: Callable[[Item], Result], *, timeout_s: float, what: str
) -> Iterator[Result]:
    """The work's results in order; that on the next item is done while its consumer uses this one.

    One item at a time is worked on, and a result that nobody has asked for is one at most. An error of the work is
    raised where its result is due. `what` names the work where it takes longer than `timeout_s`, which is an error.
    """
    done = _Task(work, next(items), what=what).result(timeout_s)
    for item in items:
        task = _Task(work, item, what=what)
        yield done
        del done  # before the next but one is begun, so that there are never three
        done = task.result(timeout_s)
    yield done


class _Task(Generic[Item, Result]):
    """One item's work, in a thread that ends with it; of the process only if that ends before."""

    def __init__(self, work: Callable[[Item], Result], item: Item, *, what: str) -> None:
        self._what = what
        self._result: Result
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(work, item), name="read-ahead", daemon=True)
        self._thread.start()

    def result(self, timeout_s: float) -> Result:
        with waiting_for(self._what):
            self._thread.join(timeout_s)
        if self._thread.is_alive():
            raise DataError(
                f"{self._what} took longer than runtime.wait_timeout_s={timeout_s:g} seconds; raise that if the place "
                "is slow, or find out why it does not answer"
            )
        if self._error is not None:
            raise self._error
        return self._result

    def _run(self, work: Callable[[Item], Result], item: Item) -> None:
        try:
            self._result = work(item)
        except BaseException as error:  # raised again where the result is due
            self._error = error
