"""What is measured of rebuilding the index: embedding against a plain loop, memory, searches beside it, the swap. What
the numbers must reach is refresh.py's business.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from realm_ds.bench.client import Desk
from realm_ds.bench.corpora import SPECIAL, numbered_passages, seed_snapshot
from realm_ds.bench.measure import alternate
from realm_ds.bench.processes import write_progress
from realm_ds.bench.resident import peak_bytes, reset_peak
from realm_ds.bench.search_jobs import batch_of
from realm_ds.data.records import SpecialIds
from realm_ds.data.shards import open_shards
from realm_ds.errors import IndexFault
from realm_ds.index.passages import PassageShard, load_shard
from realm_ds.index.shard import BuiltShard

Options = Mapping[str, Any]
Result = dict[str, Any]
POLL_S = 0.05
CHECKED_PASSAGES = 256


def encode(options: Options, *, folder: Path) -> Result:
    """Passages a second, ours and by the plain loop, over the same passages of a corpus of tar shards."""
    from realm_ds.bench.towers import embed, embed_barely, new_tower
    from realm_ds.index.embedding import ShardEmbedder

    passages, special, vocabulary = corpus_of(options)
    most = int(passages.lengths_N.max()) + 3
    tower = new_tower({**options["tower"], "vocabulary": vocabulary}, width=options["width"])
    embedder = ShardEmbedder(
        passages, special=special, passage_tokens=most, batch_tokens=options["tower"]["batch_tokens"],
        width=options["width"],
    )  # fmt: skip
    vectors_NP = np.empty((len(passages), options["width"]), dtype=np.float32)
    total, done = 2 * options["blocks"], 0

    def timed(run: Any) -> Any:
        def block() -> float:
            nonlocal done
            started_at = time.perf_counter()
            run()
            speed = len(passages) / (time.perf_counter() - started_at)
            done += 1
            write_progress(folder, done=done, total=total, now="embedding")
            return speed

        return block

    def bare() -> np.ndarray:
        return embed_barely(tower, passages, special=special, max_tokens=most)

    def ours() -> None:
        for _ in embedder.run(embed(tower), vectors_NP):
            pass

    write_progress(folder, done=0, total=total, now="embedding")
    ours()
    if not np.allclose(bare(), vectors_NP, atol=1e-4):
        raise IndexFault("the plain loop gives other vectors than ours: they do not do the same work")
    speeds: Result = alternate({"ours": timed(ours), "bare": timed(bare)}, blocks=options["blocks"])
    return {**speeds, "passages": len(passages), "mean_tokens": float(passages.lengths_N.mean()) + 3}


def corpus_of(options: Options) -> tuple[PassageShard, SpecialIds, int]:
    """The first passages of the corpus, its special tokens and its vocabulary's size."""
    from realm_ds.data.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(Path(options["tokenizer"]))
    corpus = open_shards(options["corpus"], kind="corpus", fingerprint=tokenizer.fingerprint)
    num_shards = max(1, corpus.count // options["passages"])
    passages = load_shard(corpus, shard_rank=0, num_shards=num_shards)
    return passages, tokenizer.special, tokenizer.vocab_size


def snapshot(options: Options, *, folder: Path) -> Result:
    """A tower's weights as a file, made where their making counts for nothing."""
    from realm_ds.bench.towers import new_snapshot

    return {"bytes": Path(options["snapshot"]).write_bytes(new_snapshot(options["tower"], width=options["width"]))}


def memory(options: Options, *, folder: Path) -> Result:
    """The most that this process holds while it loads passages and builds one index version of them, or several that
    stay alive, over what it held before, and the bytes that it cannot do without.

    Long passages of which the tower sees the first wordpieces: to hold tokens takes memory, to embed them takes time.
    """
    from realm_ds.bench.towers import embed_by, new_snapshot
    from realm_ds.index.builder import Builder
    from realm_ds.index.embedding import SPECIAL_TOKENS, ShardEmbedder
    from realm_ds.index.factory import IndexSpec
    from realm_ds.index.relay import Snapshot

    tower, width = options["tower"], options["width"]
    write_progress(folder, done=0, total=options["passages"], now="making passages")
    # What libraries load and set up at their first use is theirs, whatever the shard.
    small = {**tower, "hidden": 64, "vocabulary": 1_000}
    warm_up = ShardEmbedder(
        numbered_passages(0, 64, tokens=1), special=SPECIAL, passage_tokens=4, batch_tokens=256, width=8
    )
    list(warm_up.run(embed_by(new_snapshot(small, width=8), small, width=8), np.empty((64, 8), dtype=np.float32)))
    before = reset_peak()
    passages = numbered_passages(0, options["passages"], tokens=options["tokens"])
    builder = Builder(
        passages, embed_factory=lambda data: embed_by(data, tower, width=width), special=SPECIAL,
        passage_tokens=options["seen_tokens"] + SPECIAL_TOKENS, width=width, spec=IndexSpec(),
        batch_tokens=tower["batch_tokens"], num_threads=1, store=None,
    )  # fmt: skip
    model_bytes = Path(options["snapshot"]).stat().st_size
    alive: list[BuiltShard] = []
    for version in range(options.get("versions", 1)):
        builder.submit(Snapshot(version=version, step=0, sha256="", chunks=[Path(options["snapshot"]).read_bytes()]))
        while (built := builder.take()) is None:
            time.sleep(POLL_S)
            progress = builder.progress
            if progress is not None:
                write_progress(folder, done=progress.passages_done, total=options["passages"], now="embedding")
        alive.append(built)
    peak = peak_bytes()
    builder.close(60)
    vector_bytes = 4 * width * len(passages)
    return {"peak": peak - before, "vectors": vector_bytes, "tokens": passages.tokens.nbytes, "model": model_bytes}


def serving(desk: Desk, options: Options) -> Result:
    """Searches of one client while nothing is built and while a version is; rebuilds with searches and without."""
    from realm_ds.bench.towers import new_snapshot

    snapshot = new_snapshot(options["tower"], width=options["width"])
    batch, hits, rounds = batch_of(options), options["hits"], options["rounds"]
    desk.tell(0, 0, "building the index")
    desk.launch(0, seed_snapshot(0))
    desk.ask(batch, hits=hits)
    found: Result = {"idle_ms": [], "beside_ms": [], "speed_beside": [], "speed_alone": []}
    newest = 0

    def timed() -> float:
        started_at = time.perf_counter()
        desk.ask(batch, hits=hits, version=newest)
        return 1e3 * (time.perf_counter() - started_at)

    def idle() -> None:
        found["idle_ms"] += [timed() for _ in range(options["searches"])]

    def beside() -> None:
        nonlocal newest
        desk.launch(newest + 1, snapshot)
        while (took_s := _built_in(desk, newest + 1)) is None:
            found["beside_ms"].append(timed())
        found["speed_beside"].append(options["passages"] / took_s)
        newest += 1

    def alone() -> None:
        nonlocal newest
        desk.launch(newest + 1, snapshot)
        while (took_s := _built_in(desk, newest + 1)) is None:
            time.sleep(POLL_S)
        found["speed_alone"].append(options["passages"] / took_s)
        newest += 1

    for number in range(rounds):
        for place, (what, run) in enumerate({"idle": idle, "beside": beside, "alone": alone}.items()):
            desk.tell(3 * number + place, 3 * rounds, what)
            run()
    return found


def _built_in(desk: Desk, version: int) -> float | None:
    """Seconds from the launch of the version to its being built, once it is."""
    for done, total, took_s in desk.build_reports().get(version, []):
        if done == total:
            return took_s
    return None


def swap(desk: Desk, options: Options) -> Result:
    """Every search of every client over many swaps: when it was asked, how long it took, of which version.

    Versions are launched and adopted by the step, as in training, early enough that they are built when asked for.
    """
    batch, every, swaps = batch_of(options, client=desk.number), options["every_steps"], options["swaps"]
    desk.tell(0, 0, "building the index")
    desk.launch(0, seed_snapshot(0))
    desk.ask(batch, hits=options["hits"])
    searches, search_ms = [], []
    for step in range((swaps + 1) * every):
        version = step // every
        since = step % every
        # Launched when the version before it has just been adopted: it has the whole interval to be built.
        if since == 1 and version < swaps:
            desk.launch(version + 1, seed_snapshot(version + 1))
        desk.together()
        desk.build_reports()
        started_at = time.perf_counter()
        candidates = desk.ask(batch, hits=options["hits"], version=version)
        searches.append((since, 1e3 * (time.perf_counter() - started_at), candidates.parked_ms))
        search_ms.append(candidates.search_ms)
        desk.tell(step, (swaps + 1) * every, f"{version} swaps")
    totals = desk.client.totals
    strange = totals.mixed_version_replies + totals.strangers
    return {"searches": searches, "search_ms": search_ms, "strange": strange}
