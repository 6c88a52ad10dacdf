"""Weights of a narrow model that starts from scratch and has minutes to learn.

BERT's N(0, 0.02) suits 768 hidden units and a million steps. At some 100 units it leaves tokens nearly alike beside the
position embeddings, and attention output tiny beside the residual: towers and encoder stay on a plateau for thousands
of steps. Here tokens outweigh positions, values and feed-forward layers carry signal from the first step, and the
language-model head starts as a copier. Measured in docs/experiments.md.
"""

from dataclasses import dataclass

import torch
from torch import nn

from realm_ds.models.encoder import KnowledgeAugEncoder
from realm_ds.models.towers import Embedder


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Standard deviations of a BERT's weights."""

    words: float = 0.1
    positions: float = 0.01
    attention_scores: float = 0.02
    values: float = 0.05
    """Of attention's values and its output."""
    feed_forward: float = 0.05


TOWER = Spread()
ENCODER = Spread(positions=0.03, attention_scores=0.05, values=0.08)
"""The encoder must also tell places apart: what it copies depends on where the mask is."""
HEAD_NOISE = 0.02


@torch.no_grad()
def start_tower(tower: Embedder) -> None:
    """Draw a tower's BERT from torch's generator; LayerNorms and biases keep their ones and zeros."""
    _draw(tower.bert, TOWER)


@torch.no_grad()
def start_encoder(encoder: KnowledgeAugEncoder) -> None:
    """Draw the encoder likewise; its head's transform becomes the identity and a little noise."""
    _draw(encoder.mlm.base_model, ENCODER)
    transform = encoder.mlm.cls.predictions.transform.dense.weight
    transform.copy_(torch.eye(len(transform)) + HEAD_NOISE * torch.randn_like(transform))


def _draw(bert: nn.Module, spread: Spread) -> None:
    for name, weight in bert.named_parameters():
        if weight.ndim < 2:
            continue
        nn.init.normal_(weight, std=_deviation(name, spread))
        if "word_embeddings" in name:
            weight[0] = 0.0  # [PAD]


def _deviation(name: str, spread: Spread) -> float:
    if "word_embeddings" in name:
        return spread.words
    if "position_embeddings" in name or "token_type_embeddings" in name:
        return spread.positions
    if ".query." in name or ".key." in name:
        return spread.attention_scores
    if ".value." in name or "attention.output" in name:
        return spread.values
    return spread.feed_forward
