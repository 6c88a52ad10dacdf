"""The DeepSpeed JSON of a run: found, read, checked, and without what the run's own config owns.

The engine adds the rest. Nothing here loads DeepSpeed: a mistake is told before any process is started.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping, Set
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from realm_ds.config.schema import RealmConfig
from realm_ds.errors import ConfigError

_OWNERS = {
    "train_batch_size": "trainers x STAGE.micro_batch_size x STAGE.gradient_accumulation_steps",
    "train_micro_batch_size_per_gpu": "STAGE.micro_batch_size",
    "gradient_accumulation_steps": "STAGE.gradient_accumulation_steps",
    "managed_gradient_accumulation": "STAGE.gradient_accumulation_steps",
    "gradient_clipping": "optimizer.clip_norm and optimizer.clip",
    "gradient_allreduce_op": "the objectives, whose losses are means over trainers",
    "optimizer": "the section optimizer",
    "zero_allow_untested_optimizer": "optimizer.kind",
    "zero_force_ds_cpu_optimizer": "optimizer.kind",
    "scheduler": "STAGE.learning_rate, STAGE.warmup_steps and STAGE.steps",
    "activation_checkpointing": "runtime.activation_checkpointing",
    "compile": "runtime.compile",
    "checkpoint": "STAGE.save_every_steps, runtime.keep_last and --resume",
    "steps_per_print": "STAGE.log_every_steps",
    "tensorboard": "the run folder's events/",
    "wandb": "runtime.tracker",
    "csv_monitor": "the run folder's metrics/",
    "comet": "runtime.tracker",
}
"""Keys that DeepSpeed knows and the run has another owner for."""
_WITHOUT_USE = {
    "amp", "autotuning", "compression_training", "curriculum_learning", "data_efficiency", "elasticity",
    "expert_parallel", "hybrid_engine", "pipeline", "progressive_layer_drop", "sequence_parallel_size",
    "sparse_attention", "tensor_parallel", "weight_quantization",
}  # fmt: skip
"""Keys of DeepSpeed's for other models, other batches or other ways to divide them: with these a run would be wrong or
die, each rank with a traceback."""
_WELCOME = {
    "aio", "bf16", "comms_logger", "communication_data_type", "data_types", "dataloader_drop_last", "disable_allgather",
    "dump_state", "flops_profiler", "fp16", "gradient_predivide_factor", "log_level", "memory_breakdown",
    "prescale_gradients", "timers", "torch_autocast", "wall_clock_breakdown", "zero_optimization",
}  # fmt: skip
"""What belongs to the engine alone. DeepSpeed says nothing to a key that it does not know, so misspellings of these are
looked for; others may be of a later DeepSpeed, and pass."""

KEYS_OF_SECTIONS = {
    "zero_optimization": {
        "allgather_bucket_size", "allgather_partitions", "allgather_sequential", "compute_grad_norm",
        "contiguous_gradients", "cpu_offload", "cpu_offload_param", "cpu_offload_use_pin_memory", "elastic_checkpoint",
        "enable_sanity_checks", "gather_16bit_weights_on_model_save", "ignore_unused_parameters", "leaf_module",
        "legacy_stage1", "load_from_fp32_weights", "log_trace_cache_warnings", "max_live_parameters",
        "max_reuse_distance", "memory_efficient_linear", "model_persistence_threshold", "module_granularity_threshold",
        "offload_optimizer", "offload_param", "overlap_comm", "override_module_apply", "param_persistence_threshold",
        "parameter_alignment", "pipeline_loading_checkpoint", "prefetch_bucket_size", "reduce_bucket_size",
        "reduce_scatter", "round_robin_gradients", "save_muon_momentum_buffer_in_memory", "stage",
        "stage3_allgather_sequential", "stage3_gather_16bit_weights_on_model_save",
        "stage3_gather_fp16_weights_on_model_save", "stage3_max_live_parameters", "stage3_max_reuse_distance",
        "stage3_model_persistence_threshold", "stage3_module_granularity_threshold",
        "stage3_param_persistence_threshold", "stage3_prefetch_bucket_size", "stage3_use_all_reduce_for_fetch_params",
        "sub_group_size", "use_all_reduce_for_fetch_params", "use_multi_rank_bucket_allreduce", "zenflow",
        "zero_hpz_partition_size", "zero_quantized_gradients", "zero_quantized_nontrainable_weights",
        "zero_quantized_weights",
    },
    "zero_optimization.offload_optimizer": {
        "buffer_count", "cpuadam_cores_perc", "device", "fast_init", "nvme_path", "pin_memory", "pipeline_read",
        "pipeline_write", "ratio", "super_offload",
    },
    "zero_optimization.offload_param": {
        "buffer_count", "buffer_size", "device", "max_in_cpu", "nvme_path", "pin_memory",
    },
    "fp16": {
        "auto_cast", "consecutive_hysteresis", "enabled", "fp16_master_weights_and_grads", "hysteresis",
        "initial_scale_power", "loss_scale", "loss_scale_window", "min_loss_scale",
    },
    "bf16": {
        "bf16_master_weights_and_grads", "bf16_optimizer_states", "check_grad_overflow", "enabled",
        "immediate_grad_update",
    },
}  # fmt: skip
"""Of the sections in which DeepSpeed refuses what it does not know, on every rank. A test compares these with its own:
loading DeepSpeed takes seconds."""


def packaged_names() -> list[str]:
    """The shapes that come with realm-ds, by name."""
    return sorted(path.stem for path in _folder().glob("*.json"))


def is_packaged_name(value: str | Path) -> bool:
    """Whether a value of runtime.deepspeed is meant as a packaged name: a path has a slash or a suffix."""
    return "/" not in str(value) and not Path(value).suffix


def packaged_deepspeed(name: str = "zero2") -> Path:
    """The packaged JSON of that name."""
    path = _folder() / f"{name}.json"
    if not path.is_file():
        close = get_close_matches(name, packaged_names(), n=1, cutoff=0.5)
        raise ConfigError(
            f"runtime.deepspeed={name} is no packaged shape{f', did you mean {close[0]}?' if close else ':'} there are "
            f"{', '.join(packaged_names())}. A file of your own is written as a path, such as ./{name}.json"
        )
    return path


def load_deepspeed(path: Path | None) -> dict[str, Any]:
    """DeepSpeed's settings of a run, from a file or a packaged name; null is zero2."""
    path = packaged_deepspeed() if path is None else packaged_deepspeed(str(path)) if is_packaged_name(path) else path
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read runtime.deepspeed={path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"runtime.deepspeed={path} is not JSON: {error}") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"runtime.deepspeed={path} must hold one JSON object, not a {type(settings).__name__}")
    mistakes = _mistakes(settings)
    if not mistakes:
        mistakes = _fill_in_nvme_paths(settings)
    if mistakes:
        raise ConfigError(f"runtime.deepspeed={path}: " + "; ".join(mistakes))
    return settings


