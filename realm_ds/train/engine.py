"""The only door to DeepSpeed: an objective's module, its ZeRO-sharded optimizer, one optimizer step at a time.

What is computed in a step lives in models/objectives.py, what surrounds it in loop.py.
"""

import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from functools import partial
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")

import deepspeed
from deepspeed.git_version_info import installed_ops

from realm_ds.config.deepspeed import is_on, needs_nvme, offload_device, zero_stage
from realm_ds.config.schema import OptimizerConfig
from realm_ds.config.stages import StageConfig
from realm_ds.errors import CheckpointError, IndexFault
from realm_ds.files import is_disk_full
from realm_ds.models.objectives import Measures
from realm_ds.train.consolidate import CHECKPOINT_TAG
from realm_ds.train.disk_states import load_states, save_states
from realm_ds.train.optimizer import BertAdam, learning_rate_factor, parameter_groups, rate_of
from realm_ds.train.resident import ResidentBytes, resident_bytes, share_master_weights
from realm_ds.train.soundness import Losses, gradient_fault, scale_fault
from realm_ds.train.timing import StepTimer
from realm_ds.train.universal import loads_universal, mend_groups

log = logging.getLogger(__name__)

_SHORT = {"bf16": torch.bfloat16, "fp16": torch.float16}
_NO_COMPILER = "TORCHDYNAMO_DISABLE"
_WRITERS_SIGNS = ("PytorchStreamWriter", "unexpected pos", "No space left")


def join(local_rank: int) -> torch.device:
    """Make DeepSpeed use the trainers' process group that comm/trainers.py formed, and name this trainer's device.

    DeepSpeed would compile a shared-memory all-reduce for the CPU at this point: a minute of C++ under a lock that a
    killed job leaves behind, so that the next one hangs without a word. It is declared incompatible; gloo serves.
    """
    logger = logging.getLogger("DeepSpeed")
    logger.setLevel(logging.WARNING)
    # BertAdam is one of those that it has not tested; we have.
    logger.addFilter(lambda record: "untested optimizer" not in record.getMessage())
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank)
    else:
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)
    _load_muon()
    return torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")


def _load_muon() -> None:
    """Load DeepSpeed's Muon uncompiled: under ZeRO, DeepSpeed asks again and again whether an optimizer is a Muon.

    Its three kernels, that nobody calls here, would have torch load all of its compiler: 1.7 s of each trainer. Torch
    looks at the variable whenever it is to compile something, so that runtime.compile finds it as it was.
    """
    before = os.environ.get(_NO_COMPILER)
    os.environ[_NO_COMPILER] = "1"
    try:
        with suppress(ImportError):  # an older DeepSpeed
            import_module("deepspeed.runtime.zero.muon.muon_optimizer")
    finally:
        if before is None:
            del os.environ[_NO_COMPILER]
        else:
            os.environ[_NO_COMPILER] = before


def build_disk_operator() -> None:
    """Compile what offloading to a disk needs, unless that is done; launch/offload.py calls it before ranks start."""
    builder = deepspeed.ops.op_builder.AsyncIOBuilder()
    if not builder.is_compatible(verbose=False):
        raise RuntimeError("libaio or its headers are missing")
    with redirect_stdout(StringIO()):
        builder.load(verbose=False)


