"""Examples and what was retrieved for them, as tensors of an objective. Padding and formats are data/batches.py's.

Sequences are sorted by length into a fixed number of buckets: less padding, and as many forward passes on every
trainer, which ZeRO-3 needs since each pass gathers weights from all of them.

Shapes: B examples, K retrieved passages, C candidates (these behind the null passage, where there is one), M masks.
"""

from collections.abc import Sequence

import numpy as np
import torch

from realm_ds.data.batches import (
    JOINT_BUCKETS,
    PASSAGE_BUCKETS,
    Ids,
    Tokens,
    joint_batch,
    mask_targets,
    masked_query_batch,
    passage_batch,
    query_batch,
)
from realm_ds.data.ict import IctExample
from realm_ds.data.masking import MaskedExample
from realm_ds.data.records import Passage, SpecialIds
from realm_ds.errors import IndexFault
from realm_ds.index.merge import Candidates
from realm_ds.index.messages import NO_HIT
from realm_ds.models.objectives import ClozeBatch, MarginalBatch, MaskedBatch
from realm_ds.models.towers import TokenBatch

Pair = tuple[Ids, Ids]
"""Title and body wordpieces of a passage."""
NULL_PASSAGE: Pair = ((), ())


class Collator:
    """Makes batches on one device for one tokenizer and one set of lengths."""

    def __init__(
        self,
        *,
        special: SpecialIds,
        query_tokens: int,
        passage_tokens: int,
        max_masks: int,
        device: torch.device,
        has_null: bool = True,
    ) -> None:
        """`has_null`: the null passage is a candidate of every query, the first."""
        self._special, self._device, self._has_null = special, device, has_null
        self._query_tokens, self._passage_tokens, self._max_masks = query_tokens, passage_tokens, max_masks

    def masked_queries(self, examples: Sequence[MaskedExample]) -> TokenBatch:
        """Masked x as the query tower sees it."""
        return self._tensors(masked_query_batch(examples, special=self._special))

    def queries(self, questions: Sequence[Sequence[int]], *, max_tokens: int | None = None) -> TokenBatch:
        """Plain sentences or questions, without special tokens."""
        return self._tensors(query_batch(questions, special=self._special, max_tokens=max_tokens or self._query_tokens))

    def passages(self, pairs: Sequence[Pair]) -> TokenBatch:
        return self._tensors(passage_batch(pairs, special=self._special, max_tokens=self._passage_tokens))

    def marginal(self, examples: Sequence[MaskedExample], candidates: Candidates) -> MarginalBatch:
        """B examples with their candidates: K retrieved passages, behind the null passage if there is one; every
        distinct passage once."""
        pairs, rows_BC = _distinct(candidates, has_null=self._has_null)
        by_length = np.argsort([len(title) + len(body) for title, body in pairs], kind="stable")
        place_of_U = np.argsort(by_length)
        passages = tuple(
            self.passages([pairs[row] for row in bucket]) for bucket in _buckets(by_length, PASSAGE_BUCKETS)
        )
        flat_examples = [example for example in examples for _ in range(rows_BC.shape[1])]
        bodies = [pairs[row][1] for row in rows_BC.ravel()]
        return MarginalBatch(
            queries=self.masked_queries(examples),
            passages=passages,
            passage_rows_BC=self._tensor(place_of_U[rows_BC]),
            joint=self._joint(flat_examples, bodies, JOINT_BUCKETS),
            masks_BM=self._weights(examples),
        )

    def cloze(self, examples: Sequence[IctExample], warmup: Sequence[tuple[MaskedExample, Passage]]) -> ClozeBatch:
        """Inverse-cloze pairs, and, unless `warmup` is empty, masked sentences with their own passage at hand."""
        masked = [example for example, _ in warmup]
        joint = self._joint(masked, [passage.body_ids for _, passage in warmup], 1)[0] if warmup else None
        return ClozeBatch(
            queries=self.queries([example.query_ids for example in examples]),
            passages=self.passages([(example.title_ids, example.body_ids) for example in examples]),
            masked=joint,
            masks_NM=self._weights(masked)[joint.rows_N] if joint is not None else None,
        )

    def _joint(
        self, examples: Sequence[MaskedExample], bodies: Sequence[Ids], num_buckets: int
    ) -> tuple[MaskedBatch, ...]:
        targets = mask_targets(examples, max_masks=self._longest_target(examples))
        lengths_N = [len(example.ids) + len(body) for example, body in zip(examples, bodies, strict=True)]
        batches = []
        for rows_N in _buckets(np.argsort(lengths_N, kind="stable"), num_buckets):
            tokens = joint_batch(
                [examples[row] for row in rows_N],
                [[bodies[row]] for row in rows_N],
                special=self._special,
                passage_tokens=self._passage_tokens,
            )
            batches.append(
                MaskedBatch(
                    tokens=self._tensors(tokens),
                    rows_N=self._tensor(rows_N),
                    positions_NM=self._tensor(targets.positions_BM[rows_N]),
                    targets_NM=self._tensor(targets.targets_BM[rows_N]),
                )
            )
        return tuple(batches)

    def _weights(self, examples: Sequence[MaskedExample]) -> torch.Tensor:
        return self._tensor(mask_targets(examples, max_masks=self._longest_target(examples)).weights_BM).float()

    def _longest_target(self, examples: Sequence[MaskedExample]) -> int:
        """M of this batch: unused places would be projected to the whole vocabulary for nothing."""
        return min(self._max_masks, max(len(example.targets) for example in examples))

    def _tensors(self, tokens: Tokens) -> TokenBatch:
        return TokenBatch(self._tensor(tokens.ids_BL), self._tensor(tokens.mask_BL), self._tensor(tokens.types_BL))

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)


def _distinct(candidates: Candidates, *, has_null: bool) -> tuple[list[Pair], np.ndarray]:
    """Pairs of the distinct passages, the null passage first, and each candidate's place among them (B, C)."""
    if (candidates.uids_BK == NO_HIT).any():
        raise IndexFault(
            f"the index found fewer than {candidates.uids_BK.shape[1]} passages for a query of step {candidates.step}: "
            "an approximate index.factory looks at too few cells; take one that looks at more, or lower "
            "pretrain.candidates"
        )
    rows_BC = np.zeros((len(candidates.uids_BK), candidates.uids_BK.shape[1] + has_null), dtype=np.int64)
    pairs: list[Pair] = [NULL_PASSAGE] if has_null else []
    row_of_uid: dict[int, int] = {}
    for query in range(len(rows_BC)):
        for place, hit in enumerate(candidates.hits(query), start=int(has_null)):
            row = row_of_uid.setdefault(hit.uid, len(pairs))
            if row == len(pairs):
                pairs.append((hit.title_ids, hit.body_ids))
            rows_BC[query, place] = row
    return pairs, rows_BC


def _buckets(order: np.ndarray, num_buckets: int) -> list[np.ndarray]:
    return np.array_split(order, min(num_buckets, len(order)))
