"""Whether the numbers of training are still numbers. Reading one waits for the device, so it is done when it is asked.

A loss that is not finite makes every later one so: nothing is gained by going on, and a checkpoint of such weights
would push the good ones out.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from realm_ds.errors import TrainingFault

REMEDY = (
    "go on with --resume from the last checkpoint after lowering the stage's learning_rate or optimizer.clip_norm; "
    "data that the same step always fails on is at fault itself"
)


class Losses:
    """The losses of one trainer's steps since they were last looked at."""

    def __init__(self, *, trainer_rank: int) -> None:
        self._trainer_rank = trainer_rank
        self._losses: list[tuple[int, Tensor]] = []

    def add(self, step: int, losses: Sequence[Tensor]) -> None:
        """Keep the losses of a step's micro-batches."""
        self._losses += [(step, loss.detach()) for loss in losses]

    def check(self) -> None:
        """Raise TrainingFault, naming the first step whose loss is not finite; forget those that are."""
        if not self._losses:
            return
        steps, losses = zip(*self._losses, strict=True)
        for step, loss in zip(steps, torch.stack(losses).tolist(), strict=True):
            if not math.isfinite(loss):
                raise TrainingFault(f"the loss of step {step + 1} is {loss} on trainer {self._trainer_rank}: {REMEDY}")
        self._losses.clear()


def gradient_fault(norm: float, *, trainer_rank: int, step: int) -> TrainingFault:
    """The error of a step whose loss is a number on this trainer, and whose combined gradient is not one."""
    return TrainingFault(
        f"the gradient of step {step + 1} has norm {norm} over all trainers (the loss of trainer {trainer_rank} is "
        f"finite): {REMEDY}"
    )


def scale_fault(scale: float, *, step: int) -> TrainingFault:
    """The error of an fp16 run that can lower its loss scale no further."""
    return TrainingFault(
        f"the gradient of step {step + 1} overflows fp16 at the lowest loss scale, {scale:g}: use bf16 "
        "(runtime.deepspeed=zero2-bf16), or lower the stage's learning_rate, and go on with --resume"
    )
