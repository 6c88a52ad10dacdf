"""The only door to DeepSpeed: an objective's module, its ZeRO-sharded optimizer, one optimizer step at a time.

What is computed in a step lives in models/objectives.py, what surrounds it in loop.py.
"""

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

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
from realm_ds.train.resident import ResidentBytes, resident_bytes, share_master_weights

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
        share_master_weights(self._optimizer)
        if num_trainers == 1 and isinstance(self._optimizer, torch.optim.Optimizer):
            # ZeRO-0 in fp32: DeepSpeed would copy all gradients to a buffer and back, to add them up with no others.
            self._engine.enable_backward_allreduce = False

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

    @contextmanager
    def measuring(self) -> Iterator[Callable[[Any], Measures]]:
        """Forward passes alone, without dropout or gradient, as many on every trainer; training goes on as if there had
        been none."""
        modules = list(self._engine.module.modules())
        were_training = [module.training for module in modules]
        self._engine.module.eval()
        try:
            with torch.no_grad():  # Not inference mode: ZeRO-3 keeps some of the weights that it gathers meanwhile.
                yield self._engine
        finally:
            for module, was_training in zip(modules, were_training, strict=True):
                module.training = was_training
            # ZeRO-3 keeps weights whole, and fetches more, for a backward pass that does not come.
            self._engine.empty_partition_cache()

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
        """What this trainer holds of the model now. No collective."""
        return resident_bytes(self.module, zero=self._optimizer, optimizer=self._engine.basic_optimizer)

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
