"""Small corpora, brute-force search and a whole index on loopback, for the tests of index/."""

import itertools
import threading
from collections.abc import Callable, Sequence

import numpy as np

from realm_ds.comm.mailbox import Mailbox
from realm_ds.data.batches import Tokens, passage_batch
from realm_ds.data.records import Passage, SpecialIds
from realm_ds.index.builder import Builder
from realm_ds.index.factory import IndexSpec
from realm_ds.index.merge import Candidates
from realm_ds.index.messages import NO_HIT
from realm_ds.index.passages import PassageShard
from realm_ds.index.relay import snapshot_messages
from realm_ds.index.server import ServeTotals, serve
from realm_ds.index.store import IndexStore
from realm_ds.index.tree import SnapshotTree


def make_passages(uids: list[int], *, seed: int = 0) -> list[Passage]:
    """Passages whose tokens tell them apart: lengths vary, and titles may be empty."""
    random = np.random.default_rng(seed)
    passages = []
    for uid in uids:
        title = tuple(int(token) for token in random.integers(5, 60000, size=random.integers(0, 4)))
        body = (uid % 60000, *(int(token) for token in random.integers(5, 60000, size=random.integers(0, 12))))
        passages.append(
            Passage(uid=uid, title="t", text="b", article="a", title_ids=title, body_ids=body,
                    sentences=((0, len(body)),))
        )  # fmt: skip
    return passages


def make_shards(passages: list[Passage], cuts: list[int]) -> list[PassageShard]:
    """Contiguous shards, cut at these places."""
    edges = [0, *cuts, len(passages)]
    return [PassageShard.from_passages(passages[start:stop], start=start) for start, stop in itertools.pairwise(edges)]


def brute_force(
    vectors_BP: np.ndarray, passages_NP: np.ndarray, uids: list[int], *, num_hits: int, exclude: list[int]
) -> tuple[list[list[int]], list[list[float]]]:
    """Exact search over the whole corpus: by descending score, then ascending uid."""
    all_uids, all_scores = [], []
    for query, excluded in zip(vectors_BP, exclude, strict=True):
        scored = [(-float(np.dot(query, vector)), uid) for vector, uid in zip(passages_NP, uids, strict=True)]
        best = sorted(pair for pair in scored if pair[1] != excluded)[:num_hits]
        missing = num_hits - len(best)
        all_uids.append([uid for _, uid in best] + missing * [NO_HIT])
        all_scores.append([-score for score, _ in best] + missing * [-np.inf])
    return all_uids, all_scores


SPECIAL = SpecialIds(pad=0, cls=1, sep=2, mask=3, unk=4)
WIDTH = 4


def snapshot_of(version: int) -> bytes:
    """What stands for the weights of a version: enough to make its vectors differ from those of all others."""
    return f"weights of version {version}".encode()


def fake_embed(snapshot: bytes) -> Callable[[Tokens], np.ndarray]:
    """Vectors of small integers, of the tokens and the snapshot alone: exact, with ties, whatever the padding."""
    table = np.random.default_rng(list(snapshot)).integers(-9, 10, size=(997, WIDTH)).astype(np.float32)

    def embed(tokens: Tokens) -> np.ndarray:
        places = np.arange(tokens.ids_BL.shape[1]) + 1
        vectors: np.ndarray = table[(tokens.ids_BL * tokens.mask_BL * places).sum(axis=1) % len(table)]
        return vectors

    return embed


def vectors_of(passages: list[Passage], version: int) -> np.ndarray:
    """The vectors that the index must hold of `passages` in `version`, embedded one by one."""
    embed = fake_embed(snapshot_of(version))
    pairs = [(passage.title_ids, passage.body_ids) for passage in passages]
    return np.concatenate([embed(passage_batch([pair], special=SPECIAL, max_tokens=64)) for pair in pairs])


def make_builder(
    passages: PassageShard,
    *,
    embed_factory: Callable[[bytes], Callable[[Tokens], np.ndarray]] = fake_embed,
    store: IndexStore | None = None,
    spec: IndexSpec | None = None,
) -> Builder:
    return Builder(
        passages, embed_factory=embed_factory, special=SPECIAL, passage_tokens=64, width=WIDTH,
        spec=spec or IndexSpec(), batch_tokens=128, num_threads=1, store=store,
    )  # fmt: skip


def send_snapshot(mailbox: Mailbox, version: int, *, to: int, chunk_bytes: int = 7) -> None:
    """What trainer 0 sends to the root of the tree at a launch."""
    for message in snapshot_messages(snapshot_of(version), version=version, step=version, chunk_bytes=chunk_bytes):
        mailbox.send(message, to=to)


def check_candidates(
    candidates: Candidates, passages: list[Passage], vectors_NP: np.ndarray, queries: np.ndarray, exclude: list[int]
) -> None:
    """The answer is that of brute force over this version's vectors, tokens included."""
    uids = [passage.uid for passage in passages]
    num_hits = candidates.uids_BK.shape[1]
    expected_uids, expected_scores = brute_force(queries, vectors_NP, uids, num_hits=num_hits, exclude=exclude)
    assert candidates.uids_BK.tolist() == expected_uids
    assert candidates.scores_BK.tolist() == expected_scores
    by_uid = {passage.uid: passage for passage in passages}
    for query in range(len(queries)):
        for hit in candidates.hits(query):
            assert tuple(hit.title_ids) == by_uid[hit.uid].title_ids
            assert tuple(hit.body_ids) == by_uid[hit.uid].body_ids


class ServerThread:
    """A server on loopback; leaving the `with` waits for it and raises what ended it."""

    def __init__(
        self, mailbox: Mailbox, passages: PassageShard, builder: Builder, *, trainer_ranks: Sequence[int],
        tree: SnapshotTree | None = None, shard_rank: int = 0,
    ) -> None:  # fmt: skip
        """Alone below trainer 0, unless a `tree` is given."""
        self.totals: ServeTotals | None = None
        self._error: BaseException | None = None
        tree = tree or SnapshotTree(trainer=trainer_ranks[0], embedders=(mailbox.rank,))
        self._arguments = (mailbox, passages, builder, trainer_ranks, tree, shard_rank)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        mailbox, passages, builder, trainer_ranks, tree, shard_rank = self._arguments
        try:
            self.totals = serve(
                mailbox, passages=passages, builder=builder, tree=tree, trainer_ranks=trainer_ranks,
                shard_rank=shard_rank, timeout_s=30, build_timeout_s=30,
            )  # fmt: skip
        except BaseException as error:
            self._error = error

    def __enter__(self) -> "ServerThread":
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        self._thread.join(30)
        if kind is None and self._error is not None:
            raise self._error
