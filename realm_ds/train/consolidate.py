"""Full fp32 weights from the shards of a checkpoint, whatever its ZeRO stage; no process group, no second copy.

A shard is mapped, not read: the pages that were touched count as memory until the file is let go, so it is mapped anew
after every PIECE_BYTES. Which files a checkpoint has is checkpoint.py's business, and whether they are damaged
manifest.py's.

    stage 0      one file of whole weights, no optimizer shards
    stages 1, 2  the weights of each parameter group in one row, cut into equal parts, one for each trainer
    stage 3      every weight cut into equal parts; each trainer's in one row, itself cut into sub-groups
    on a disk    likewise, a file for each sub-group (disk_states.py)
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, count
from pathlib import Path
from typing import Any

import torch
from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
from deepspeed.runtime.zero.config import ZeroStageEnum
from deepspeed.utils.tensor_fragment import fragment_address
from torch import Tensor

from realm_ds.errors import CheckpointError
from realm_ds.models.weights import PIECE_BYTES
from realm_ds.train.disk_states import open_weights, stored_groups

CHECKPOINT_TAG = "zero"
"""The folder of DeepSpeed's own files inside one of our checkpoints."""
_KNOWN = [LossScaler, DynamicLossScaler, ZeroStageEnum, fragment_address]
"""What DeepSpeed pickles into its shards beside tensors, numbers and names; nothing else is made of a shard's bytes."""
_ELEMENTS_AT_ONCE = PIECE_BYTES // 4


@dataclass(frozen=True, kw_only=True)
class _Range:
    """Where a piece of a weight lies: in one of the rows of a file."""

    file: Path
    row: int | str
    start: int
    into: Tensor
    """Flat."""


def weight_shapes(folder: Path) -> dict[str, torch.Size]:
    """What a checkpoint holds, each weight under its first name. Raises CheckpointError where that cannot be told."""
    zero = folder / CHECKPOINT_TAG
    with _telling(folder):
        if groups := stored_groups(zero):
            return {name: torch.Size(shape) for group in groups for name, shape, _ in group.layout}
        shards = _optimizer_shards(zero)
        if not shards:
            return {name: value.shape for name, value in _load(_model_file(zero))["module"].items()}
        return {name: shape for group in _load(_model_file(zero))["param_shapes"] for name, shape in group.items()}


def consolidate_into(weights: Mapping[str, Tensor], folder: Path) -> None:
    """Overwrite tensors with the weights of a checkpoint that have these names.

    Raises CheckpointError if shards are missing or do not hold such weights; some may be overwritten by then.
    """
    zero = folder / CHECKPOINT_TAG
    with _telling(folder), torch.no_grad():
        for piece in _pieces(_ranges(zero, weights)):
            rows = _rows(piece[0].file)
            for part in piece:
                part.into.copy_(rows[part.row][part.start : part.start + len(part.into)])


