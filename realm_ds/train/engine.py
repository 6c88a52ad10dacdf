"""The only door to DeepSpeed: an objective's module, its ZeRO-sharded optimizer, one optimizer step at a time.

What is computed in a step lives in models/objectives.py, what surrounds it in loop.py.
"""

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")

import deepspeed
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

from realm_ds.config.schema import OptimizerConfig
from realm_ds.config.stages import StageConfig
from realm_ds.errors import CheckpointError, IndexFault
from realm_ds.models.objectives import Measures
from realm_ds.train.optimizer import learning_rate_factor, parameter_groups, rate_of

CHECKPOINT_TAG = "zero"
"""The folder of DeepSpeed's own files inside one of our checkpoints."""


def join(local_rank: int) -> torch.device:
    """Make DeepSpeed use the trainers' process group that comm/trainers.py formed, and name this trainer's device.

    DeepSpeed would compile a shared-memory all-reduce for the CPU at this point: a minute of C++ under a lock that a
    killed job leaves behind, so that the next one hangs without a word. It is declared incompatible; gloo serves.
    """
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank)
    else:
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)
    return torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")


class ResidentBytes(NamedTuple):
    """Bytes that one trainer holds."""

    weights: int
    optimizer: int
    """Moments, and master weights where they are a copy of their own."""
    gradients: int


class Engine:
    """An objective under ZeRO. Every method is a collective of all trainers."""

    def __init__(
        self,
        objective: nn.Module,
        *,
        stage: StageConfig,
        optimizer: OptimizerConfig,
        deepspeed_json: Mapping[str, Any],
        num_trainers: int,
        learning_rate_of: Callable[[str], float] | None = None,
    ) -> None:
        self.stage = stage
        groups = parameter_groups(
            objective.named_parameters(),
            learning_rate_of=learning_rate_of or partial(rate_of, stage=stage),
            weight_decay=optimizer.weight_decay,
        )
        adamw = torch.optim.AdamW(groups, betas=(optimizer.beta1, optimizer.beta2), eps=optimizer.eps, fused=True)
        # Not in the groups: a checkpoint brings its own, and a run may be resumed with lower rates.
        self._peak_rates = [group["lr"] for group in groups]
        self._engine, self._optimizer, _, _ = deepspeed.initialize(
            model=objective,
            optimizer=adamw,
            config={
                "zero_force_ds_cpu_optimizer": False,  # Offload goes with our AdamW, which is fused on CPU too.
                **deepspeed_json,
                "train_micro_batch_size_per_gpu": stage.micro_batch_size,
                "gradient_accumulation_steps": stage.gradient_accumulation_steps,
                "train_batch_size": stage.micro_batch_size * stage.gradient_accumulation_steps * num_trainers,
                "gradient_clipping": optimizer.clip_norm,
                "zero_allow_untested_optimizer": True,
                "steps_per_print": 2**31,
            },
        )
        _share_master_weights(self._optimizer)

    @property
    def module(self) -> Any:
        """The objective, for reading."""
        return self._engine.module

    def train_step(self, batches: Sequence[Any], *, step: int) -> list[Measures]:
        """Forward and backward over the accumulated micro-batches, then one optimizer step at the rate of `step`."""
        factor = learning_rate_factor(step, steps=self.stage.steps, warmup_steps=self.stage.warmup_steps)
        for group, peak in zip(self._optimizer.param_groups, self._peak_rates, strict=True):
            group["lr"] = peak * factor
        measures = []
        for batch in batches:
            measured: Measures = self._engine(batch)
            self._engine.backward(measured.loss)
            self._engine.step()
            measures.append(measured)
        return measures

    def copy_weights(
        self, module: nn.Module, *, dtype: torch.dtype = torch.float32, keeps: bool = True
    ) -> dict[str, Tensor]:
        """A CPU copy of a sub-module's full weights in `dtype`; nothing on trainers that do not keep it.

        Under ZeRO-3 gathered by all trainers, layer by layer: beside its copy none ever has more than one layer whole.
        Raises IndexFault where `dtype` is too narrow for a weight.
        """
        copies: dict[str, Tensor] = {}
        for prefix, layer in module.named_modules():
            own = list(layer.named_parameters(recurse=False))
            with deepspeed.zero.GatheredParameters([parameter for _, parameter in own], modifier_rank=None):
                for name, parameter in own if keeps else ():
                    whole_name = f"{prefix}.{name}" if prefix else name
                    copies[whole_name] = _rounded(parameter.detach(), dtype, name=whole_name)
        return copies

    def resident_bytes(self) -> ResidentBytes:
        """What this trainer holds of the model now, its shards where ZeRO shards; memory shared by views counts once.

        The optimizer's state is there from the first step on; what is offloaded to disk is not held.
        """
        parameters = list(self.module.parameters())
        # Under ZeRO-3 a parameter is empty but while it is used, and this trainer's part of it is its ds_tensor.
        weights = [*parameters, *(shard for p in parameters if (shard := getattr(p, "ds_tensor", None)) is not None)]
        adamw = self._engine.basic_optimizer
        masters = [parameter for group in adamw.param_groups for parameter in group["params"]]
        for name in ("single_partition_of_fp32_groups", "fp32_partitioned_groups_flat"):
            masters += getattr(self._optimizer, name, [])
        moments = [value for state in adamw.state.values() for value in state.values() if isinstance(value, Tensor)]
        gradients = [p.grad for p in (*parameters, *masters) if p.grad is not None]
        gradients += [getattr(self._optimizer, "grad_partitions_flat_buffer", None)]
        counted: set[int] = set()
        return ResidentBytes(*(_held(tensors, counted) for tensors in (weights, [*masters, *moments], gradients)))

    def save(self, folder: Path) -> None:
        """Write DeepSpeed's shards of this step into `folder`. Raises CheckpointError if they cannot be written."""
        try:
            self._engine.save_checkpoint(str(folder), tag=CHECKPOINT_TAG, save_latest=False)
        except (OSError, RuntimeError) as error:  # of torch's writer, which tells a full disk as a RuntimeError
            raise CheckpointError(
                f"cannot write a checkpoint to {folder} ({str(error).splitlines()[0]}): free space there, then go on "
                "with --resume"
            ) from error

    def load(self, folder: Path) -> None:
        """Take weights and optimizer state from `folder`. Raises CheckpointError if it does not fit this run."""
        try:
            path, _ = self._engine.load_checkpoint(str(folder), tag=CHECKPOINT_TAG)
        except Exception as error:  # DeepSpeed raises many kinds; all mean the same to a person
            raise CheckpointError(f"{folder} cannot be loaded: {error}") from error
        if path is None:
            raise CheckpointError(f"{folder}/{CHECKPOINT_TAG} is missing or empty: not a checkpoint of this run")


