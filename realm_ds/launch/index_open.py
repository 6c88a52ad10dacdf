"""A version of an index on disk, opened for searching: all that belongs to it, checked to belong together.

Shapes: B queries, K hits of each, P embedding.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from realm_ds.config.schema import RealmConfig
from realm_ds.data.records import Passage
from realm_ds.data.shards import Shards, open_shards
from realm_ds.data.tokenizer import Tokenizer, load_tokenizer
from realm_ds.errors import IndexFault
from realm_ds.index.messages import NO_HIT
from realm_ds.index.store import SNAPSHOT_FILE, IndexStore, version_folder
from realm_ds.launch.index_store import StoredIndex, choose_version, find_index
from realm_ds.models.names import QUERY_TOWER

if TYPE_CHECKING:
    from realm_ds.launch.index_towers import TowerSource

log = logging.getLogger(__name__)

QUERIES_AT_ONCE = 64


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
    corpus: Shards

    def towers(self) -> "TowerSource":
        """The pair that the index is of, checked to be that."""
        # Here, because ranks that only serve vectors do without transformers: seconds and 200 MB for each of them.
        from realm_ds.launch.index_towers import look_at_towers

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
        return towers

    def embed(self, queries: Sequence[str]) -> np.ndarray:
        """Vectors of queries by the query tower of the index's own pair, float32 [B, P]."""
        from realm_ds.eval.corpus import embed_queries
        from realm_ds.launch.index_towers import device_for, load_tower

        tower = load_tower(
            self.towers(), QUERY_TOWER, self.config, vocab_size=self.tokenizer.vocab_size, device=device_for()
        )  # fmt: skip
        ids = self.tokenizer.encode_questions(queries)
        longest = self.config.data.query_tokens - 2
        for query, wordpieces in zip(queries, ids, strict=True):
            if len(wordpieces) > longest:
                log.warning("%r... has %d wordpieces: the first %d count (data.query_tokens)", query[:40],
                            len(wordpieces), longest)  # fmt: skip
        return embed_queries(tower, ids, special=self.tokenizer.special, max_tokens=self.config.data.query_tokens)

    @property
    def store(self) -> IndexStore:
        return IndexStore(self.index.folder, corpus_sha256=self.corpus.digest)


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
    corpus = open_shards(
        config.data.corpus, kind="corpus", fingerprint=tokenizer.fingerprint, timeout_s=config.runtime.wait_timeout_s
    )
    if index.card is not None and index.card.corpus_sha256 != corpus.digest:
        raise _changed(index, config, corpus, then=index.card.corpus_sha256)
    state = choose_version(index, wanted.version, num_passages=corpus.count, corpus_sha256=corpus.digest)
    if state.corpus_sha256 != corpus.digest:
        raise _changed(index, config, corpus, then=str(state.corpus_sha256))
    assert state.snapshot_sha256 is not None
    assert state.width is not None
    return Opened(
        config=config, index=index, version=state.version, snapshot_sha256=state.snapshot_sha256, width=state.width,
        tokenizer=tokenizer, corpus=corpus,
    )  # fmt: skip


def with_texts(opened: Opened, uids_BK: np.ndarray, scores_BK: np.ndarray) -> Answers:
    """The passages behind uids, and what they say."""
    texts = passages_of(opened.corpus, np.unique(uids_BK[uids_BK != NO_HIT]).tolist())
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


def passages_of(corpus: Shards, uids: Iterable[int]) -> dict[int, Passage]:
    """The passages with these uids, text included; reads the corpus until all are found."""
    wanted, found = set(uids), {}
    for passage in corpus.passages(verify=False) if wanted else ():
        if passage.uid in wanted:
            found[passage.uid] = passage
            wanted.discard(passage.uid)
            if not wanted:
                break
    return found


def in_batches(queries_BP: np.ndarray) -> list[np.ndarray]:
    """Queries as they are searched, some at a time."""
    return [queries_BP[start : start + QUERIES_AT_ONCE] for start in range(0, len(queries_BP), QUERIES_AT_ONCE)]


def damaged(opened: Opened) -> str:
    """What is wrong where a part of a version that looked whole cannot be read."""
    return (
        f"index version {opened.version} in {opened.index.folder} cannot be read whole (the log names the part): "
        "`realm-ds index verify` lists what is damaged, and the build or run that made it makes it again"
    )


def _changed(index: StoredIndex, config: RealmConfig, corpus: Shards, *, then: str) -> IndexFault:
    return IndexFault(
        f"the corpus in {config.data.corpus} has changed since {index.folder} was built (sha256 {corpus.digest[:12]}, "
        f"then {then[:12]}): build the index again, or put the corpus back"
    )
