"""What a trainer holds of a model under ZeRO, in bytes; and one copy less of it. Engines are engine.py's business.

DeepSpeed tells neither: it is read from the attributes of its optimizers (0.19.8), which are named here alone.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class ResidentBytes(NamedTuple):
    """Bytes that one trainer holds."""

    weights: int
    optimizer: int
    """Moments, and master weights where they are a copy of their own."""
    gradients: int


def resident_bytes(module: nn.Module, *, zero: Any, optimizer: torch.optim.Optimizer) -> ResidentBytes:
    """Of a module, DeepSpeed's optimizer around it (`zero`) and ours inside that. What views share counts once.

    The optimizer's state is there from the first step on; what is offloaded to a disk is not held.
    """
    parameters = list(module.parameters())
    # Under ZeRO-3 a parameter is empty but while it is used, and this trainer's part of it is its ds_tensor.
    weights = [*parameters, *(shard for p in parameters if (shard := getattr(p, "ds_tensor", None)) is not None)]
    masters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for name in ("single_partition_of_fp32_groups", "fp32_partitioned_groups_flat"):
        masters += getattr(zero, name, [])
    moments = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    gradients = [p.grad for p in (*parameters, *masters)] + [getattr(zero, "grad_partitions_flat_buffer", None)]
    counted: set[int] = set()
    return ResidentBytes(*(_held(tensors, counted) for tensors in (weights, [*masters, *moments], gradients)))


def share_master_weights(zero: Any) -> None:
    """Under ZeRO-3 in fp32, let weights be their own master copy: a quarter less of what a trainer holds.

    DeepSpeed 0.19.8 means to, but compares a torch.device with its name, and copies.
    """
    masters, weights = (getattr(zero, f"{kind}_partitioned_groups_flat", ()) for kind in ("fp32", "fp16"))
    for master, weight in zip(masters, weights, strict=False):
        if weight is not None and _is_alike(weight, master):  # not where either is on a disk
            master.data = weight.data


def _is_alike(one: Tensor, other: Tensor) -> bool:
    return (one.dtype, one.device, one.shape) == (other.dtype, other.device, other.shape)


def _held(tensors: Iterable[Tensor | None], counted: set[int]) -> int:
    """Bytes of the storages behind these tensors that are not counted yet."""
    total = 0
    for tensor in tensors:
        storage = None if tensor is None else tensor.untyped_storage()
        if storage is not None and storage.data_ptr() not in counted:
            counted.add(storage.data_ptr())
            total += storage.nbytes()
    return total
