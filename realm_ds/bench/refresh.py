"""`realm-ds bench refresh`: how fast the index is rebuilt, what that takes, and what it does to searches meanwhile.

What is done for it is refresh_jobs.py's business.
"""

import functools
import itertools
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from realm_ds.bench.measure import Bar, Measure, median, spread
from realm_ds.bench.processes import run_alone, run_in_world
from realm_ds.bench.run import Group
from realm_ds.config.index import IndexConfig
from realm_ds.errors import ConfigError, LaunchError
from realm_ds.observe import progress

WIDTH = 128
AT_A_SWAP = 3
"""Searches of each client, from an adoption on, among which one made late by the swap would be."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is measured."""

    is_quick: bool
    encode_passages: int
    encode_blocks: int
    memory_passages: int
    memory_width: int
    memory_tokens: int
    memory_hidden: int
    memory_vocabulary: int
    serving_passages: int
    serving_tokens: int
    serving_searches: int
    """In a block without a rebuild."""
    serving_rounds: int
    swap_passages: int
    swaps: int
    swap_every: int
    """Steps between adoptions."""


FULL = Sizes(
    is_quick=False, encode_passages=2_000, encode_blocks=5,
    # As much of vectors as of tokens, as in REALM's corpus, and so large that a batch's activations, which do not grow
    # with the shard, are a few per cent; weights that one needless copy of shows, and that are quick to compute with.
    memory_passages=60_000, memory_width=7_000, memory_tokens=14_000, memory_hidden=1_024, memory_vocabulary=65_000,
    serving_passages=30_000, serving_tokens=12, serving_searches=400, serving_rounds=2,
    swap_passages=100_000, swaps=24, swap_every=24,
)  # fmt: skip
QUICK = Sizes(
    is_quick=True, encode_passages=60, encode_blocks=1,
    memory_passages=500, memory_width=32, memory_tokens=40, memory_hidden=64, memory_vocabulary=30_000,
    serving_passages=600, serving_tokens=4, serving_searches=5, serving_rounds=1,
    swap_passages=500, swaps=3, swap_every=5,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TowerSize:
    """Of the passage tower: a small BERT."""

    layers: int = 4
    hidden: int = 256


def refresh_groups(
    *, is_quick: bool, tower: TowerSize, corpus: Path | None = None, tokenizer: Path | None = None
) -> list[Group]:
    """What the verb can measure. Raises ConfigError if only one of corpus and tokenizer is given."""
    if (corpus is None) != (tokenizer is None):
        raise ConfigError("--corpus and --tokenizer go together: the tar shards, and the tokenizer they were made with")
    if tower.hidden % 64:
        raise ConfigError(f"--hidden {tower.hidden} is no multiple of 64, the width of an attention head")
    sizes = QUICK if is_quick else FULL
    tower = TowerSize(layers=1, hidden=64) if is_quick else tower
    return [
        Group(
            title="Embedding passages", names=("encode_throughput",),
            run=functools.partial(encode, sizes, tower, corpus, tokenizer),
        ),
        Group(title="Memory of a rebuild", names=("encode_memory",), run=functools.partial(memory, sizes)),
        Group(
            title="Searching during a rebuild", names=("serving_p50_during_rebuild", "encode_slowdown_while_serving"),
            run=functools.partial(serving, sizes, tower),
        ),
        Group(title="Swapping", names=("swap_refused", "swap_latest"), run=functools.partial(swap, sizes)),
    ]  # fmt: skip


def encode(
    sizes: Sizes, tower: TowerSize, corpus: Path | None, tokenizer: Path | None, bar: progress.Bar
) -> Sequence[Measure]:
    """Ours against the loop that one would write; the demo's corpus unless another is given."""
    with tempfile.TemporaryDirectory(prefix="realm-bench-") as made:
        if corpus is None or tokenizer is None:
            from realm_ds.factbook.prepare import prepare_demo

            prepare_demo(
                Path(made), num_entities=4 if sizes.is_quick else None, vocab_size=2_000 if sizes.is_quick else 8_000,
                on_progress=lambda doing: bar.update(now=doing),
            )  # fmt: skip
            corpus, tokenizer = Path(made) / "corpus", Path(made) / "tokenizer"
        options = {
            "corpus": str(corpus.absolute()), "tokenizer": str(tokenizer.absolute()), "width": WIDTH,
            "passages": sizes.encode_passages, "blocks": sizes.encode_blocks, "tower": _tower(tower),
        }  # fmt: skip
        found = run_alone("encode", options, threads=1, bar=bar)
    return [
        Measure(
            name="encode_throughput", value=median(found["ours"]), reference=median(found["bare"]), unit="passages/s",
            bar=Bar(limit=1.3), is_judged=not sizes.is_quick,
            note="reference: the same tower in a plain transformers loop (corpus order, 64 at a time, padded to the "
            f"longest, inference mode), 1 thread; {found['passages']:,} passages of "
            f"{found['mean_tokens']:.0f} wordpieces on average, tower of {tower.layers} layers of {tower.hidden}; "
            + spread(found["ours"], found["bare"]),
        )
    ]  # fmt: skip


def memory(sizes: Sizes, bar: progress.Bar) -> Sequence[Measure]:
    """One rebuild in a fresh process, in the proportions of a large corpus."""
    # One layer, narrow inside: quick to run for its size, which is mostly its vocabulary's.
    tower = _tower(TowerSize(layers=1, hidden=sizes.memory_hidden), vocabulary=sizes.memory_vocabulary, intermediate=64)
    with tempfile.TemporaryDirectory(prefix="realm-bench-") as made:
        snapshot = Path(made) / "snapshot.safetensors"
        options = {
            "passages": sizes.memory_passages, "width": sizes.memory_width, "tokens": sizes.memory_tokens,
            "seen_tokens": 1, "tower": tower, "snapshot": str(snapshot),
        }  # fmt: skip
        bar.update(now="making weights")
        run_alone("snapshot", options, threads=1, bar=bar)
        found = run_alone("memory", options, threads=1, bar=bar)
    parts = {name: found[name] / 2**20 for name in ("vectors", "tokens", "model")}
    return [
        Measure(
            name="encode_memory", value=found["peak"] / 2**20, reference=sum(parts.values()), unit="MiB",
            bar=Bar(limit=1.1, side="<="), is_judged=not sizes.is_quick,
            note="resident memory that loading a shard and building one version of it adds at its peak; reference: "
            + " + ".join(f"{size:.0f} MiB of {name}" for name, size in parts.items()),
        )
    ]  # fmt: skip


def serving(sizes: Sizes, tower: TowerSize, bar: progress.Bar) -> Sequence[Measure]:
    """A client that searches without pause, and a shard that searches on one thread and rebuilds on another."""
    options = {
        "passages": sizes.serving_passages, "width": WIDTH, "tokens": sizes.serving_tokens, "queries": 16, "hits": 8,
        "searches": sizes.serving_searches, "rounds": sizes.serving_rounds, "tower": _tower(tower),
    }  # fmt: skip
    found = run_in_world("serving", options, clients=1, shards=1, bar=bar)[0]
    size = (
        f"{sizes.serving_passages:,} passages of {sizes.serving_tokens + 3} wordpieces, one shard, one thread to "
        f"search and one to build, tower of {tower.layers} layers of {tower.hidden}"
    )
    return [
        Measure(
            name="serving_p50_during_rebuild", value=median(found["beside_ms"]), reference=median(found["idle_ms"]),
            unit="ms", bar=Bar(limit=1.2, side="<="), is_judged=not sizes.is_quick,
            note=f"reference: the same searches (16 queries, k=8, without pause) while nothing is built; {size}; "
            f"{len(found['beside_ms'])} and {len(found['idle_ms'])} searches",
        ),
        Measure(
            name="encode_slowdown_while_serving", value=median(found["speed_beside"]),
            reference=median(found["speed_alone"]), unit="passages/s", is_judged=not sizes.is_quick,
            note="reference: the rebuild while nobody searches; the same run, " + size,
        ),
    ]  # fmt: skip


def swap(sizes: Sizes, bar: progress.Bar) -> Sequence[Measure]:
    """Two clients that search in step over many versions."""
    options = {
        "passages": sizes.swap_passages, "width": WIDTH, "tokens": 2, "queries": 16, "hits": 8, "swaps": sizes.swaps,
        "every_steps": sizes.swap_every,
    }  # fmt: skip
    what = f"over {sizes.swaps} swaps under 2 clients, {sizes.swap_passages:,} x {WIDTH}, batches of 16, k=8"
    lost = functools.partial(
        Measure, name="swap_refused", unit="requests", bar=Bar(limit=0, of="value", side="<="),
        is_judged=not sizes.is_quick,
    )  # fmt: skip
    try:
        clients = run_in_world("swap", options, clients=2, shards=1, bar=bar)
    except LaunchError as error:
        return [lost(value=1, note=f"{what}: {error}")]
    searches = list(itertools.chain.from_iterable(client["searches"] for client in clients))
    one_ms = median(list(itertools.chain.from_iterable(client["search_ms"] for client in clients)))
    usual_ms = median([took_ms for _, took_ms, _ in searches])
    half_way = sizes.swap_every // 2
    # As many answers half way between swaps tell how late an answer can be on this machine without any.
    latest_ms, chance_ms = (
        max(took_ms for since, took_ms, _ in searches if first <= since < first + AT_A_SWAP) for first in (0, half_way)
    )
    parked = sum(parked_ms > 0 for _, _, parked_ms in searches)
    return [
        lost(
            value=sum(client["strange"] for client in clients),
            note=f"refused, lost or answered from another version, of {len(searches):,} {what}",
        ),
        Measure(
            name="swap_latest", value=(latest_ms - chance_ms) / one_ms, unit="searches late",
            bar=Bar(limit=1.0, of="value", side="<="), is_judged=not sizes.is_quick,
            note=f"the latest of the first {AT_A_SWAP} answers of each client from each new version took "
            f"{latest_ms:.1f} ms, the latest of as many half way between swaps {chance_ms:.1f}, half of all at most "
            f"{usual_ms:.1f}; one search is {one_ms:.1f} ms; {parked} had to wait for their version; {what}",
        ),
    ]  # fmt: skip


def _tower(size: TowerSize, *, vocabulary: int = 30_000, intermediate: int | None = None) -> dict[str, Any]:
    return {
        "layers": size.layers, "hidden": size.hidden, "intermediate": intermediate or 4 * size.hidden,
        "vocabulary": vocabulary, "batch_tokens": IndexConfig().embed_batch_tokens,
    }  # fmt: skip