def check_deepspeed(config: RealmConfig) -> dict[str, Any]:
    """DeepSpeed's settings of a run, held against the rest of its settings. Raises ConfigError for what cannot go
    together."""
    settings = load_deepspeed(config.runtime.deepspeed)
    stage, source = zero_stage(settings), f"runtime.deepspeed={config.runtime.deepspeed or 'zero2'}"
    if config.optimizer.clip == "local" and config.optimizer.clip_norm:
        if stage > 1:
            raise ConfigError(
                f"optimizer.clip=local needs each trainer's whole gradient, but {source} is ZeRO {stage}, which "
                "divides it: choose runtime.deepspeed=zero1, or optimizer.clip=global"
            )
        if settings.get("zero_optimization", {}).get("overlap_comm") or "data_types" in settings:
            raise ConfigError(
                f"optimizer.clip=local clips gradients before they are combined, but {source} sets overlap_comm or "
                "data_types, with which DeepSpeed combines them elsewhere: remove these, or set optimizer.clip=global"
            )
    if config.runtime.compile and stage == 3:
        raise ConfigError(
            f"runtime.compile=true cannot go with {source}: ZeRO 3 gathers weights inside the layers that would be "
            "compiled. Choose runtime.deepspeed=zero2, or runtime.compile=false"
        )
    return settings


def zero_stage(settings: Mapping[str, Any]) -> int:
    """The ZeRO stage that checked settings ask for."""
    return int(settings.get("zero_optimization", {}).get("stage", 0))


