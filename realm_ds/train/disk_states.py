"""Checkpoints of runs whose weights or optimizer states lie on a disk (ZeRO 3 with NVMe offload), in files of our own.

DeepSpeed 0.19.8 writes such checkpoints and cannot go on from them: with the optimizer on the disk a resumed run trains
on from fresh weights without a word, with weights there the load fails. So each trainer writes its part here, one file
for each of DeepSpeed's sub-groups, of which no more than one has to be in memory:

    zero/states-TRAINER-SUBGROUP.safetensors    weights, exp_avg, exp_avg_sq, step; what lies where is in its metadata

`zero` is DeepSpeed's stage 3 optimizer. Its sub-groups are moved as its own step() moves them.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from realm_ds.errors import CheckpointError
from realm_ds.files import write_durably

WEIGHTS = "weights"


def save_states(zero: Any, module: nn.Module, folder: Path, *, trainer_rank: int) -> None:
    """Write this trainer's part of all weights and states. Raises OSError if it cannot."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    for number, flat in enumerate(zero.fp32_partitioned_groups_flat):
        layout = [(names[id(p)], list(p.ds_shape), p.partition_numel()) for p in zero.fp16_groups[number]]
        with _in_memory(zero, number):
            states = zero.optimizer.state[flat]
            tensors = {name: value.detach().cpu() for name, value in states.items() if isinstance(value, Tensor)}
            numbers = {name: value for name, value in states.items() if name not in tensors}  # CPU Adam's step is one
            data = save(  # save_file tells a full disk as no OSError
                {WEIGHTS: flat.detach().cpu(), **tensors},
                metadata={"layout": json.dumps(layout), "numbers": json.dumps(numbers)},
            )
            write_durably(_path(folder, trainer_rank=trainer_rank, number=number), data)


def load_states(zero: Any, folder: Path, *, trainer_rank: int, num_trainers: int) -> None:
    """Take back what `save_states` wrote. Raises CheckpointError if it is of another number of trainers."""
    written = len(list(folder.glob("states-*-00000.safetensors")))
    if written != num_trainers:
        raise CheckpointError(
            f"{folder} has weights of {written} trainers on disk, and this run has {num_trainers}: parts on disk "
            f"cannot be divided anew; resume with {written}, or start from an export with model.start_from"
        )
    zero._partition_all_parameters()
    for number, flat in enumerate(zero.fp32_partitioned_groups_flat):
        path = _path(folder, trainer_rank=trainer_rank, number=number)
        tensors, numbers = load_file(path), _metadata(path, "numbers")
        with _in_memory(zero, number, changes=True):
            flat.data.copy_(tensors.pop(WEIGHTS))
            zero.optimizer.state[flat] = {name: value.to(flat.device) for name, value in tensors.items()} | numbers
            zero._reassign_or_swap_out_partitioned_parameters(number)
    zero._post_step(set())


@dataclass(frozen=True, kw_only=True)
class StoredGroup:
    """The files of one sub-group, by trainer rank, and what lies in each: name, whole shape, length of the part."""

    files: list[Path]
    layout: list[tuple[str, list[int], int]]


def stored_groups(folder: Path) -> list[StoredGroup]:
    """All sub-groups that `save_states` wrote; none if there are no such files."""
    return [
        StoredGroup(
            files=sorted(folder.glob(first.name.replace("states-00000-", "states-*-"))),
            layout=_metadata(first, "layout"),
        )
        for first in sorted(folder.glob("states-00000-*.safetensors"))
    ]


def open_weights(path: Path) -> Any:
    """A file's weights in one row: a slice of it is read when it is taken."""
    return safe_open(path, framework="pt").get_slice(WEIGHTS)


@contextmanager
def _in_memory(zero: Any, number: int, *, changes: bool = False) -> Iterator[None]:
    """Hold a sub-group's weights and states in memory; those small enough always are."""
    is_on_disk = zero._swappable_optimizer_subgroup(number)
    if is_on_disk:
        zero._optimizer_states_and_gradient_swap_in(number)
    yield
    if is_on_disk and changes:
        zero._optimizer_states_and_gradient_swap_out(number)
    elif is_on_disk:
        zero._release_swap_buffers(number)


def _metadata(path: Path, name: str) -> Any:
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()[name])


def _path(folder: Path, *, trainer_rank: int, number: int) -> Path:
    return folder / f"states-{trainer_rank:05d}-{number:05d}.safetensors"
