"""Tensors of all trainers side by side, with gradient: what a global in-batch softmax needs."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class _Gather(torch.autograd.Function):  # type: ignore[misc]
    """Forward: concatenate the trainers' equal blocks. Backward: sum what every trainer asks of this one's block."""

    @staticmethod
    def forward(ctx: Any, block_BP: Tensor) -> Tensor:
        blocks = [torch.empty_like(block_BP) for _ in range(dist.get_world_size())]
        dist.all_gather(blocks, block_BP.contiguous())
        return torch.cat(blocks)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        grad_AP = grads[0].clone(memory_format=torch.contiguous_format)  # Autograd may still need its own.
        dist.all_reduce(grad_AP)
        size = len(grad_AP) // dist.get_world_size()
        return grad_AP[dist.get_rank() * size :][:size]


def gather_with_gradient(block_BP: Tensor) -> tuple[Tensor, int]:
    """All trainers' blocks in trainer order, (A, P), and the row where this trainer's own begins.

    Blocks must be of one shape. With the mean loss of each trainer and DeepSpeed's mean over trainers, the gradient is
    that of the global mean.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return block_BP, 0
    gathered_AP: Tensor = _Gather.apply(block_BP)
    return gathered_AP, dist.get_rank() * len(block_BP)
