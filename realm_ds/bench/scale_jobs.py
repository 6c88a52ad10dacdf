"""What clients measure of one size of index: searches of several kinds, and FAISS on the same, interleaved."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from realm_ds.bench.client import Desk, check_agreement, places_of
from realm_ds.bench.measure import alternate, median
from realm_ds.bench.search_jobs import Blocks, batch_of, start

Options = Mapping[str, Any]


def cost(desk: Desk, options: Options) -> dict[str, Any]:
    """Milliseconds of one search while every client searches, for each kind of `kinds`; beside it what FAISS in client
    0 takes for the searches of all clients, with as many threads as shards can run at once."""
    raw = start(desk, options)
    kinds: list[dict[str, Any]] = options["kinds"]
    batches = [batch_of({**options, "queries": kind["queries"]}, client=desk.number) for kind in kinds]
    first = places_of(desk.ask(batches[0], hits=kinds[0]["hits"]))
    if raw is not None:
        check_agreement(first, raw.search(batches[0], kinds[0]["hits"]), side="the index")
    blocks = Blocks(desk, options["blocks"] * 2 * len(kinds))
    sides: dict[str, Callable[[], float]] = {}
    for number, kind in enumerate(kinds):
        sides[f"ours-{number}"] = _ours(desk, batches[number], kind, blocks)
        sides[f"raw-{number}"] = _alone(desk, raw, batches[number], kind, blocks)
    found = alternate(sides, blocks=options["blocks"])
    return {name: median(took_ms) for name, took_ms in found.items()}


def _ours(desk: Desk, batch: Any, kind: Options, blocks: Blocks) -> Callable[[], float]:
    def run() -> float:
        desk.together()
        started_at = time.perf_counter()
        for _ in range(kind["batches"]):
            desk.ask(batch, hits=kind["hits"], replies=kind["replies"])
        desk.together()
        return blocks.done(1e3 * (time.perf_counter() - started_at) / kind["batches"])

    return run


def _alone(desk: Desk, raw: Any, batch: Any, kind: Options, blocks: Blocks) -> Callable[[], float]:
    def run() -> float:
        desk.together(calmly=True)
        took_ms = 0.0
        if raw is not None:
            started_at = time.perf_counter()
            for _ in range(kind["batches"]):
                for _ in range(desk.num_clients):
                    raw.search(batch, kind["hits"])
            took_ms = 1e3 * (time.perf_counter() - started_at) / kind["batches"]
        desk.together(calmly=True)
        return blocks.done(took_ms)

    return run