class Engine:
    """An objective under ZeRO. Its making, train_step, passes within measuring, copy_weights, save, load and
    load_converted are collectives of all trainers; nothing else is."""

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
        # Not in the groups: a checkpoint brings its own, and a run may be resumed with lower rates.
        self._peak_rates = [group["lr"] for group in groups]
        self._clipping = _clipping(optimizer, deepspeed_json)
        self._clip_norm = optimizer.clip_norm
        self._engine, self._optimizer, _, _ = deepspeed.initialize(
            model=objective,
            # In 16-bit ZeRO 0 DeepSpeed makes a step without gradients, so that states are there: it must move nothing.
            optimizer=_optimizer([{**group, "lr": 0.0} for group in groups], optimizer, deepspeed_json),
            config={
                **deepspeed_json,
                "train_micro_batch_size_per_gpu": stage.micro_batch_size,
                "gradient_accumulation_steps": stage.gradient_accumulation_steps,
                "train_batch_size": stage.micro_batch_size * stage.gradient_accumulation_steps * num_trainers,
                "gradient_clipping": optimizer.clip_norm if self._clipping == "deepspeed" else 0.0,
                "zero_allow_untested_optimizer": True,
                "zero_force_ds_cpu_optimizer": False,  # _optimizer() has chosen; torch's is fused on CPU too.
                "steps_per_print": 2**31,
            },
        )
        _forget_steps(self._optimizer)
        share_master_weights(self._optimizer)
        # With local clipping train_step combines gradients, once each trainer has clipped its own. And alone, with ZeRO
        # 0 in float32, DeepSpeed would copy all of them to a buffer and back, to add them up with nobody's.
        is_plain = isinstance(self._optimizer, torch.optim.Optimizer)
        if self._clipping == "local" or (num_trainers == 1 and is_plain):
            self._engine.enable_backward_allreduce = False
        self.is_on_disk = needs_nvme(deepspeed_json)
        """Whether weights or optimizer states lie on a disk."""
        self.compute_dtype = compute_dtype(deepspeed_json)
        self._is_fp16 = is_on(deepspeed_json, "fp16")
        if self._is_fp16 and hasattr(self._optimizer.loss_scaler, "raise_error_at_min_scale"):
            self._optimizer.loss_scaler.raise_error_at_min_scale = False  # _check_applied says it in better words
        self._losses = Losses(trainer_rank=self._engine.global_rank)
        self._own_norm: Tensor | None = None
        self._step, self._rate_factor = 0, 0.0

    @property
    def module(self) -> Any:
        """The objective, for reading."""
        return self._engine.module

    def train_step(self, batches: Sequence[Any], *, step: int, timer: StepTimer | None = None) -> list[Measures]:
        """Forward and backward over the accumulated micro-batches, then one optimizer step at the rate of `step`.

        Raises TrainingFault if DeepSpeed finds the gradient not finite, but for fp16's search for a loss scale.
        """
        self._step = step
        self._rate_factor = learning_rate_factor(step, steps=self.stage.steps, warmup_steps=self.stage.num_warmup_steps)
        for group, peak in zip(self._optimizer.param_groups, self._peak_rates, strict=True):
            group["lr"] = peak * self._rate_factor
        scale, timer = self._loss_scale(), timer or StepTimer()
        measures: list[Measures] = []
        for batch in batches:
            with timer.phase("forward"):
                measured: Measures = self._engine(batch)
            with timer.phase("backward"):
                self._engine.backward(measured.loss)
            measures.append(measured)
            with timer.phase("optimizer"):
                if len(measures) == len(batches):
                    self._clip(scale)
                self._engine.step()
        self._losses.add(step, [measured.loss for measured in measures])
        self._check_applied(scale)
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

    def facts(self) -> dict[str, float]:
        """What has no mean over trainers, as of the last step. Waits for the device: for steps that are logged.

        Raises TrainingFault if a loss since the last call, or the gradient, was not finite on this trainer.
        """
        self._losses.check()
        facts = {"learning_rate": self.stage.learning_rate * self._rate_factor}
        if self._is_fp16:
            facts |= {"loss_scale": self._loss_scale(), "skipped_steps": float(self._engine.skipped_steps)}
        norm = self._own_norm if self._own_norm is not None else self._engine.get_global_grad_norm()
        if norm is not None and not self._was_skipped():
            facts["grad_norm"] = float(norm)
            if not math.isfinite(facts["grad_norm"]):
                raise gradient_fault(facts["grad_norm"], trainer_rank=self._engine.global_rank, step=self._step)
        return facts

    def _clip(self, scale: float) -> None:
        """Between the last backward pass and the step, where DeepSpeed does not clip itself."""
        if self._clipping != "deepspeed":
            limit = self._clip_norm * scale
            self._own_norm = nn.utils.clip_grad_norm_(self.module.parameters(), limit) / scale
        if self._clipping == "local":
            self._engine.allreduce_gradients()

    def _loss_scale(self) -> float:
        """What fp16 multiplies losses with; 1 without."""
        return float(self._optimizer.loss_scale) if self._is_fp16 else 1.0

    def _was_skipped(self) -> bool:
        """Whether DeepSpeed made no step of the last gradient, since it was not finite; the same on all trainers."""
        return bool(getattr(self._optimizer, "overflow", False))

    def _check_applied(self, scale: float) -> None:
        if not self._was_skipped():
            return
        self._losses.check()
        if not self._is_fp16:
            raise gradient_fault(math.inf, trainer_rank=self._engine.global_rank, step=self._step)
        if scale <= getattr(self._optimizer.loss_scaler, "min_scale", scale):
            raise scale_fault(scale, step=self._step)

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

    @property
    def zero_stage(self) -> int:
        return int(self._engine.zero_optimization_stage())

    def groups(self) -> list[dict[str, Any]]:
        """The settings of each parameter group, such as its weight decay."""
        return [
            {key: value for key, value in group.items() if key != "params"} for group in self._optimizer.param_groups
        ]

    def resident_bytes(self) -> ResidentBytes:
        """What this trainer holds of the model now. No collective."""
        return resident_bytes(self.module, zero=self._optimizer, optimizer=self._engine.basic_optimizer)

    def save(self, folder: Path) -> None:
        """Write DeepSpeed's shards of this step into `folder`. Raises CheckpointError if there is no space for them,
        and TrainingFault if there is nothing in them to go on from."""
        self._losses.check()
        try:
            if self.is_on_disk:
                save_states(
                    self._optimizer, self.module, folder / CHECKPOINT_TAG, trainer_rank=self._engine.global_rank
                )
                return
            self._engine.save_checkpoint(str(folder), tag=CHECKPOINT_TAG, save_latest=False)
        except (OSError, RuntimeError) as error:
            if not _tells_a_full_disk(error):
                raise
            raise CheckpointError(
                f"cannot write a checkpoint to {folder} ({str(error).splitlines()[0]}): free space there, then go on "
                "with --resume"
            ) from error

    def load(self, folder: Path) -> None:
        """Take weights and optimizer state from `folder`. Raises CheckpointError if it does not fit this run."""
        if self.is_on_disk:
            load_states(
                self._optimizer, folder / CHECKPOINT_TAG,
                trainer_rank=self._engine.global_rank, num_trainers=self._engine.dp_world_size,
            )  # fmt: skip
            return
        try:
            path, _ = self._engine.load_checkpoint(str(folder), tag=CHECKPOINT_TAG)
        except Exception as error:  # DeepSpeed raises many kinds; all mean the same to a person
            raise CheckpointError(f"{folder} cannot be loaded: {error}") from error
        if path is None:
            raise CheckpointError(f"{folder}/{CHECKPOINT_TAG} is missing or empty: not a checkpoint of this run")

    def load_converted(self, folder: Path, *, groups: Sequence[Mapping[str, Any]]) -> None:
        """Likewise, from a checkpoint of another layout that universal.py has converted; `groups` are those saved."""
        with loads_universal(self._engine):
            self.load(folder)
        mend_groups(self._optimizer, groups)


