"""`realm-ds index search`: questions to an index on disk, without a training run.

In this process over one shard, or over N index ranks by the same server and client that training uses. Scores do not
depend on the number of shards, so both give the same answer; an approximate factory sees other cells in other shards.

Shapes: B queries, K hits of each, P embedding.
"""

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from realm_ds.comm.world import World, is_launched, join_world, start_mpi
from realm_ds.config.schema import RealmConfig
from realm_ds.data.records import Passage
from realm_ds.data.shards import Manifest, open_manifest, read_passages
from realm_ds.data.tokenizer import Tokenizer, load_tokenizer
from realm_ds.errors import ConfigError, IndexFault
from realm_ds.eval.corpus import embed_queries
from realm_ds.index.builder import Builder
from realm_ds.index.client import IndexClient
from realm_ds.index.embedding import Embed
from realm_ds.index.exclusion import exclude_nothing
from realm_ds.index.factory import spec_of
from realm_ds.index.messages import MESSAGES, NO_HIT
from realm_ds.index.passages import load_shard
from realm_ds.index.relay import snapshot_messages
from realm_ds.index.server import serve
from realm_ds.index.shard import VectorTable, build_shard
from realm_ds.index.store import SNAPSHOT_FILE, IndexStore, version_folder
from realm_ds.index.tree import SnapshotTree
from realm_ds.launch.index_store import StoredIndex, choose_version, find_index
from realm_ds.launch.index_towers import device_for, load_tower, look_at_towers
from realm_ds.launch.local import run_world
from realm_ds.launch.rank import as_rank, run_as_rank, threads_for_rank
from realm_ds.models.names import QUERY_TOWER
from realm_ds.observe.progress import Progress

log = logging.getLogger(__name__)

QUERIES_FILE, ANSWERS_FILE = "queries.json", "answers.json"
"""What passes between the process that a person started and the ranks that it starts, in a folder of their own."""
STAGE = "search"
QUERIES_AT_ONCE = 64
NO_WEIGHTS = b"vectors are read from the store"
"""What is sent down the tree in place of a snapshot: nothing is embedded here."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a person asks for."""

    store: Path
    queries: tuple[str, ...]
    num_hits: int
    version: int | None
    """None: the newest that is whole."""
    factory: str | None
    """None: the one that the index is meant for."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """A passage that answers a query."""

    rank: int
    score: float
    uid: int
    title: str
    text: str


Answers = list[list[Found]]
"""Of each query, best first."""


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A version of an index with all that searching it takes."""

    config: RealmConfig
    index: StoredIndex
    version: int
    snapshot_sha256: str
    width: int
    tokenizer: Tokenizer
    corpus: Manifest

    def embed(self, queries: Sequence[str]) -> np.ndarray:
        """Vectors of queries by the query tower of the index's own pair, float32 [B, P]."""
        if self.index.card is not None:
            path = Path(self.index.card.towers)
        else:
            path = version_folder(self.index.folder, self.version) / SNAPSHOT_FILE
        towers = look_at_towers(path)
        if towers.width != self.width:
            raise IndexFault(
                f"{path} gives vectors {towers.width} wide, but those of {self.index.folder} are {self.width} wide: it "
                "was replaced since; build the index again"
            )
        if towers.sha256 != self.snapshot_sha256:
            raise IndexFault(
                f"the towers in {path} are others than those that {self.index.folder} was built with (sha256 "
                f"{towers.sha256[:12]}, then {self.snapshot_sha256[:12]}): queries and passages would not match; build "
                "the index again"
            )
        tower = load_tower(
            towers, QUERY_TOWER, self.config, vocab_size=self.tokenizer.vocab_size, device=device_for()
        )  # fmt: skip
        ids = self.tokenizer.encode_all(queries)
        longest = self.config.data.query_tokens - 2
        for query, wordpieces in zip(queries, ids, strict=True):
            if len(wordpieces) > longest:
                log.warning("%r... has %d wordpieces: the first %d count (data.query_tokens)", query[:40],
                            len(wordpieces), longest)  # fmt: skip
        return embed_queries(tower, ids, special=self.tokenizer.special, max_tokens=self.config.data.query_tokens)

    @property
    def store(self) -> IndexStore:
        return IndexStore(self.index.folder, corpus_sha256=self.corpus.digest)


def search_index(wanted: Wanted, *, processes: int, scratch: Path | None) -> Answers | None:
    """The answers; None on ranks that have none to tell. `scratch` is given to ranks that search_index started.

    Raises IndexFault, DataError, ConfigError or CheckpointError for what cannot work, LaunchError when a rank dies.
    """
    if is_launched(os.environ):
        answers: list[Answers] = []
        folder = scratch or Path(tempfile.mkdtemp(prefix="realm-index-"))
        run_as_rank(folder, lambda: answers.extend(_take_part(wanted, folder=folder)))
        if scratch is None:
            shutil.rmtree(folder, ignore_errors=True)
        return answers[0] if answers and scratch is None else None
    if not wanted.queries:
        raise ConfigError("no query: give a text, or - to read them from standard input, one a line")
    opened = open_index(wanted)
    if processes == 0:
        return _with_texts(opened, *search_here(opened, wanted))
    return _search_in_world(wanted, processes=processes)


