"""A training loop that one writes without us: plain PyTorch, handed the batches. The reference for a whole step."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import nn

from realm_ds.config.schema import OptimizerConfig
from realm_ds.config.stages import StageConfig
from realm_ds.models.objectives import MarginalBatch
from realm_ds.train.optimizer import learning_rate_factor, parameter_groups, rate_of


class BareLoop:
    """The same objective, schedule, clipping and AdamW, with nothing around them."""

    def __init__(self, objective: nn.Module, *, stage: StageConfig, optimizer: OptimizerConfig) -> None:
        # What this loop cannot do, none of its comparisons may ask for.
        assert (optimizer.kind, optimizer.clip) == ("adamw", "global"), optimizer
        self._objective, self._stage, self._clip_norm = objective, stage, optimizer.clip_norm
        groups = parameter_groups(
            objective.named_parameters(), learning_rate_of=partial(rate_of, stage=stage),
            weight_decay=optimizer.weight_decay,
        )  # fmt: skip
        self._peak_rates = [group["lr"] for group in groups]
        self._adamw = torch.optim.AdamW(groups, betas=(optimizer.beta1, optimizer.beta2), eps=optimizer.eps, fused=True)
        self._parameters = [parameter for group in groups for parameter in group["params"]]

    def step(self, batches: Sequence[MarginalBatch], *, step: int) -> torch.Tensor:
        """One optimizer step over the accumulated micro-batches; the loss of the first, detached."""
        factor = learning_rate_factor(step, steps=self._stage.steps, warmup_steps=self._stage.num_warmup_steps)
        for group, peak in zip(self._adamw.param_groups, self._peak_rates, strict=True):
            group["lr"] = peak * factor
        losses = []
        for batch in batches:
            loss = self._objective(batch).loss
            (loss / len(batches)).backward()
            losses.append(loss.detach())
        if self._clip_norm:
            nn.utils.clip_grad_norm_(self._parameters, self._clip_norm)
        self._adamw.step()
        self._adamw.zero_grad()
        return losses[0]


class Recorder:
    """Keeps the batches and losses that pass through an objective: a bare loop is handed the same."""

    def __init__(self, objective: nn.Module) -> None:
        self.batches: list[MarginalBatch] = []
        self.losses: list[torch.Tensor] = []
        self._hooks = [
            objective.register_forward_pre_hook(lambda module, inputs: self.batches.append(inputs[0])),
            objective.register_forward_hook(lambda module, inputs, output: self.losses.append(output.loss.detach())),
        ]

    def take(self) -> tuple[list[MarginalBatch], list[float]]:
        """What has passed since the last call."""
        taken = self.batches, [loss.item() for loss in self.losses]
        self.batches, self.losses = [], []
        return taken

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()
