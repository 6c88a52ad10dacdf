"""`realm-ds bench search`: how fast the index answers, against FAISS in the client's own process and against
faiss.contrib's servers. What clients do is search_jobs.py's business."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from realm_ds.bench.corpora import VectorsOf
from realm_ds.bench.measure import Bar, Measure, median, percentile, spread
from realm_ds.bench.processes import run_in_world
from realm_ds.bench.run import Group
from realm_ds.bench.search_jobs import SEED
from realm_ds.observe import progress

WIDTH = 128
NUM_SHARDS = 2


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is measured."""

    is_quick: bool
    large_passages: int
    """Of the large index: what FAISS takes for a search rules."""
    large_batches: int
    """For each client in a block."""
    large_blocks: int
    overhead_queries: int
    overhead_batches: int
    overhead_blocks: int
    small_passages: int
    latency_searches: int
    """In a block."""
    latency_blocks: int
    pause_s: float
    """Between searches, as training would make it: index ranks then sleep as long as they ever do."""
    idle_s: float


FULL = Sizes(
    is_quick=False, large_passages=1_000_000, large_batches=3, large_blocks=7, overhead_queries=512,
    overhead_batches=15, overhead_blocks=15, small_passages=20_000, latency_searches=50, latency_blocks=20,
    pause_s=0.01, idle_s=4.0,
)  # fmt: skip
QUICK = Sizes(
    is_quick=True, large_passages=8_000, large_batches=1, large_blocks=2, overhead_queries=64, overhead_batches=1,
    overhead_blocks=2, small_passages=2_000, latency_searches=5, latency_blocks=2, pause_s=0.001, idle_s=0.3,
)  # fmt: skip


def search_groups(*, is_quick: bool) -> list[Group]:
    """What the verb can measure."""
    sizes = QUICK if is_quick else FULL
    return [
        Group(
            title="Throughput of a large index", names=("throughput_flat_1m",), run=functools.partial(throughput, sizes)
        ),
        Group(
            title="Overhead on a tiny index", names=("overhead_small_contrib", "overhead_small_raw"),
            run=functools.partial(overhead, sizes),
        ),
        Group(
            title="Latency of a small index",
            names=("latency_small_p50", "latency_small_p99", "latency_idle_core"),
            run=functools.partial(latency, sizes),
        ),
    ]  # fmt: skip


def throughput(sizes: Sizes, bar: progress.Bar) -> Sequence[Measure]:
    """Two clients at once against FAISS with as many threads as there are shards."""
    options = {
        "passages": sizes.large_passages, "width": WIDTH, "tokens": 2, "queries": 64, "hits": 8,
        "batches": sizes.large_batches, "blocks": sizes.large_blocks, "raw_threads": NUM_SHARDS,
    }  # fmt: skip
    found = run_in_world("throughput", options, clients=2, shards=NUM_SHARDS, bar=bar)[0]
    return [
        Measure(
            name="throughput_flat_1m", value=median(found["ours"]), reference=median(found["raw"]), unit="queries/s",
            bar=Bar(limit=0.95), is_judged=not sizes.is_quick,
            note=f"reference: IndexFlatIP in a client's process, {NUM_SHARDS} threads, the same batches of 64, k=8, "
            f"over {sizes.large_passages:,} x {WIDTH}; ours: {NUM_SHARDS} shards of 1 thread, 2 clients at once; "
            + spread(found["ours"], found["raw"]),
        )
    ]  # fmt: skip


def overhead(sizes: Sizes, bar: progress.Bar) -> Sequence[Measure]:
    """Where searching takes little, what is around it counts: many queries, many hits, few passages."""
    from realm_ds.bench.contrib import serving

    passages, hits = 2_000, 100
    options = {
        "passages": passages, "width": WIDTH, "tokens": 1, "queries": sizes.overhead_queries, "hits": hits,
        "batches": sizes.overhead_batches, "blocks": sizes.overhead_blocks,
    }  # fmt: skip
    edges = [passages * shard // NUM_SHARDS for shard in range(NUM_SHARDS + 1)]
    with serving(VectorsOf(seed=SEED, width=WIDTH), edges=edges) as ports:
        found = run_in_world("overhead", {**options, "ports": ports}, clients=1, shards=NUM_SHARDS, bar=bar)[0]
    size = f"{passages:,} x {WIDTH} in {NUM_SHARDS} shards of 1 thread, batches of {sizes.overhead_queries}, k={hits}"
    ours = median(found["ours"])
    return [
        Measure(
            name="overhead_small_contrib", value=ours, reference=median(found["contrib"]), unit="queries/s",
            bar=Bar(limit=1.8), is_judged=not sizes.is_quick,
            note=f"reference: faiss.contrib.client_server, mended for numpy 2 and inner product; {size}; "
            + spread(found["ours"], found["contrib"]),
        ),
        Measure(
            name="overhead_small_raw", value=ours, reference=median(found["raw"]), unit="queries/s",
            bar=Bar(limit=1.0), is_judged=not sizes.is_quick,
            note=f"reference: IndexFlatIP in the client's process, 1 thread; {size}; "
            + spread(found["ours"], found["raw"]),
        ),
    ]  # fmt: skip


def latency(sizes: Sizes, bar: progress.Bar) -> Sequence[Measure]:
    """What going through the index adds to a search, and what it takes while nobody asks."""
    options = {
        "passages": sizes.small_passages, "width": WIDTH, "tokens": 2, "queries": 8, "hits": 8,
        "batches": sizes.latency_searches, "blocks": sizes.latency_blocks, "pause_s": sizes.pause_s,
        "idle_s": sizes.idle_s,
    }  # fmt: skip
    found = run_in_world("latency", options, clients=1, shards=NUM_SHARDS, bar=bar)[0]
    measures = []
    for name, share, most_ms in (("p50", 0.5, 1.0), ("p99", 0.99, 5.0)):
        ours, raw = percentile(found["ours"], share), percentile(found["raw"], share)
        at_once = percentile(found["ours_at_once"], share), percentile(found["raw_at_once"], share)
        measures.append(
            Measure(
                name=f"latency_small_{name}", value=ours - raw, reference=raw, unit="ms more",
                bar=Bar(limit=most_ms, of="value", side="<="), is_judged=not sizes.is_quick,
                note="reference: IndexFlatIP in the client's process, 1 thread, batch 8, over "
                f"{sizes.small_passages:,} x {WIDTH}; round trip {ours:.2f} ms over {NUM_SHARDS} shards, with "
                f"{1e3 * sizes.pause_s:g} ms of pause before each search; without pauses {at_once[0]:.2f} against "
                f"{at_once[1]:.2f} ms",
            )
        )  # fmt: skip
    measures.append(
        Measure(
            name="latency_idle_core", value=max(found["idle_cores"]), unit="of a core",
            bar=Bar(limit=0.05, of="value", side="<="), is_judged=not sizes.is_quick,
            note=f"the busier of {NUM_SHARDS} index ranks over {sizes.idle_s:g} s in which nobody asks",
        )
    )  # fmt: skip
    return measures