def open_index(wanted: Wanted) -> Opened:
    """Open what a search reads, and check that it belongs together."""
    index = find_index(wanted.store)
    config = index.config()
    if wanted.factory is not None:
        config = config.model_copy(update={"index": config.index.model_copy(update={"factory": wanted.factory})})
    tokenizer = load_tokenizer(config.data.tokenizer)
    if index.card is not None and index.card.tokenizer_fingerprint != tokenizer.fingerprint:
        raise IndexFault(
            f"{config.data.tokenizer} is another tokenizer than {index.folder} was built with "
            f"({tokenizer.fingerprint[:12]}, then {index.card.tokenizer_fingerprint[:12]}): mend data.tokenizer in "
            f"{index.config_path}, or build the index again"
        )
    corpus = open_manifest(config.data.corpus, kind="corpus", fingerprint=tokenizer.fingerprint)
    if index.card is not None and index.card.corpus_sha256 != corpus.digest:
        raise _changed(index, config, corpus, then=index.card.corpus_sha256)
    state = choose_version(index, wanted.version, num_passages=corpus.count)
    if state.corpus_sha256 != corpus.digest:
        raise _changed(index, config, corpus, then=str(state.corpus_sha256))
    assert state.snapshot_sha256 is not None
    assert state.width is not None
    return Opened(
        config=config, index=index, version=state.version, snapshot_sha256=state.snapshot_sha256, width=state.width,
        tokenizer=tokenizer, corpus=corpus,
    )  # fmt: skip


def search_here(opened: Opened, wanted: Wanted) -> tuple[np.ndarray, np.ndarray]:
    """Uids and scores [B, K], by one shard in this process."""
    config = opened.config
    queries_BP = opened.embed(wanted.queries)
    passages = load_shard(
        config.data.corpus, opened.corpus, shard_rank=0, num_shards=1, max_tokens=config.data.passage_tokens
    )
    table = VectorTable(len(passages), opened.width, dtype=config.index.vectors)
    if not opened.store.load(
        table.vectors_NP, version=opened.version, snapshot_sha256=opened.snapshot_sha256, start=0
    ):
        raise IndexFault(_damaged(opened))
    built = build_shard(passages, table, version=opened.version, spec=spec_of(config.index))
    hits = [
        built.search(part_BP, num_hits=wanted.num_hits, exclusion=exclude_nothing(len(part_BP)))
        for part_BP in _parts(queries_BP)
    ]
    return np.concatenate([part.uids_BK for part in hits]), np.concatenate([part.scores_BK for part in hits])


def _search_in_world(wanted: Wanted, *, processes: int) -> Answers:
    """The same by index ranks on this machine, and a client that leaves its answers in a file."""
    folder = Path(tempfile.mkdtemp(prefix="realm-index-"))  # stays, with the logs, if something goes wrong
    (folder / QUERIES_FILE).write_text(json.dumps(wanted.queries), encoding="utf-8")
    arguments = [
        "index", "search", str(wanted.store.absolute()), "--hits", str(wanted.num_hits), "--scratch", str(folder),
        *(["--version", str(wanted.version)] if wanted.version is not None else []),
        *(["--factory", wanted.factory] if wanted.factory is not None else []),
    ]  # fmt: skip
    with Progress() as progress:
        bar = progress.stage(f"search over {processes} index ranks")
        run_world(arguments, processes=processes + 1, run_folder=folder)
        bar.finish(f"{len(wanted.queries)} queries")
    answers = json.loads((folder / ANSWERS_FILE).read_text(encoding="utf-8"))
    shutil.rmtree(folder, ignore_errors=True)
    return [[Found(**found) for found in hits] for hits in answers]


def _take_part(wanted: Wanted, *, folder: Path) -> Iterable[Answers]:
    """This rank's part: the first of the world asks, all others hold a shard. Yields the answers where they are."""
    mpi = start_mpi()  # Before anything can fail; see launch/stages.py.
    size = mpi.COMM_WORLD.Get_size() if mpi else 1
    if size < 2:
        raise ConfigError("a world of one process has no index rank: launch at least 2, or search without a launcher")
    opened = open_index(wanted)
    timeout_s = opened.config.runtime.wait_timeout_s
    world = join_world(num_shards=size - 1, placement="tail", timeout_s=timeout_s)
    result: list[Answers] = []
    with as_rank(world, folder=folder, stage=STAGE, threads=opened.config.runtime.threads_per_rank):
        if world.shard_rank is None:
            result.append(_ask(world, opened, wanted, folder=folder))
        else:
            _serve(world, opened, shard_rank=world.shard_rank)
        world.barrier(timeout_s=timeout_s, waiting_for="all ranks to finish")
    return result


