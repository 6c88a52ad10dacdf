"""Our batches and weights as transformers' REALM takes them: padded to the longest, every candidate by itself.

Shapes: B queries, C candidates (null first), U distinct passages, N = B x C joint sequences, L tokens, M masks.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from realm_ds.config.schema import RealmConfig
from realm_ds.models.hf_realm import ENCODER_NAMES, TOWER_NAMES, flipped, renamed
from realm_ds.models.objectives import MarginalBatch
from realm_ds.models.realm import RealmModel
from realm_ds.models.towers import TokenBatch


def write_work(
    folder: Path, *, model: RealmModel, batches: Sequence[MarginalBatch], config: RealmConfig,
    rate_factors: Sequence[float],
) -> None:  # fmt: skip
    """All that peer_step.py reads; `model` shares its towers and has no dropout, so that both sides compute alike."""
    settings, optimizer, rates = config.pretrain, config.optimizer, config.pretrain.rates
    assert model.shares_towers
    assert (rates.projection, rates.encoder, rates.head) == (None, None, None), rates
    bert, num_candidates = model.encoder.mlm.config, batches[0].passage_rows_BC.shape[1]
    sizes = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
             "max_position_embeddings", "pad_token_id", "layer_norm_eps")  # fmt: skip
    work = {
        "threads": torch.get_num_threads(),
        "config": {
            **{name: getattr(bert, name) for name in sizes}, "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0, "retriever_proj_size": config.model.projection_size,
            "num_candidates": num_candidates,
        },
        "scorer_rate": rates.towers or settings.learning_rate, "encoder_rate": settings.learning_rate,
        "weight_decay": optimizer.weight_decay, "betas": [optimizer.beta1, optimizer.beta2], "eps": optimizer.eps,
        "clip_norm": optimizer.clip_norm, "rate_factors": list(rate_factors),
    }  # fmt: skip
    (folder / "work.json").write_text(json.dumps(work), encoding="utf-8")
    weights = peer_weights(model.passage_tower.state_dict(), model.encoder.state_dict())
    save_file(weights, folder / "weights.safetensors")
    for number, batch in enumerate(batches):
        np.savez(folder / f"batch-{number:03d}.npz", **padded(batch))  # type: ignore[arg-type]


def padded_tokens(batches: Sequence[MarginalBatch]) -> dict[str, int]:
    """Wordpieces, padding included, that each side's encoders are given in all of these batches."""
    ours = [tokens for batch in batches
            for tokens in (batch.queries, *batch.passages, *(part.tokens for part in batch.joint))]  # fmt: skip
    theirs = [padded(batch)[name] for batch in batches
              for name in ("query_ids_BL", "passage_ids_BCL", "joint_ids_BCL")]  # fmt: skip
    return {"ours": sum(tokens.ids_NL.numel() for tokens in ours), "peer": sum(array.size for array in theirs)}


def padded(batch: MarginalBatch) -> dict[str, np.ndarray]:
    """The arrays of one batch by name; the same sequences, out of their buckets."""
    num_queries, num_candidates = batch.passage_rows_BC.shape
    passages = _joined(batch.passages)
    joint = _joined([part.tokens for part in batch.joint])
    order_N = torch.argsort(torch.cat([part.rows_N for part in batch.joint]))
    positions_NM = torch.cat([part.positions_NM for part in batch.joint])[order_N]
    targets_NM = torch.cat([part.targets_NM for part in batch.joint])[order_N]
    # Masks stand at the same places with every candidate, as x comes first.
    positions_BM, targets_BM = positions_NM[::num_candidates], targets_NM[::num_candidates]
    labels_BL = torch.zeros((num_queries, joint[0].shape[1]), dtype=torch.long)
    mlm_mask_BL = torch.zeros(labels_BL.shape)
    for row in range(num_queries):
        places = positions_BM[row][batch.masks_BM[row] > 0]
        labels_BL[row, places] = targets_BM[row][batch.masks_BM[row] > 0]
        mlm_mask_BL[row, places] = 1.0
    arrays = {"labels_BL": labels_BL, "mlm_mask_BL": mlm_mask_BL}
    for name, query_BL, passage_UL, joint_NL in zip(
        ("ids", "mask", "types"), batch.queries, passages, joint, strict=True
    ):
        arrays[f"query_{name}_BL"] = query_BL
        arrays[f"passage_{name}_BCL"] = passage_UL[batch.passage_rows_BC]
        arrays[f"joint_{name}_BCL"] = joint_NL[order_N].view(num_queries, num_candidates, -1)
    return {name: array.contiguous().numpy() for name, array in arrays.items()}


def peer_weights(tower: Mapping[str, Tensor], encoder: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of one tower, shared, and of the encoder under transformers' names."""
    named = {f"scorer.embedder.{name}": value for name, value in renamed(tower, flipped(TOWER_NAMES)).items()}
    named |= {f"encoder.{name}": value for name, value in renamed(encoder, flipped(ENCODER_NAMES)).items()}
    return {name: value.contiguous() for name, value in named.items() if ".decoder." not in name}


def _joined(buckets: Sequence[TokenBatch]) -> TokenBatch:
    """One batch of buckets of any lengths, padded with zeros."""
    longest = max(bucket.ids_NL.shape[1] for bucket in buckets)
    parts = zip(*buckets, strict=True)
    return TokenBatch(
        *(torch.cat([functional.pad(part_NL, (0, longest - part_NL.shape[1])) for part_NL in part]) for part in parts)
    )
