"""Work for a job that is quick to do, and says what it did: module-level, so that worker processes find it."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from realm_ds.data.records import record_bytes
from realm_ds.errors import DataError
from realm_ds.prepare.documents import Tally
from realm_ds.prepare.job import Made, Output
from tests.support.records import make_passage

NUM_CHUNKS = 40


def chunks(count: int = NUM_CHUNKS) -> Iterator[int]:
    """Numbers, one a chunk."""
    return iter(range(count))


def start_work(touched: Path | None = None) -> Callable[[int], Made]:
    """A worker makes (number x 7) % 5 passages of a number, some of them as an earlier number gives them; a file in
    `touched` tells which numbers were worked on."""

    def make(number: int) -> Made:
        if touched is not None:
            (touched / str(number)).touch()
        tally = Tally()
        tally.add("numbers", where=f"number {number}")
        passages = [make_passage(max(0, number * 5 + place - 7 * (place % 3))) for place in range(number * 7 % 5)]
        tally.add("passages", number=len(passages))
        return Made(
            records=[record_bytes(passage) for passage in passages],
            keys=[passage.uid for passage in passages],
            tally=tally,
        )

    return make


def start_failing(number: int, how: str) -> Callable[[int], Made]:
    """As start_work, but that number ends the worker."""
    make = start_work()

    def fail(given: int) -> Made:
        if given == number:
            if how == "error":
                raise DataError(f"number {number} cannot be read; leave it out")
            os.kill(os.getpid(), int(how))
        return make(given)

    return fail


def output(folder: Path, **changes: Any) -> Output:
    """A corpus in shards of four."""
    settings: dict[str, Any] = {
        "kind": "corpus", "per_shard": 4, "fingerprint": "f", "source": "numbers", "settings": {"passage_tokens": 16},
        "identity": [["numbers", 40]],
    }  # fmt: skip
    return Output(folder=folder, **(settings | changes))
