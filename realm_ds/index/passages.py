"""The passages of one shard: uids, articles and tokens, the same for every index version. No vectors here.

Shapes: N passages of the shard, B queries, K hits per query, H passages asked for, L tokens of all of them.
"""

from array import array
from collections.abc import Iterable

import numpy as np

from realm_ds.data.records import Passage, article_id
from realm_ds.data.shards import Shards, passage_range
from realm_ds.errors import DataError


def load_shard(corpus: Shards, *, shard_rank: int, num_shards: int, max_tokens: int | None = None) -> "PassageShard":
    """The passages of one of `num_shards` equal parts of the corpus; ConfigError if there are too few for that.

    DataError for a passage of more than `max_tokens`, special tokens included: its end would be lost in silence.
    """
    start, stop = passage_range(corpus.count, shard_rank, num_shards)
    return PassageShard.from_passages(corpus.passages(start, stop, max_tokens=max_tokens), start=start)


class PassageShard:
    """Uids and tokens of a contiguous range of the corpus, in corpus order; the same for every index version."""

    def __init__(
        self, *, start: int, uids_N: np.ndarray, articles_N: np.ndarray, title_lengths_N: np.ndarray,
        body_lengths_N: np.ndarray, tokens: np.ndarray,
    ) -> None:  # fmt: skip
        self.start = start
        """Place of the first passage in the corpus."""
        self.uids_N = uids_N
        self.articles_N = articles_N
        """int64 ids of the articles that the passages were cut from."""
        self.title_lengths_N = title_lengths_N
        self.body_lengths_N = body_lengths_N
        self.tokens = tokens
        """uint16: title and body of every passage, one after the other."""
        self.lengths_N = title_lengths_N.astype(np.int64) + body_lengths_N
        self.starts_N = np.cumsum(self.lengths_N) - self.lengths_N
        """Where each passage begins in `tokens`."""

    @classmethod
    def from_passages(cls, passages: Iterable[Passage], *, start: int) -> "PassageShard":
        """Read the passages once, keeping 2 bytes a token and nothing of the text."""
        uids, articles, titles, bodies, tokens = array("q"), array("q"), array("i"), array("i"), array("H")
        for passage in passages:
            uids.append(passage.uid)
            articles.append(article_id(passage.article))
            titles.append(len(passage.title_ids))
            bodies.append(len(passage.body_ids))
            try:
                tokens.extend(passage.title_ids)
                tokens.extend(passage.body_ids)
            except (OverflowError, TypeError) as error:
                raise DataError(
                    f"passage {passage.uid} ({passage.title!r}) holds a token id outside 0..65535: {error}; "
                    "the index keeps 16 bits a token, so prepare the corpus with a smaller vocabulary"
                ) from error
        if not uids:
            raise DataError(f"no passage for the shard that starts at passage {start} of the corpus; prepare it again")
        return cls(
            start=start,
            uids_N=np.array(uids, dtype=np.int64),
            articles_N=np.array(articles, dtype=np.int64),
            title_lengths_N=np.array(titles, dtype=np.int32),
            body_lengths_N=np.array(bodies, dtype=np.int32),
            tokens=np.frombuffer(tokens, dtype=np.uint16),  # not a copy: they are most of what a shard holds
        )

    def __len__(self) -> int:
        return len(self.uids_N)

    @property
    def stop(self) -> int:
        """Place in the corpus just after the last passage."""
        return self.start + len(self)

    def pairs(self, rows: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Title and body wordpieces of the passages at these places, to collate for the embedder."""
        found = []
        for row in rows.tolist():
            first = int(self.starts_N[row])
            middle = first + int(self.title_lengths_N[row])
            found.append((self.tokens[first:middle], self.tokens[middle : first + self.lengths_N[row]]))
        return found

    def bodies(self, places_H: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Body lengths [H] and flat body tokens [L] of the passages at these places."""
        lengths_H = self.body_lengths_N[places_H].astype(np.int64)
        return lengths_H, take_ranges(self.tokens, self.starts_N[places_H] + self.title_lengths_N[places_H], lengths_H)

    def gather(self, places_BK: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Title lengths [B, K], body lengths [B, K] and flat tokens of hits; nothing where there is no hit."""
        is_hit_BK = places_BK >= 0
        rows = places_BK.ravel() if is_hit_BK.all() else places_BK[is_hit_BK]
        title_lengths_BK = np.zeros(places_BK.shape, dtype=np.int32)
        body_lengths_BK = np.zeros(places_BK.shape, dtype=np.int32)
        title_lengths_BK[is_hit_BK] = self.title_lengths_N[rows]
        body_lengths_BK[is_hit_BK] = self.body_lengths_N[rows]
        return title_lengths_BK, body_lengths_BK, take_ranges(self.tokens, self.starts_N[rows], self.lengths_N[rows])


def take_ranges(flat: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The ranges flat[start : start + length], one after the other, without a Python loop over them."""
    starts, lengths = starts[lengths > 0], lengths[lengths > 0]
    places = np.ones(int(lengths.sum()), dtype=np.int64)
    if len(places):
        # Steps of one, and at the begin of each range the jump from the end of the one before.
        places[0] = starts[0]
        places[np.cumsum(lengths[:-1])] = starts[1:] - (starts[:-1] + lengths[:-1] - 1)
        np.cumsum(places, out=places)
    taken: np.ndarray = flat.take(places)
    return taken