def _share_master_weights(optimizer: Any) -> None:
    """Under ZeRO-3 in fp32, let weights be their own master copy: a quarter less of what a trainer holds.

    DeepSpeed 0.19.8 means to, but compares a torch.device with its name, and copies.
    """
    masters, weights = (getattr(optimizer, f"{kind}_partitioned_groups_flat", ()) for kind in ("fp32", "fp16"))
    for master, weight in zip(masters, weights, strict=False):
        if weight is not None and _is_alike(weight, master):  # not where either is on disk
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


def _rounded(weights: Tensor, dtype: torch.dtype, *, name: str) -> Tensor:
    """A copy on the CPU. Values that are not finite already are those of a diverged run, which others will tell."""
    copy = torch.empty(weights.shape, dtype=dtype).copy_(weights)
    if dtype == torch.float16 and copy.isinf().any() and weights.isfinite().all():
        raise IndexFault(
            f"the weights of {name} reach {weights.abs().max().item():.3g}, more than float16 holds (65504): set "
            "refresh.snapshot_dtype=bf16, which has the range of float32, and resume"
        )
    return copy


def consolidate(folder: Path) -> dict[str, Tensor]:
    """Full fp32 weights of a saved checkpoint, by name, from the shards of any ZeRO stage; needs no process group.

    DeepSpeed unpickles its shards, here and in `load`: only files that our manifest vouches for may come this far.
    Raises CheckpointError if shards are missing.
    """
    try:
        if list((folder / CHECKPOINT_TAG).glob("*_optim_states.pt")):
            with redirect_stdout(StringIO()), redirect_stderr(StringIO()):  # It tells and draws its progress.
                return dict(get_fp32_state_dict_from_zero_checkpoint(str(folder), tag=CHECKPOINT_TAG))
        path = folder / CHECKPOINT_TAG / "mp_rank_00_model_states.pt"
        return {name: value.float() for name, value in torch.load(path, weights_only=True)["module"].items()}
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"{folder} cannot be consolidated: {error}") from error
