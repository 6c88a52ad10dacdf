"""Do models that were written to disk compute what those in memory did? For `realm-ds export --verify`.

Shapes: B sentences, L tokens, P embedding.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from realm_ds.config.schema import RealmConfig
from realm_ds.data.batches import joint_batch, mask_targets, passage_batch, query_batch
from realm_ds.data.masking import MaskedExample
from realm_ds.data.shards import Shards
from realm_ds.data.tokenizer import Tokenizer
from realm_ds.errors import CheckpointError
from realm_ds.eval.corpus import tensors
from realm_ds.models.realm import RealmModel
from realm_ds.models.towers import TokenBatch, embed

NUM_SAMPLES = 8
BOUNDS = {"fp32": 0.0, "fp16": 0.01, "bf16": 0.08}
"""How far the greatest difference may be, as a share of the greatest value."""


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Passages of the corpus, and the first sentence of each as a question, one wordpiece of it masked."""

    queries: TokenBatch
    passages: TokenBatch
    joint: TokenBatch
    positions: Tensor
    targets: Tensor


def take_samples(corpus: Shards, *, tokenizer: Tokenizer, config: RealmConfig) -> Samples:
    special, data, here = tokenizer.special, config.data, torch.device("cpu")
    passages = list(corpus.passages(0, min(NUM_SAMPLES, corpus.count)))
    sentences = [passage.body_ids[slice(*passage.sentences[0])][: data.query_tokens - 2] for passage in passages]
    masked = [
        MaskedExample(
            id=str(number), ids=(special.cls, special.mask, *sentence[1:], special.sep), mask_positions=(1,),
            targets=(sentence[0],), origin_uid=passages[number].uid,
        )
        for number, sentence in enumerate(sentences)
    ]  # fmt: skip
    targets = mask_targets(masked, max_masks=1)
    bodies = [[passage.body_ids] for passage in passages]
    pairs = [(passage.title_ids, passage.body_ids) for passage in passages]
    return Samples(
        queries=tensors(query_batch(sentences, special=special, max_tokens=data.query_tokens), here),
        passages=tensors(passage_batch(pairs, special=special, max_tokens=data.passage_tokens), here),
        joint=tensors(joint_batch(masked, bodies, special=special, passage_tokens=data.passage_tokens), here),
        positions=torch.from_numpy(targets.positions_BM),
        targets=torch.from_numpy(targets.targets_BM),
    )


@torch.inference_mode()
def outputs(realm: RealmModel, samples: Samples) -> dict[str, Tensor]:
    """What the three networks make of the samples."""
    log_p_BM, _ = realm.encoder(samples.joint, samples.positions, samples.targets)
    return {
        "query vectors": embed(realm.query_tower, samples.queries),
        "passage vectors": embed(realm.passage_tower, samples.passages),
        "log-probabilities of masked words": log_p_BM,
    }


def compare(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], *, dtype: str) -> list[str]:
    """A line for each output. Raises CheckpointError if one is not what it must be: the same bits for fp32."""
    told = []
    for name, before in expected.items():
        after = found[name]
        difference = float((after - before).abs().max() / before.abs().max())
        size = " x ".join(map(str, before.shape))
        if torch.equal(before, after):
            told.append(f"verified: {size} {name}, equal bit for bit")
        elif difference <= BOUNDS[dtype]:
            told.append(f"verified: {size} {name}, within {difference:.2g} of the greatest (bound {BOUNDS[dtype]})")
        else:
            raise CheckpointError(
                f"the export does not compute what the checkpoint does: {name} differ by {difference:.2g} of the "
                f"greatest, and {BOUNDS[dtype]} is allowed in {dtype}; nothing was written. Try --dtype fp32"
            )
    return told