def compute_dtype(deepspeed_json: Mapping[str, Any]) -> torch.dtype:
    """What matrix products are computed in."""
    if is_on(deepspeed_json, "torch_autocast"):
        name = str(deepspeed_json["torch_autocast"].get("dtype", "")).removeprefix("torch.")
        names = {"half": torch.float16, "float16": torch.float16, "bfloat16": torch.bfloat16}
        where = "cuda" if torch.cuda.is_available() else "cpu"
        return names.get(name) or _SHORT.get(name) or torch.get_autocast_dtype(where)
    return next((dtype for section, dtype in _SHORT.items() if is_on(deepspeed_json, section)), torch.float32)


def _tells_a_full_disk(error: Exception) -> bool:
    """torch's file writer tells it as a RuntimeError of many kinds, by its text alone."""
    return is_disk_full(error) or any(sign in str(error) for sign in _WRITERS_SIGNS)


def _clipping(optimizer: OptimizerConfig, deepspeed_json: Mapping[str, Any]) -> str:
    """Who clips: deepspeed, each trainer its own gradient (local), or all of them the same whole one (whole).

    The last is ZeRO 0 in float32, for which DeepSpeed would clip in the same way, but keep the norm to itself.
    """
    if not optimizer.clip_norm:
        return "deepspeed"
    if optimizer.clip == "local":
        return "local"
    is_mixed = any(is_on(deepspeed_json, section) for section in ("bf16", "fp16", "torch_autocast"))
    return "deepspeed" if zero_stage(deepspeed_json) or is_mixed else "whole"


def _optimizer(
    groups: list[dict[str, Any]], settings: OptimizerConfig, deepspeed_json: Mapping[str, Any]
) -> torch.optim.Optimizer:
    """The update of optimizer.kind, by the fastest code that is there.

    DeepSpeed's own are taken only if they were built when it was installed (DS_BUILD_OPS): else each rank would compile
    them at this point, waiting for a lock that a killed job leaves behind for ever.
    """
    betas, corrects = (settings.beta1, settings.beta2), settings.kind == "adamw"
    is_offloaded = offload_device(deepspeed_json, "optimizer") != "none"
    name = "cpu_adam" if is_offloaded else "fused_adam"
    if installed_ops.get(name, False) and (is_offloaded or torch.cuda.is_available()):
        made = deepspeed.ops.adam.DeepSpeedCPUAdam if is_offloaded else deepspeed.ops.adam.FusedAdam
        how = f"DeepSpeed's {made.__name__}, which this installation has built"
        adam = made(groups, betas=betas, eps=settings.eps, bias_correction=corrects)
    elif corrects:
        how, adam = "torch's fused AdamW", torch.optim.AdamW(groups, betas=betas, eps=settings.eps, fused=True)
    else:
        how, adam = "torch's fused AdamW without bias correction", BertAdam(groups, betas=betas, eps=settings.eps)
    log.info("optimizer.kind=%s is %s%s", settings.kind, how, "" if installed_ops.get(name) else f" (no {name} built)")
    return adam


def _forget_steps(optimizer: Any) -> None:
    """Take back what DeepSpeed's steps without gradients have counted: bias correction would be a step ahead."""
    for state in optimizer.state.values():
        if "step" in state:
            state["step"] = state["step"] * 0
    for group in optimizer.param_groups:
        if "step" in group:
            group["step"] = 0


def _rounded(weights: Tensor, dtype: torch.dtype, *, name: str) -> Tensor:
    """A copy on the CPU. Values that are not finite already are those of a diverged run, which others will tell."""
    copy = torch.empty(weights.shape, dtype=dtype).copy_(weights)
    if dtype == torch.float16 and copy.isinf().any() and weights.isfinite().all():
        raise IndexFault(
            f"the weights of {name} reach {weights.abs().max().item():.3g}, more than float16 holds (65504): set "
            "refresh.snapshot_dtype=bf16, which has the range of float32, and resume"
        )
    return copy