def offload_device(settings: Mapping[str, Any], what: str) -> str:
    """Where `what` (optimizer, param) is kept: none, cpu or nvme."""
    section = settings.get("zero_optimization", {}).get(f"offload_{what}") or {}
    return str(section.get("device", "none"))


def needs_nvme(settings: Mapping[str, Any]) -> bool:
    """Whether anything is offloaded to a disk."""
    return "nvme" in {offload_device(settings, what) for what in ("optimizer", "param")}


def is_on(settings: Mapping[str, Any], section: str) -> bool:
    """Whether a section such as bf16 is there and enabled."""
    found = settings.get(section, {})
    return isinstance(found, dict) and bool(found.get("enabled", False))


def _folder() -> Path:
    """ds_configs, in an installed package or in a checkout (where it is at the top)."""
    package = Path(__file__).parents[1]
    for folder in (package / "ds_configs", package.parent / "ds_configs"):
        if (folder / "zero2.json").is_file():
            return folder
    raise ConfigError(
        f"ds_configs/zero2.json is not beside {package}: the installation is incomplete; install realm-ds again"
    )


def _mistakes(settings: dict[str, Any]) -> list[str]:
    mistakes = [f"remove {key!r}, it is set by {owner}" for key, owner in _OWNERS.items() if key in settings]
    mistakes += [f"remove {key!r}, there is nothing here that it could work on" for key in settings
                 if key in _WITHOUT_USE]  # fmt: skip
    mistakes += _misspelt(settings.keys() - _OWNERS.keys() - _WITHOUT_USE, _WELCOME)
    for name, known in KEYS_OF_SECTIONS.items():
        section: Any = settings
        for part in name.split("."):
            section = section.get(part) if isinstance(section, dict) else None
        mistakes += _misspelt(section, known, within=f"{name}.") if isinstance(section, dict) else []
    zero = settings.get("zero_optimization", {})
    stage = zero.get("stage", 0) if isinstance(zero, dict) else None
    if stage not in (0, 1, 2, 3) or isinstance(stage, bool):
        found = zero if stage is None else stage
        mistakes.append(f"zero_optimization.stage is {found!r}, but must be 0, 1, 2 or 3")
    if is_on(settings, "bf16") and is_on(settings, "fp16"):
        mistakes.append("bf16 and fp16 are both enabled; switch one off")
    if stage == 0 and is_on(settings, "fp16"):
        mistakes.append("fp16 with zero_optimization.stage 0 is trained without loss scaling by DeepSpeed; use stage 1")
    auto = "is 'auto', a word of the Hugging Face Trainer's; give a value or leave it out"
    mistakes += [f"{name} {auto}" for name in _autos(settings, "")]
    return mistakes


def _misspelt(keys: Iterable[str], known: Set[str], *, within: str = "") -> list[str]:
    """Keys that are not known, but nearly; others may be of a later DeepSpeed."""
    close = {key: get_close_matches(key, sorted(known), n=1, cutoff=0.8) for key in sorted({*keys} - known)}
    return [
        f"DeepSpeed knows no key {within + key!r}; did you mean {within + names[0]!r}?"
        for key, names in close.items()
        if names
    ]


def _fill_in_nvme_paths(settings: dict[str, Any]) -> list[str]:
    """Replace $VARIABLES in the folders to offload to: a node's own disk has another name in every job."""
    mistakes = []
    for what in ("optimizer", "param"):
        if offload_device(settings, what) != "nvme":
            continue
        section, name = settings["zero_optimization"][f"offload_{what}"], f"zero_optimization.offload_{what}.nvme_path"
        path = os.path.expandvars(str(section.get("nvme_path", "")))
        unset = re.search(r"\$\{?(\w+)", path)
        if unset:
            mistakes.append(
                f"{name} is {section['nvme_path']!r}, but {unset[1]} is not set: export {unset[1]}=FOLDER, one on a "
                "fast disk of each node"
            )
        elif not Path(path).is_absolute():
            mistakes.append(f"{name} is {path!r}, but must be a whole path: name a folder on a fast disk of each node")
        section["nvme_path"] = path
    return mistakes


def _autos(value: Any, name: str) -> list[str]:
    if value == "auto":
        return [name]
    if isinstance(value, dict):
        return [found for key, inner in value.items() for found in _autos(inner, f"{name}.{key}" if name else str(key))]
    return []