@contextmanager
def _telling(folder: Path) -> Iterator[None]:
    """Whatever is wrong with a shard, in one kind of error: libraries raise many, and all mean the same to a person."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{folder} cannot be consolidated ({reason}): name another with --step") from error


def _optimizer_shards(zero: Path) -> list[Path]:
    """One of each trainer, by its rank."""
    found = {int(path.name.split("rank_")[1].split("_")[0]): path for path in zero.glob("*_optim_states.pt")}
    if sorted(found) != list(range(len(found))):
        lost = next(rank for rank in count() if rank not in found)
        raise CheckpointError(f"{zero} has no optimizer shard of trainer {lost}: take another checkpoint with --step")
    return [found[rank] for rank in sorted(found)]


def _model_file(zero: Path) -> Path:
    names = ("mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_model_states.pt")
    return next((zero / name for name in names if (zero / name).is_file()), zero / names[0])


def _load(path: Path) -> dict[str, Any]:
    with torch.serialization.safe_globals(_KNOWN):
        loaded: dict[str, Any] = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    return loaded


def _rows(path: Path) -> Any:
    """What the ranges of a file are cut from, by number or name."""
    if path.suffix == ".safetensors":
        return [open_weights(path)]
    loaded = _load(path)
    if "optimizer_state_dict" not in loaded:
        return {name: value.view(-1) for name, value in loaded["module"].items()}
    state = loaded["optimizer_state_dict"]
    return state["fp32_flat_groups" if state["zero_stage"] == 3 else "single_partition_of_fp32_groups"]


def _ranges(zero: Path, weights: Mapping[str, Tensor]) -> Iterator[_Range]:
    """All that is to be read into the weights, file by file."""
    if stored_groups(zero):
        return _on_disk(zero, weights)
    if shards := _optimizer_shards(zero):
        return _of_shards(shards, _load(_model_file(zero))["param_shapes"], weights)
    return _whole(_model_file(zero), weights)


def _of_shards(
    shards: Sequence[Path], shapes: Sequence[Mapping[str, torch.Size]], weights: Mapping[str, Tensor]
) -> Iterator[_Range]:
    state = _load(shards[0])["optimizer_state_dict"]
    told = state["partition_count"]
    num_trainers = max(told) if isinstance(told, list) else told
    if num_trainers != len(shards):
        raise CheckpointError(
            f"{shards[0].parent} was written by {num_trainers} trainers, but has optimizer shards of {len(shards)}: "
            "take another checkpoint with --step"
        )
    paddings = state.get("param_alignment_paddings")
    is_third, sizes = state["zero_stage"] == 3, [len(row) for row in _rows(shards[0])]
    del state  # and the mapping with it
    for trainer_rank, path in enumerate(shards):
        if is_third:
            every = {name: shape for group in shapes for name, shape in group.items()}
            parts = [(name, shape, -(-shape.numel() // num_trainers)) for name, shape in every.items()]
            yield from _of_cut_weights(path, trainer_rank, parts, sizes, weights)
        else:
            for group, group_shapes in enumerate(shapes):
                yield from _of_cut_row(
                    path, trainer_rank, group, sizes[group], group_shapes, paddings and paddings[group], weights
                )


def _of_cut_row(
    path: Path, trainer_rank: int, row: int, size: int, shapes: Mapping[str, torch.Size],
    paddings: Sequence[int] | None, weights: Mapping[str, Tensor],
) -> Iterator[_Range]:  # fmt: skip
    """Stages 1 and 2: a trainer's part of a group is `size` long and may begin and end within a weight."""
    first, offset = trainer_rank * size, 0
    for number, (name, shape) in enumerate(shapes.items()):
        low, high = max(offset, first), min(offset + shape.numel(), first + size)
        if low < high and name in weights:
            yield _Range(
                file=path, row=row, start=low - first, into=_flat(weights, name, shape)[low - offset : high - offset]
            )
        offset += shape.numel() + (paddings[number] if paddings else 0)


def _of_cut_weights(
    path: Path, trainer_rank: int, parts: Iterable[tuple[str, torch.Size, int]], sizes: Sequence[int],
    weights: Mapping[str, Tensor],
) -> Iterator[_Range]:  # fmt: skip
    """Stage 3: a trainer's part of each weight, the last one's padded; `sizes` are of the file's rows."""
    row_starts = list(accumulate(sizes, initial=0))
    offset = 0
    for name, shape, size in parts:
        if name in weights:
            whole = _flat(weights, name, shape)
            own = whole[trainer_rank * size : (trainer_rank + 1) * size]
            for row, row_start in enumerate(row_starts[:-1]):
                low, high = max(offset, row_start), min(offset + len(own), row_starts[row + 1])
                if low < high:
                    yield _Range(file=path, row=row, start=low - row_start, into=own[low - offset : high - offset])
        offset += size


def _on_disk(zero: Path, weights: Mapping[str, Tensor]) -> Iterator[_Range]:
    for group in stored_groups(zero):
        parts = [(name, torch.Size(shape), size) for name, shape, size in group.layout]
        for trainer_rank, path in enumerate(group.files):
            yield from _of_cut_weights(path, trainer_rank, parts, [sum(size for *_, size in parts)], weights)


def _whole(path: Path, weights: Mapping[str, Tensor]) -> Iterator[_Range]:
    """Stage 0: weights by name, in the precision that was trained in."""
    for name, row in _load(path)["module"].items():
        if name in weights:
            yield _Range(file=path, row=name, start=0, into=_flat(weights, name, row.shape))


def _pieces(ranges: Iterable[_Range]) -> Iterator[list[_Range]]:
    """Ranges of one file each, together about PIECE_BYTES; longer ones are cut."""
    piece: list[_Range] = []
    size = 0
    for whole in ranges:
        for start in range(0, len(whole.into), _ELEMENTS_AT_ONCE):
            into = whole.into[start : start + _ELEMENTS_AT_ONCE]
            if piece and (piece[0].file != whole.file or size + len(into) > _ELEMENTS_AT_ONCE):
                yield piece
                piece, size = [], 0
            piece.append(_Range(file=whole.file, row=whole.row, start=whole.start + start, into=into))
            size += len(into)
    if piece:
        yield piece


def _flat(weights: Mapping[str, Tensor], name: str, shape: torch.Size) -> Tensor:
    own = weights[name]
    if own.shape != shape:
        raise CheckpointError(
            f"the checkpoint does not hold the model of config.yaml: size mismatch for {name}, {tuple(shape)} in the "
            f"checkpoint and {tuple(own.shape)} in the model"
        )
    return own.view(-1)
