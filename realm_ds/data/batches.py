"""Wordpieces to padded arrays: the four sequence formats, and buckets of like length. What is in a batch is not chosen
here. The formats are those of Google's release (featurization.py), padding is to the longest of the batch:

    query    [CLS] x [SEP]                    types 0
    passage  [CLS] title [SEP] body [SEP]     types 0 up to and with the first [SEP], then 1
    joint    [CLS] x [SEP] body [SEP]         likewise; no title
    null     an empty title and an empty body in either

Special tokens always stay; the first segment is cut to what they leave, the second to what is left after the first.

Shapes: B examples, C candidates of each (null first), L tokens, M masks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from realm_ds.data.masking import MaskedExample
from realm_ds.data.records import SpecialIds
from realm_ds.errors import ConfigError

JOINT_BUCKETS = 4
PASSAGE_BUCKETS = 2
"""Buckets of like length that a training step sorts its joint sequences and its passages into."""
Ids = Sequence[int] | np.ndarray
"""Wordpieces of one sequence."""


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """What a BERT-like encoder takes; all int64, 0 where padded."""

    ids_BL: np.ndarray
    mask_BL: np.ndarray
    """1 for tokens, 0 for padding."""
    types_BL: np.ndarray


@dataclass(frozen=True, kw_only=True)
class MaskTargets:
    """What stood at the masked places of each example; all int64, 0 in unused places, as in Google's release."""

    positions_BM: np.ndarray
    """Places in the query and, as x comes first, in each of its joint sequences."""
    targets_BM: np.ndarray
    weights_BM: np.ndarray
    """1 for a target, 0 for an unused place."""


def pad(rows: Sequence[Ids], pad_id: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(ids_BL, mask_BL) of rows of any length, at least one column wide."""
    arrays = [np.asarray(row, dtype=np.int64) for row in rows]
    lengths_B = np.array([len(array) for array in arrays], dtype=np.int64)
    mask_BL = np.arange(max(1, lengths_B.max(initial=0))) < lengths_B[:, None]
    ids_BL = np.full(mask_BL.shape, pad_id, dtype=np.int64)
    if arrays:
        ids_BL[mask_BL] = np.concatenate(arrays)
    return ids_BL, mask_BL.astype(np.int64)


def query_batch(queries: Sequence[Ids], *, special: SpecialIds, max_tokens: int) -> Tokens:
    """[CLS] x [SEP] of wordpieces without special tokens."""
    cls, sep = (special.cls,), (special.sep,)
    return _one_segment([_joined(cls, query[: max_tokens - 2], sep) for query in queries], special)


def masked_query_batch(examples: Sequence[MaskedExample], *, special: SpecialIds) -> Tokens:
    """The masked queries, which have their special tokens and their length already."""
    return _one_segment([example.ids for example in examples], special)


def passage_batch(passages: Sequence[tuple[Ids, Ids]], *, special: SpecialIds, max_tokens: int) -> Tokens:
    """[CLS] title [SEP] body [SEP] of (title, body) pairs; the null passage is ((), ())."""
    budget = max_tokens - 3
    return _two_segments([_cut_pair(title, body, budget) for title, body in passages], special)


def joint_batch(
    examples: Sequence[MaskedExample], bodies_BC: Sequence[Sequence[Ids]], *, special: SpecialIds, passage_tokens: int
) -> Tokens:
    """[CLS] x [SEP] body [SEP] of every example with each of its candidates, C rows after C rows.

    A body is cut to passage_tokens - 2 before it is joined, as in Google's release: x never takes room from it.
    """
    return _two_segments(
        [
            (example.ids[1:-1], body[: passage_tokens - 2])
            for example, bodies in zip(examples, bodies_BC, strict=True)
            for body in bodies
        ],
        special,
    )


def mask_targets(examples: Sequence[MaskedExample], *, max_masks: int) -> MaskTargets:
    """Positions and targets of the masks, M = max_masks wide whatever the batch, so that losses never change shape."""
    shape = (len(examples), max_masks)
    positions_BM, targets_BM, weights_BM = (np.zeros(shape, dtype=np.int64) for _ in range(3))
    for row, example in enumerate(examples):
        count = len(example.targets)
        positions_BM[row, :count] = example.mask_positions
        targets_BM[row, :count] = example.targets
        weights_BM[row, :count] = 1
    return MaskTargets(positions_BM=positions_BM, targets_BM=targets_BM, weights_BM=weights_BM)


def length_buckets(lengths: Sequence[int] | np.ndarray, *, max_tokens: int) -> list[np.ndarray]:
    """Places of `lengths` in batches of like length, each at most max_tokens when padded to its longest.

    The longest come first, so that a batch that does not fit into memory shows at once.
    """
    lengths_N = np.maximum(np.asarray(lengths, dtype=np.int64), 1)
    order = np.argsort(-lengths_N, kind="stable")
    batches = []
    start = 0
    while start < len(order):
        longest = int(lengths_N[order[start]])
        if longest > max_tokens:
            raise ConfigError(
                f"sequence {order[start]} has {longest} wordpieces, but a batch has index.embed_batch_tokens="
                f"{max_tokens}; set that to at least {longest}"
            )
        batches.append(order[start : start + max_tokens // longest])
        start += len(batches[-1])
    return batches


def _cut_pair(first: Ids, second: Ids, budget: int) -> tuple[Ids, Ids]:
    first = first[:budget]
    return first, second[: budget - len(first)]


def _one_segment(rows: Sequence[Ids], special: SpecialIds) -> Tokens:
    ids_BL, mask_BL = pad(rows, special.pad)
    return Tokens(ids_BL=ids_BL, mask_BL=mask_BL, types_BL=np.zeros_like(ids_BL))


def _two_segments(pairs: Sequence[tuple[Ids, Ids]], special: SpecialIds) -> Tokens:
    cls, sep = (special.cls,), (special.sep,)
    rows = [_joined(cls, first, sep, second, sep) for first, second in pairs]
    ids_BL, mask_BL = pad(rows, special.pad)
    second_starts_B = np.array([2 + len(first) for first, _ in pairs], dtype=np.int64)
    types_BL = (np.arange(ids_BL.shape[1]) >= second_starts_B[:, None]) & (mask_BL == 1)
    return Tokens(ids_BL=ids_BL, mask_BL=mask_BL, types_BL=types_BL.astype(np.int64))


def _joined(*parts: Ids) -> np.ndarray:
    return np.concatenate([np.asarray(part, dtype=np.int64) for part in parts])