def _ask(world: World, opened: Opened, wanted: Wanted, *, folder: Path) -> Answers:
    queries = wanted.queries
    if (folder / QUERIES_FILE).is_file():
        queries = tuple(json.loads((folder / QUERIES_FILE).read_text(encoding="utf-8")))
    if not queries:
        raise ConfigError("no query: give a text, or - to read them from standard input, one a line")
    runtime, index = opened.config.runtime, opened.config.index
    mailbox = world.mailbox(MESSAGES, timeout_s=runtime.wait_timeout_s)
    tree = _tree(world)
    for message in snapshot_messages(NO_WEIGHTS, version=opened.version, step=0, chunk_bytes=len(NO_WEIGHTS)):
        mailbox.send(message, to=tree.root)
    queries_BP = opened.embed(queries)  # while the shards read their vectors
    client = IndexClient(
        mailbox, index_ranks=world.index_ranks, timeout_s=runtime.wait_timeout_s, build_timeout_s=index.build_timeout_s
    )
    found = []
    for part_BP in _parts(queries_BP):
        request = client.submit(
            part_BP, exclusion=exclude_nothing(len(part_BP)), num_hits=wanted.num_hits, step=0, version=opened.version
        )
        found.append(client.collect(request))
    client.close()
    answers = _with_texts(
        opened, np.concatenate([part.uids_BK for part in found]), np.concatenate([part.scores_BK for part in found])
    )
    text = json.dumps([[asdict(hit) for hit in hits] for hits in answers])
    (folder / ANSWERS_FILE).write_text(text, encoding="utf-8")
    return answers


def _serve(world: World, opened: Opened, *, shard_rank: int) -> None:
    config = opened.config
    passages = load_shard(
        config.data.corpus, opened.corpus, shard_rank=shard_rank, num_shards=world.num_shards,
        max_tokens=config.data.passage_tokens,
    )  # fmt: skip

    def refuse(snapshot: bytes) -> Embed:
        raise IndexFault(_damaged(opened))

    builder = Builder(
        passages,
        embed_factory=refuse,
        special=opened.tokenizer.special,
        passage_tokens=config.data.passage_tokens,
        width=opened.width,
        spec=spec_of(config.index),
        batch_tokens=config.index.embed_batch_tokens,
        num_threads=threads_for_rank(config.runtime.threads_per_rank, ranks_here=len(world.ranks_here)),
        store=_StoredVersion(opened),
    )
    serve(
        world.mailbox(MESSAGES, timeout_s=config.runtime.wait_timeout_s),
        passages=passages,
        builder=builder,
        tree=_tree(world),
        trainer_ranks=world.trainer_ranks,
        shard_rank=shard_rank,
        timeout_s=config.runtime.wait_timeout_s,
        build_timeout_s=config.index.build_timeout_s,
    )


class _StoredVersion(IndexStore):
    """The store for a builder that is sent no weights: what it finds for a version is what is on disk."""

    def __init__(self, opened: Opened) -> None:
        super().__init__(opened.index.folder, corpus_sha256=opened.corpus.digest)
        self._snapshot_sha256 = opened.snapshot_sha256

    def load(self, out_NP: np.ndarray, *, version: int, snapshot_sha256: str, start: int) -> bool:
        return super().load(out_NP, version=version, snapshot_sha256=self._snapshot_sha256, start=start)


def _tree(world: World) -> SnapshotTree:
    return SnapshotTree(trainer=world.trainer_ranks[0], embedders=world.index_ranks, others=())


def _with_texts(opened: Opened, uids_BK: np.ndarray, scores_BK: np.ndarray) -> Answers:
    texts = passages_of(opened.config.data.corpus, opened.corpus, np.unique(uids_BK[uids_BK != NO_HIT]).tolist())
    answers = []
    for uids_K, scores_K in zip(uids_BK.tolist(), scores_BK.tolist(), strict=True):
        pairs = [(uid, score) for uid, score in zip(uids_K, scores_K, strict=True) if uid != NO_HIT]
        answers.append(
            [
                Found(rank=rank, score=score, uid=uid, title=texts[uid].title, text=texts[uid].text)
                for rank, (uid, score) in enumerate(pairs, start=1)
            ]
        )
    return answers


def passages_of(folder: Path, manifest: Manifest, uids: Iterable[int]) -> dict[int, Passage]:
    """The passages with these uids, text included; reads the corpus until all are found."""
    wanted, found = set(uids), {}
    for passage in read_passages(folder, manifest, 0, manifest.count, verify=False) if wanted else ():
        if passage.uid in wanted:
            found[passage.uid] = passage
            wanted.discard(passage.uid)
            if not wanted:
                break
    return found


def _parts(queries_BP: np.ndarray) -> list[np.ndarray]:
    return [queries_BP[start : start + QUERIES_AT_ONCE] for start in range(0, len(queries_BP), QUERIES_AT_ONCE)]


def _changed(index: StoredIndex, config: RealmConfig, corpus: Manifest, *, then: str) -> IndexFault:
    return IndexFault(
        f"the corpus in {config.data.corpus} has changed since {index.folder} was built (sha256 {corpus.digest[:12]}, "
        f"then {then[:12]}): build the index again, or put the corpus back"
    )


def _damaged(opened: Opened) -> str:
    return (
        f"index version {opened.version} in {opened.index.folder} cannot be read whole (the log names the part): "
        "`realm-ds index verify` lists what is damaged, and the build or run that made it makes it again"
    )
