"""BM25 over the passages of a corpus: what word overlap alone finds, to compare a trained retriever with.

The library is bm25s, with English stop words and stems.

Shapes: B queries, K hits of each.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from realm_ds.data.records import Passage
from realm_ds.errors import ConfigError

K1, B = 0.9, 0.4
"""As usual for passages of Wikipedia."""


class Bm25:
    """An index of titles and bodies, in memory."""

    def __init__(self, passages: Sequence[Passage]) -> None:
        """Raises ConfigError where the library is not installed."""
        try:
            import bm25s
            import Stemmer
        except ImportError as error:
            raise ConfigError(f"BM25 needs {error.name}: pip install 'realm-ds[bm25]'") from error
        self._library, self._stemmer = bm25s, Stemmer.Stemmer("english")
        self._num_passages = len(passages)
        self._index = bm25s.BM25(k1=K1, b=B)
        words = self._words([f"{passage.title} {passage.text}" for passage in passages])
        self._index.index(words, show_progress=False)

    def search(self, queries: Sequence[str], *, num_hits: int) -> np.ndarray:
        """Places [B, K] of the best passages, best first; all of them where there are fewer.

        Passages that share no word with the query come last, in no order that means anything.
        """
        num_hits = min(num_hits, self._num_passages)
        found = self._index.retrieve(self._words(queries), k=num_hits, show_progress=False)
        places_BK: np.ndarray = found.documents.astype(np.int64)
        return places_BK

    def _words(self, texts: Sequence[str]) -> Any:
        return self._library.tokenize(
            list(texts), stopwords="en", stemmer=self._stemmer, return_ids=False, show_progress=False
        )
