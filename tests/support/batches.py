"""Tokens and candidates for networks, as the collator and the index make them."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from realm_ds.index.merge import Candidates
from realm_ds.models.towers import TokenBatch

Ids = Sequence[int]


def plain_tokens(ids_NL: torch.Tensor) -> TokenBatch:
    """Sequences of one segment, of one length and without padding."""
    return TokenBatch(ids_NL, torch.ones_like(ids_NL), torch.zeros_like(ids_NL))


def candidates_with(uids_BK: Sequence[Ids], texts: Mapping[int, tuple[Ids, Ids]], *, step: int = 0) -> Candidates:
    """What merge() makes: title and body of every hit (nothing of a uid without a text), row after row."""
    pairs = [texts.get(uid, ((), ())) for row in uids_BK for uid in row]
    uids = np.array(uids_BK)
    titles_BK = np.array([len(title) for title, _ in pairs]).reshape(uids.shape)
    bodies_BK = np.array([len(body) for _, body in pairs]).reshape(uids.shape)
    lengths_BK = titles_BK + bodies_BK
    return Candidates(
        step=step, version=0, uids_BK=uids, places_BK=uids, scores_BK=np.zeros(uids.shape, np.float32),
        title_lengths_BK=titles_BK, body_lengths_BK=bodies_BK,
        starts_BK=(np.cumsum(lengths_BK) - lengths_BK.ravel()).reshape(uids.shape),
        tokens=np.array([token for pair in pairs for part in pair for token in part], "u2"),
        search_ms=0.0, parked_ms=0.0, wait_s=0.0,
    )  # fmt: skip
