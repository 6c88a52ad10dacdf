"""The batch of tests/oracle/hf_realm, which transformers 4.57.6 was given, as our collator makes it."""

import json
from pathlib import Path
from typing import Any

import torch

from realm_ds.data.masking import MaskedExample
from realm_ds.index.merge import Candidates
from realm_ds.models.objectives import MarginalBatch
from realm_ds.train.collate import Collator
from tests.support.batches import candidates_with
from tests.support.records import SPECIAL

ORACLE = Path(__file__).parents[1] / "oracle" / "hf_realm"


def expected() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ORACLE / "expected.json").read_text())
    return found


def oracle_batch(case: dict[str, Any]) -> MarginalBatch:
    collator = Collator(
        special=SPECIAL, query_tokens=case["query_tokens"], passage_tokens=case["passage_tokens"], max_masks=10,
        device=torch.device("cpu"),
    )  # fmt: skip
    return collator.marginal(_examples(case), _candidates(case))


def _examples(case: dict[str, Any]) -> list[MaskedExample]:
    return [
        MaskedExample(
            id=str(number), ids=tuple(query["ids"]), mask_positions=tuple(query["positions"]),
            targets=tuple(query["targets"]), origin_uid=0,
        )
        for number, query in enumerate(case["queries"])
    ]  # fmt: skip


def _candidates(case: dict[str, Any]) -> Candidates:
    """What the index would have found: all but the null passage, which the collator adds."""
    return candidates_with([row[1:] for row in case["candidates"]], dict(enumerate(case["passages"])))
