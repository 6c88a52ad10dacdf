"""How weights are moved: the learning rate and weight decay of each parameter at each step. Steps are engine.py's."""

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from realm_ds.config.stages import StageConfig
from realm_ds.models.names import HEAD_PARTS


def rate_of(name: str, *, stage: StageConfig) -> float:
    """Peak learning rate of a parameter, by its name in an objective."""
    rates = stage.rates
    if "_tower." in name:
        towers = rates.towers or stage.learning_rate
        is_projection = "_tower.dense." in name or "_tower.norm." in name
        return (rates.projection or towers) if is_projection else towers
    encoder = rates.encoder or stage.learning_rate
    is_head = any(f".{part}." in name for part in (*HEAD_PARTS, "scorer"))
    return (rates.head or encoder) if is_head else encoder


def learning_rate_factor(step: int, *, steps: int, warmup_steps: int | None) -> float:
    """Share of the peak learning rate at a 0-based step: linear warm-up, then BERT's line that falls from step 0 on."""
    warmup = min(10_000, max(100, steps // 10)) if warmup_steps is None else warmup_steps
    if step < warmup:
        return (step + 1) / warmup
    return max(0.0, 1.0 - step / steps)


def parameter_groups(
    named: Iterable[tuple[str, nn.Parameter]], *, learning_rate_of: Callable[[str], float], weight_decay: float
) -> list[dict[str, Any]]:
    """Groups of one learning rate and one weight decay each; biases and LayerNorms (1-d parameters) do not decay."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in named:
        decay = weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((learning_rate_of(name), decay), []).append(parameter)
    return [{"params": parameters, "lr": rate, "weight_decay": decay} for (rate, decay), parameters in groups.items()]
