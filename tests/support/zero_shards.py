"""Checkpoints as DeepSpeed lays them out, written without it: shards of any stage, for any number of trainers."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def write_shards(folder: Path, groups: Sequence[Mapping[str, Tensor]], *, stage: int, num_trainers: int) -> None:
    """`groups` are the weights of each parameter group, by name. Optimizer states as large as the weights lie beside
    them, twice."""
    zero = folder / "zero"
    zero.mkdir(parents=True)
    weights = {name: value for group in groups for name, value in group.items()}
    model: dict[str, Any] = {
        "module": weights if stage < 3 else {}, "buffer_names": [], "shared_params": {}, "ds_version": "0",
        "param_shapes": [{name: value.shape for name, value in group.items()} for group in groups],
    }  # fmt: skip
    model_files = [f"zero_pp_rank_{rank}_mp_rank_00" for rank in range(num_trainers)] if stage == 3 else ["mp_rank_00"]
    for name in model_files:
        torch.save(model, zero / f"{name}_model_states.pt")
    for rank in range(num_trainers if stage else 0):
        rows = [_part(group, rank, num_trainers, cuts_weights=stage == 3) for group in groups]
        states = {number: {"exp_avg": row * 2, "exp_avg_sq": row * 3} for number, row in enumerate(rows)}
        own = {
            "zero_stage": stage, "partition_count": num_trainers if stage == 3 else [num_trainers] * len(groups),
            "fp32_flat_groups" if stage == 3 else "single_partition_of_fp32_groups": rows,
            "optimizer_state_dict" if stage == 3 else "base_optimizer_state": {"state": states},
        }  # fmt: skip
        torch.save({"optimizer_state_dict": own}, zero / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")


def _part(group: Mapping[str, Tensor], rank: int, num_trainers: int, *, cuts_weights: bool) -> Tensor:
    if cuts_weights:
        return torch.cat([_padded(value.flatten(), num_trainers).chunk(num_trainers)[rank] for value in group.values()])
    row = torch.cat([value.flatten() for value in group.values()])
    return _padded(row, 2 * num_trainers).chunk(num_trainers)[rank].clone()


def _padded(row: Tensor, multiple: int) -> Tensor:
    return torch.cat([row, torch.zeros(math.ceil(len(row) / multiple) * multiple - len(row))])
