"""Corpora that need no text: vectors from a seed, passages whose first wordpieces tell their place, what stands for a
tower that gives a passage the vector of its place, and words drawn at random.

Shapes: N passages, B passages of a batch, L tokens, P embedding.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from realm_ds.data.batches import Tokens
from realm_ds.data.records import Passage, SpecialIds, passage_uid
from realm_ds.data.shard_writer import write_shards
from realm_ds.data.tokenizer import train_wordpiece
from realm_ds.index.passages import PassageShard

BLOCK = 4096
"""Passages whose vectors are drawn together: any range can be made without making what is before it."""
SPECIAL = SpecialIds(pad=0, cls=1, sep=2, mask=3, unk=4)
FIRST_BODY_COLUMN = 2
"""[CLS] [SEP] body [SEP]: titles are empty here."""
FIRST_UID = 1
ENCODED_AT_ONCE = 1000
MOST_PER_SHARD = 5000
PLACE_BITS = 16
PLACE_TOKENS = 2
"""Wordpieces that tell a place: what a stand-in for a tower needs to see of a passage."""
_SEED_MARK = b"seed "


@dataclass(frozen=True, kw_only=True)
class VectorsOf:
    """The vectors of a corpus that exists only as a seed; the same range gives the same numbers everywhere."""

    seed: int
    width: int

    def __call__(self, start: int, stop: int) -> np.ndarray:
        """float32 [stop - start, P], normally distributed."""
        vectors_NP = np.empty((stop - start, self.width), dtype=np.float32)
        for block in range(start // BLOCK, -(-stop // BLOCK)):
            low, high = max(start, block * BLOCK), min(stop, (block + 1) * BLOCK)
            drawn = self._block(block)
            vectors_NP[low - start : high - start] = drawn[low - block * BLOCK : high - block * BLOCK]
        return vectors_NP

    def at(self, places_B: np.ndarray) -> np.ndarray:
        """float32 [B, P], of places in any order."""
        vectors_BP = np.empty((len(places_B), self.width), dtype=np.float32)
        for block in np.unique(places_B // BLOCK).tolist():
            rows = np.flatnonzero(places_B // BLOCK == block)
            vectors_BP[rows] = self._block(block)[places_B[rows] - block * BLOCK]
        return vectors_BP

    def _block(self, block: int) -> np.ndarray:
        random = np.random.default_rng([self.seed, block])
        return random.standard_normal((BLOCK, self.width), dtype=np.float32)


def queries_of(seed: int, *, count: int, width: int) -> np.ndarray:
    """float32 [count, P]; never those of passages, whose seeds are two numbers."""
    return np.random.default_rng(seed).standard_normal((count, width), dtype=np.float32)


def numbered_passages(start: int, stop: int, *, tokens: int, seed: int = 0, most_token: int = 30_000) -> PassageShard:
    """Passages start..stop-1 of a corpus, `tokens` wordpieces each; uids are places + FIRST_UID.

    The first wordpiece is the place, the second what of it does not fit into 16 bits; the others are random.
    """
    count = stop - start
    places_N = np.arange(start, stop, dtype=np.int64)
    if tokens < 1 or (tokens < 2 and stop > 1 << PLACE_BITS):
        raise ValueError(f"{tokens} wordpieces cannot tell {stop} places")
    random = np.random.default_rng([seed, start])
    tokens_NL = random.integers(5, most_token, size=(count, tokens), dtype=np.uint16)
    tokens_NL[:, 0] = places_N & 0xFFFF
    if tokens > 1:
        tokens_NL[:, 1] = places_N >> PLACE_BITS
    return PassageShard(
        start=start, uids_N=places_N + FIRST_UID, title_lengths_N=np.zeros(count, dtype=np.int32),
        body_lengths_N=np.full(count, tokens, dtype=np.int32), tokens=tokens_NL.reshape(-1),
        articles_N=np.zeros(count, dtype=np.int64),
    )  # fmt: skip


def embed_places(vectors: VectorsOf, *, tokens: int) -> Callable[[Tokens], np.ndarray]:
    """What stands for a passage tower: numbered_passages get the vectors of their places."""

    def embed(batch: Tokens) -> np.ndarray:
        places_B = batch.ids_BL[:, FIRST_BODY_COLUMN].copy()
        if tokens > 1:
            places_B += batch.ids_BL[:, FIRST_BODY_COLUMN + 1] << PLACE_BITS
        return vectors.at(places_B)

    return embed


def write_text(folder: Path, *, vocabulary: int, num_passages: int = 64, words: int = 12) -> None:
    """Write tokenizer/ of about so many wordpieces, and corpus/ of tar shards, of words that mean nothing."""
    random = np.random.default_rng(0)
    letters = list("abcdefghijklmnopqrstuvwxyz")
    lengths = random.integers(3, 8, size=3 * vocabulary // 2)
    known = np.array(["".join(random.choice(letters, size=length)) for length in lengths])
    tokenizer = train_wordpiece([" ".join(known)], vocab_size=vocabulary, folder=folder / "tokenizer")

    def passages() -> Iterator[Passage]:
        for start in range(0, num_passages, ENCODED_AT_ONCE):
            numbers = range(start, min(start + ENCODED_AT_ONCE, num_passages))
            titles = [str(known[number % len(known)]) for number in numbers]
            texts = [" ".join(random.choice(known, size=words)) + "." for _ in numbers]
            pairs = zip(tokenizer.encode_all(titles), tokenizer.encode_all(texts), strict=True)
            for title, text, (title_ids, ids) in zip(titles, texts, pairs, strict=True):
                yield Passage(
                    uid=passage_uid(title, text), title=title, text=text, article=title, body_ids=tuple(ids),
                    title_ids=tuple(title_ids), sentences=((0, len(ids)),),
                )  # fmt: skip

    write_shards(
        passages(), folder / "corpus", kind="corpus", per_shard=min(num_passages, MOST_PER_SHARD),
        tokenizer_fingerprint=tokenizer.fingerprint, source="words drawn at random", settings={},
    )  # fmt: skip


def seed_snapshot(seed: int) -> bytes:
    """What travels in place of a tower's weights."""
    return _SEED_MARK + str(seed).encode()


def seed_in(snapshot: bytes) -> int | None:
    """None for the weights of a real tower."""
    return int(snapshot.removeprefix(_SEED_MARK)) if snapshot.startswith(_SEED_MARK) else None


def is_best(places_BK: np.ndarray, queries_BP: np.ndarray, vectors_NP: np.ndarray) -> bool:
    """Whether these are the best hits in order, by brute force; scores that differ by rounding may change places."""
    scores_BN = queries_BP.astype(np.float64) @ vectors_NP.T.astype(np.float64)
    best_BK = -np.sort(-scores_BN, axis=1)[:, : places_BK.shape[1]]
    found_BK = np.take_along_axis(scores_BN, places_BK, axis=1)
    are_distinct = all(len(set(row)) == len(row) for row in places_BK.tolist())
    return are_distinct and bool(np.allclose(found_BK, best_BK, rtol=1e-4, atol=1e-4))
