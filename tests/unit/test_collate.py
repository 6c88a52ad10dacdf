"""Two queries that retrieved a passage in common, worked by hand: each passage once, joint sequences in buckets."""

import pytest
import torch

from realm_ds.data.batches import JOINT_BUCKETS, PASSAGE_BUCKETS
from realm_ds.data.masking import MaskedExample
from realm_ds.errors import IndexFault
from realm_ds.index.merge import Candidates
from realm_ds.index.messages import NO_HIT
from realm_ds.models.towers import TokenBatch
from realm_ds.train.collate import Collator
from tests.support.batches import candidates_with
from tests.support.records import SPECIAL

CLS, SEP, MASK, PAD = SPECIAL.cls, SPECIAL.sep, SPECIAL.mask, SPECIAL.pad
TITLES = {7: [70], 8: [], 9: [90, 91]}
BODIES = {7: [71, 72], 8: [81], 9: [92, 93, 94, 95]}
UIDS_BK = [[8, 7], [7, 9]]
EXAMPLES = [
    MaskedExample(id="a", ids=(CLS, 20, MASK, SEP), mask_positions=(2,), targets=(21,), origin_uid=0),
    MaskedExample(id="b", ids=(CLS, MASK, MASK, 32, SEP), mask_positions=(1, 2), targets=(30, 31), origin_uid=0),
]


def candidates(uids_BK: list[list[int]]) -> Candidates:
    return candidates_with(uids_BK, {uid: (TITLES[uid], BODIES[uid]) for uid in TITLES}, step=3)


@pytest.fixture
def collator() -> Collator:
    return Collator(special=SPECIAL, query_tokens=16, passage_tokens=16, max_masks=3, device=torch.device("cpu"))


def rows(tokens: TokenBatch) -> list[list[int]]:
    """Token ids without padding, which must be [PAD] and only at the end."""
    found = []
    for ids, mask in zip(tokens.ids_NL.tolist(), tokens.mask_NL.tolist(), strict=True):
        length = sum(mask)
        assert mask == [1] * length + [0] * (len(mask) - length)
        assert ids[length:] == [PAD] * (len(ids) - length)
        found.append(ids[:length])
    return found


def test_every_distinct_passage_is_embedded_once(collator: Collator) -> None:
    batch = collator.marginal(EXAMPLES, candidates(UIDS_BK))
    assert len(batch.passages) == PASSAGE_BUCKETS
    passages = [row for bucket in batch.passages for row in rows(bucket)]
    null = [CLS, SEP, SEP]
    of = {uid: [CLS, *TITLES[uid], SEP, *BODIES[uid], SEP] for uid in TITLES}
    assert passages == [null, of[8], of[7], of[9]]  # by length
    assert batch.passage_rows_BC.tolist() == [[0, 1, 2], [0, 2, 3]]
    assert [len(bucket.ids_NL) for bucket in batch.passages] == [2, 2]
    assert batch.passages[0].ids_NL.shape[1] == len(of[8])  # padded to the longest of the bucket
    assert batch.passages[1].types_NL.tolist() == [[0, 0, 0, 1, 1, 1, 0, 0, 0], [0, 0, 0, 0, 1, 1, 1, 1, 1]]


def test_joint_sequences_are_sorted_into_buckets_and_know_their_place(collator: Collator) -> None:
    batch = collator.marginal(EXAMPLES, candidates(UIDS_BK))
    assert rows(batch.queries) == [list(example.ids) for example in EXAMPLES]
    assert len(batch.joint) == JOINT_BUCKETS
    places = torch.cat([part.rows_N for part in batch.joint]).tolist()
    assert sorted(places) == list(range(6))
    wanted = [
        [*example.ids, *BODIES.get(uid, []), SEP]
        for example, uids in zip(EXAMPLES, UIDS_BK, strict=True)
        for uid in (None, *uids)
    ]
    found = [row for part in batch.joint for row in rows(part.tokens)]
    assert found == [wanted[place] for place in places]
    assert [len(row) for row in found] == sorted(len(row) for row in wanted)
    first = batch.joint[0]
    assert first.rows_N.tolist() == [0, 1]
    assert first.tokens.types_NL.tolist() == [[0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 1, 1]]


def test_targets_follow_their_sequences_and_unused_places_weigh_nothing(collator: Collator) -> None:
    batch = collator.marginal(EXAMPLES, candidates(UIDS_BK))
    assert batch.masks_BM.tolist() == [[1.0, 0.0], [1.0, 1.0]]  # as wide as the longest, not as data.max_masks
    positions = {0: [2, 0], 1: [1, 2]}
    targets = {0: [21, 0], 1: [30, 31]}
    for part in batch.joint:
        examples = [place // 3 for place in part.rows_N.tolist()]
        assert part.positions_NM.tolist() == [positions[example] for example in examples]
        assert part.targets_NM.tolist() == [targets[example] for example in examples]


def test_there_are_as_many_buckets_whatever_the_lengths(collator: Collator) -> None:
    """ZeRO-3 gathers weights in every forward pass: a trainer with fewer would leave the others waiting."""
    batch = collator.marginal(EXAMPLES, candidates([[7, 7], [7, 7]]))
    assert (len(batch.passages), len(batch.joint)) == (PASSAGE_BUCKETS, JOINT_BUCKETS)


def test_without_a_null_passage_the_candidates_are_those_retrieved() -> None:
    collator = Collator(
        special=SPECIAL, query_tokens=16, passage_tokens=16, max_masks=3, device=torch.device("cpu"), has_null=False
    )
    batch = collator.marginal(EXAMPLES, candidates(UIDS_BK))
    of = {uid: [CLS, *TITLES[uid], SEP, *BODIES[uid], SEP] for uid in TITLES}
    assert [row for bucket in batch.passages for row in rows(bucket)] == [of[8], of[7], of[9]]
    assert batch.passage_rows_BC.tolist() == [[0, 1], [1, 2]]
    joint = {
        place: row for part in batch.joint for place, row in zip(part.rows_N.tolist(), rows(part.tokens), strict=True)
    }
    assert [joint[place] for place in range(4)] == [
        [*example.ids, *BODIES[uid], SEP] for example, uids in zip(EXAMPLES, UIDS_BK, strict=True) for uid in uids
    ]


def test_a_place_without_a_passage_is_a_fault(collator: Collator) -> None:
    with pytest.raises(IndexFault, match="found fewer than 2 passages for a query of step 3: an approximate index"):
        collator.marginal(EXAMPLES, candidates([[8, 7], [7, NO_HIT]]))
