"""How many floating-point operations the networks need, counted by hand: matrix products alone, a multiplication and an
addition each. How many are done in how much time is train/figures.py's business.

Shapes: N sequences, L tokens, H hidden.
"""

from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor, nn

from realm_ds.models.encoder import KnowledgeAugEncoder
from realm_ds.models.qa import SpanReader
from realm_ds.models.towers import Embedder

Number = TypeVar("Number", float, Tensor)

TRAINING = 3
"""Of a forward pass: the backward pass takes twice as many, one product for the weights and one for what is below."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one forward pass of a network."""

    per_token: float
    per_square: float
    """Of the number of tokens of a sequence: attention looks from every token at every token."""
    per_sequence: float = 0.0
    per_mask: float = 0.0

    def training(self, *, tokens: Number, squares: Number, sequences: float, masks: Number) -> Number:
        """Forward and backward. `squares` is the sum over sequences of their squared number of tokens."""
        forward = self.per_token * tokens + self.per_square * squares + self.per_mask * masks
        return TRAINING * (forward + self.per_sequence * sequences)


def cost_of(network: nn.Module) -> Cost | None:
    """Of a tower, the knowledge-augmented encoder or the span reader; None of other modules.

    The span reader's scorer is left out: it is less than a hundredth of the encoder below it.
    """
    if isinstance(network, Embedder):
        pooler = getattr(network.bert, "pooler", None)
        pooled = _linear(pooler) if pooler is not None else 0.0
        return _body(network.bert, without=pooled, per_sequence=pooled + _linear(network.dense))
    if isinstance(network, KnowledgeAugEncoder):
        return _body(network.mlm.base_model, per_mask=_linear(network.mlm) - _linear(network.mlm.base_model))
    if isinstance(network, SpanReader):
        return _body(network.encoder)
    return None


def _body(bert: nn.Module, *, without: float = 0.0, per_sequence: float = 0.0, per_mask: float = 0.0) -> Cost:
    config = bert.config
    return Cost(
        per_token=_linear(bert) - without,
        per_square=4.0 * config.hidden_size * config.num_hidden_layers,
        per_sequence=per_sequence,
        per_mask=per_mask,
    )


def _linear(module: nn.Module) -> float:
    """Of all linear maps in it, for one row; by their declared sizes, since ZeRO-3 leaves the weights empty."""
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    return 2.0 * sum(layer.in_features * layer.out_features for layer in layers)
