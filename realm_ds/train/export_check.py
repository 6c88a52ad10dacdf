"""Do models that were written to disk compute what those in memory did? For `realm-ds export --verify`.

Shapes: B sentences, L tokens, P embedding.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from realm_ds.config.schema import RealmConfig
from realm_ds.data.batches import joint_batch, mask_targets, passage_batch, query_batch
from realm_ds.data.masking import MaskedExample
from realm_ds.data.shards import Shards
from realm_ds.data.tokenizer import Tokenizer
from realm_ds.errors import CheckpointError
from realm_ds.eval.corpus import tensors
from realm_ds.models.names import ENCODER, PASSAGE_TOWER, QUERY_TOWER
from realm_ds.models.realm import RealmModel
from realm_ds.models.towers import TokenBatch, embed
from realm_ds.train.export import Dtype, Layout
from realm_ds.train.export_layouts import PARTS, open_part

NUM_SAMPLES = 8
BOUNDS = {"fp32": 0.0, "fp16": 8 * torch.finfo(torch.float16).eps, "bf16": 8 * torch.finfo(torch.bfloat16).eps}
"""How far the greatest difference may be, as a share of the greatest value. Two epsilons were the most that BERT-base's
size with weights as spread as trained ones (0.04) gave; fewer layers and narrower weights give less."""
SCALED_BOUND = 1e-4
"""Of sentence-transformers, whose projections are scaled (models/sentence.py)."""


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


NETWORKS = {
    QUERY_TOWER: "query vectors", PASSAGE_TOWER: "passage vectors", ENCODER: "log-probabilities of masked words",
}  # fmt: skip
"""What each of the three computes, for people."""


@torch.inference_mode()
def output(network: nn.Module, name: str, samples: Samples) -> Tensor:
    """What one of the three networks makes of the samples, one by one: many at once would be a part of the memory."""
    if name == ENCODER:
        rows = zip(_rows(samples.joint), samples.positions.split(1), samples.targets.split(1), strict=True)
        return torch.cat([network(*row)[0] for row in rows])
    return torch.cat(
        [embed(network, row) for row in _rows(samples.queries if name == QUERY_TOWER else samples.passages)]
    )


def _rows(tokens: TokenBatch) -> list[TokenBatch]:
    return [TokenBatch(*row) for row in zip(*(part.split(1) for part in tokens), strict=True)]


def outputs(realm: RealmModel, samples: Samples) -> dict[str, Tensor]:
    """What all three make of them."""
    return {name: output(realm.get_submodule(name), name, samples) for name in NETWORKS}


def verified(
    folder: Path, expected: Mapping[str, Tensor], samples: Samples, *, layout: Layout, dtype: Dtype
) -> Iterator[str]:
    """A line for each network of each folder, opened one after the other.

    Raises CheckpointError if one does not compute what it must: the same bits, where the layout has the same weights.
    """
    bound = SCALED_BOUND if layout == "sentence-transformers" else BOUNDS[dtype]
    for part in PARTS[layout]:
        found = output(open_part(folder, part), part.network, samples)
        what = f"{NETWORKS[part.network]} in {part.folder}"
        yield from compare({what: expected[part.network]}, {what: found}, bound=bound)


def compare(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], *, bound: float) -> list[str]:
    """A line for each output, by what it is. Raises CheckpointError if a difference is greater than the bound."""
    told = []
    for what, before in expected.items():
        after = found[what]
        difference = float((after - before).abs().max() / before.abs().max())
        size = " x ".join(map(str, before.shape))
        if torch.equal(before, after):
            told.append(f"verified: {size} {what}, equal bit for bit")
        elif difference <= bound:  # not where it is no number
            told.append(f"verified: {size} {what}, within {difference:.2g} of the greatest (bound {bound:g})")
        else:
            raise CheckpointError(
                f"the export does not compute what the checkpoint does: {what} differ by {difference:.2g} of the "
                f"greatest, and {bound:g} is allowed; nothing was written. Try --dtype fp32"
            )
    return told
