"""How many floating-point operations the networks need: matrix products alone, by the declared sizes of their modules.
The same from settings, without torch, is sizes.py's; how many are done in how much time train/figures.py's business.

Shapes: N sequences, L tokens, H hidden.
"""

from torch import nn

from realm_ds.models.encoder import KnowledgeAugEncoder
from realm_ds.models.readers import SpanReader, WordReader
from realm_ds.models.sizes import Cost
from realm_ds.models.towers import Embedder


def cost_of(network: nn.Module) -> Cost | None:
    """Of a tower, the knowledge-augmented encoder or a reader; None of other modules.

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
    if isinstance(network, WordReader):
        return cost_of(network.encoder)
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
