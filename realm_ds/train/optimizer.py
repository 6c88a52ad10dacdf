"""How weights are moved: the update, and learning rate and weight decay of each parameter. Steps are engine.py's."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from realm_ds.config.stages import StageConfig
from realm_ds.models.names import HEAD_PARTS

_LATE_STEP = 2.0**24
"""So late that both of Adam's bias corrections are 1 to the last bit, and a float32 that adding 1 leaves as it is."""


class BertAdam(torch.optim.Optimizer):
    """The original's AdamW, whose averages are not corrected for their start at zero (bert/optimization.py).

        w <- w - rate * (m / (sqrt(v) + eps) + decay * w)

    The step is torch's fused one, told that it is a late step. `step` in the state counts the true steps: nothing here
    reads it, but checkpoints go both ways between this and torch's AdamW, and other tools expect it.
    """

    def __init__(self, groups: Iterable[Any], *, betas: tuple[float, float], eps: float) -> None:
        super().__init__(groups, {"lr": 0.0, "betas": betas, "eps": eps, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Move every parameter that has a gradient."""
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if parameters:
                self._move(parameters, group)

    def _move(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        states = [self._state_of(parameter) for parameter in parameters]
        torch._foreach_add_([state["step"] for state in states], 1.0)
        adamw(
            parameters,
            [parameter.grad for parameter in parameters],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            max_exp_avg_sqs=[],
            state_steps=[torch.full((), _LATE_STEP, device=parameter.device) for parameter in parameters],
            fused=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )

    def _state_of(self, parameter: Tensor) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())  # on the CPU, where counting is free
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        return state


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


def learning_rate_factor(step: int, *, steps: int, warmup_steps: int) -> float:
    """Share of the peak learning rate at a 0-based step, as the original has it.

    Warm-up starts at 0, so the first step only fills the averages. The line that follows falls from step 0 on, not from
    the end of warm-up: there the rate drops by a little.
    """
    if step < warmup_steps:
        return step / warmup_steps
    return max(0.0, 1.0 - step / steps)


def parameter_groups(
    named: Iterable[tuple[str, nn.Parameter]], *, learning_rate_of: Callable[[str], float], weight_decay: float
) -> list[dict[str, Any]]:
    """Groups of one learning rate and one weight decay each.

    Biases and LayerNorms do not decay: the original tells them by name, here all 1-d parameters are. On BERT-like
    models that is the same, and it does not hang on what a library calls its LayerNorms.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in named:
        decay = weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((learning_rate_of(name), decay), []).append(parameter)
    return [{"params": parameters, "lr": rate, "weight_decay": decay} for (rate, decay), parameters in groups.items()]
