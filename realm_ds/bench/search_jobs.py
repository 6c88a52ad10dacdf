"""What clients measure of searching, sides interleaved. What the numbers must reach is search.py's business.

Shapes: B queries, K hits, P embedding.
"""

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import psutil

from realm_ds.bench.client import Desk, check_agreement, places_of
from realm_ds.bench.corpora import VectorsOf, is_best, queries_of, seed_snapshot
from realm_ds.bench.measure import alternate
from realm_ds.bench.raw import RawIndex
from realm_ds.errors import IndexFault

SEED = 7
Options = Mapping[str, Any]
Result = dict[str, Any]


def throughput(desk: Desk, options: Options) -> Result:
    """Queries a second of all clients at once, and of FAISS in client 0 with as many threads as there are shards."""
    hits, per_block = options["hits"], options["batches"]
    batches = [batch_of(options, client=client, number=number)
               for client in range(desk.num_clients) for number in range(per_block)]  # fmt: skip
    mine = batches[desk.number * per_block : (desk.number + 1) * per_block]
    raw = start(desk, options)
    first = desk.ask(mine[0], hits=hits)
    if raw is not None:
        check_agreement(places_of(first), raw.search(mine[0], hits), side="the index")
    num_queries = sum(map(len, batches))
    blocks = Blocks(desk, options["blocks"] * 2)

    def ours() -> float:
        desk.together()
        started_at = time.perf_counter()
        for batch in mine:
            desk.ask(batch, hits=hits)
        desk.together()
        return blocks.done(num_queries / (time.perf_counter() - started_at))

    def alone() -> float:
        desk.together(calmly=True)
        speed = 0.0
        if raw is not None:
            started_at = time.perf_counter()
            for batch in batches:
                raw.search(batch, hits)
            speed = num_queries / (time.perf_counter() - started_at)
        desk.together(calmly=True)
        return blocks.done(speed)

    return alternate({"ours": ours, "raw": alone}, blocks=options["blocks"])


def overhead(desk: Desk, options: Options) -> Result:
    """Queries a second of one client: through our index, through faiss.contrib, and through FAISS on one thread.

    Ours is all that a user gets, uids and tokens of the hits: 24 bytes a hit and shard and its one wordpiece, against
    the 12 bytes of ids and scores of the other.
    """
    from realm_ds.bench.contrib import connect

    hits, batch = options["hits"], batch_of(options)
    raw = start(desk, options)
    contrib = connect(options["ports"])
    vectors_NP = VectorsOf(seed=SEED, width=options["width"])(0, options["passages"])
    assert raw is not None
    sides: dict[str, Callable[[], np.ndarray]] = {
        "ours": lambda: places_of(desk.ask(batch, hits=hits)),
        "contrib": lambda: contrib.search(batch, hits)[1],
        "raw": lambda: raw.search(batch, hits),
    }
    for name, search in sides.items():
        if not is_best(search(), batch, vectors_NP):
            raise IndexFault(f"{name} does not find what brute force finds: its speed means nothing")
    blocks = Blocks(desk, options["blocks"] * len(sides))

    def timed(search: Callable[[], np.ndarray]) -> Callable[[], float]:
        def run() -> float:
            started_at = time.perf_counter()
            for _ in range(options["batches"]):
                search()
            return blocks.done(options["batches"] * len(batch) / (time.perf_counter() - started_at))

        return run

    speeds = alternate({name: timed(search) for name, search in sides.items()}, blocks=options["blocks"])
    contrib.close()
    return speeds


def latency(desk: Desk, options: Options) -> Result:
    """Milliseconds of single searches by one client: with a pause before each, as training makes, and without. And the
    share of a core that index ranks take while nobody asks."""
    hits, batch = options["hits"], batch_of(options)
    raw = start(desk, options)
    assert raw is not None
    check_agreement(places_of(desk.ask(batch, hits=hits)), raw.search(batch, hits), side="the index")
    blocks = Blocks(desk, options["blocks"] * 4)

    def timed(search: Callable[[], object], pause_s: float) -> Callable[[], list[float]]:
        def run() -> list[float]:
            took_ms = []
            for _ in range(options["batches"]):
                time.sleep(pause_s)
                started_at = time.perf_counter()
                search()
                took_ms.append(1e3 * (time.perf_counter() - started_at))
            return blocks.done(took_ms)

        return run

    def ours() -> object:
        return desk.ask(batch, hits=hits)

    def alone() -> object:
        return raw.search(batch, hits)

    pause_s = options["pause_s"]
    found = alternate(
        {"ours": timed(ours, pause_s), "raw": timed(alone, pause_s),
         "ours_at_once": timed(ours, 0.0), "raw_at_once": timed(alone, 0.0)},
        blocks=options["blocks"],
    )  # fmt: skip
    result: Result = {name: [took for block in parts for took in block] for name, parts in found.items()}
    result["idle_cores"] = idle_cores(desk, seconds=options["idle_s"])
    return result


def start(desk: Desk, options: Options) -> RawIndex | None:
    """Have the index built; meanwhile client 0 builds the same in FAISS, for `raw_threads`. None on other clients."""
    desk.tell(0, 0, "building the index")
    desk.launch(0, seed_snapshot(SEED))
    if desk.number:
        return None
    vectors = VectorsOf(seed=SEED, width=options["width"])
    return RawIndex(vectors, num_passages=options["passages"], num_threads=options.get("raw_threads", 1))


def batch_of(options: Options, *, client: int = 0, number: int = 0) -> np.ndarray:
    """Queries [B, P]; the same ones for the same client and number."""
    return queries_of(1000 * client + number, count=options["queries"], width=options["width"])


def idle_cores(desk: Desk, seconds: float) -> list[float]:
    """The share of a core that each index rank takes while no client asks, polls or waits."""
    ranks = [json.loads(path.read_text()) for path in sorted((desk.folder / "ranks").glob("*.json"))]
    processes = [psutil.Process(rank["pid"]) for rank in ranks if rank["role"] == "index"]
    time.sleep(seconds / 4)
    before = [sum(process.cpu_times()[:2]) for process in processes]
    time.sleep(seconds)
    after = [sum(process.cpu_times()[:2]) for process in processes]
    return [(late - early) / seconds for early, late in zip(before, after, strict=True)]


class Blocks:
    """Counts the blocks of a job for its progress."""

    def __init__(self, desk: Desk, total: int) -> None:
        self._desk, self._total, self._done = desk, total, 0
        desk.tell(0, total, "measuring")

    def done(self, result: Any) -> Any:
        """Counts one, and hands on what it gave."""
        self._done += 1
        self._desk.tell(self._done, self._total, "measuring")
        return result
