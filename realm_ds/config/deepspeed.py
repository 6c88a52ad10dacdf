"""The DeepSpeed JSON of a run: read, checked, and without what the run's own config owns. The engine adds the rest."""

import json
from pathlib import Path
from typing import Any

from realm_ds.errors import ConfigError

_OWNERS = {
    "train_batch_size": "trainers x STAGE.micro_batch_size x STAGE.gradient_accumulation_steps",
    "train_micro_batch_size_per_gpu": "STAGE.micro_batch_size",
    "gradient_accumulation_steps": "STAGE.gradient_accumulation_steps",
    "gradient_clipping": "optimizer.clip_norm",
    "optimizer": "the section optimizer",
    "scheduler": "STAGE.learning_rate, STAGE.warmup_steps and STAGE.steps",
    "steps_per_print": "STAGE.log_every_steps",
    "tensorboard": "the run folder's events/",
    "wandb": "the run folder's metrics/",
    "csv_monitor": "the run folder's metrics/",
    "comet": "the run folder's metrics/",
}


def packaged_deepspeed(stage: int = 2) -> Path:
    """The packaged JSON of a ZeRO stage, in an installed package or in a checkout (where ds_configs is at the top)."""
    package = Path(__file__).parents[1]
    name = f"zero{stage}.json"
    for folder in (package / "ds_configs", package.parent / "ds_configs"):
        if (folder / name).is_file():
            return folder / name
    raise ConfigError(
        f"ds_configs/{name} is not beside {package}: the installation is incomplete; install realm-ds again"
    )


def load_deepspeed(path: Path | None) -> dict[str, Any]:
    """DeepSpeed's settings of a run; null is the packaged zero2.json."""
    path = path or packaged_deepspeed()
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read runtime.deepspeed={path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"runtime.deepspeed={path} is not JSON: {error}") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"runtime.deepspeed={path} must hold one JSON object, not a {type(settings).__name__}")
    mistakes = _mistakes(settings)
    if mistakes:
        raise ConfigError(f"runtime.deepspeed={path}: " + "; ".join(mistakes))
    return settings


def zero_stage(settings: dict[str, Any]) -> int:
    """The ZeRO stage that checked settings ask for."""
    return int(settings.get("zero_optimization", {}).get("stage", 0))


def _mistakes(settings: dict[str, Any]) -> list[str]:
    mistakes = [f"remove {key!r}, it is set by {owner}" for key, owner in _OWNERS.items() if key in settings]
    zero = settings.get("zero_optimization", {})
    stage = zero.get("stage", 0) if isinstance(zero, dict) else None
    if stage not in (0, 1, 2, 3) or isinstance(stage, bool):
        found = zero if stage is None else stage
        mistakes.append(f"zero_optimization.stage is {found!r}, but must be 0, 1, 2 or 3")
    if _is_on(settings, "bf16") and _is_on(settings, "fp16"):
        mistakes.append("bf16 and fp16 are both enabled; switch one off")
    auto = "is 'auto', a word of the Hugging Face Trainer's; give a value or leave it out"
    mistakes += [f"{name} {auto}" for name in _autos(settings, "")]
    return mistakes


def _is_on(settings: dict[str, Any], precision: str) -> bool:
    section = settings.get(precision, {})
    return isinstance(section, dict) and bool(section.get("enabled", False))


def _autos(value: Any, name: str) -> list[str]:
    if value == "auto":
        return [name]
    if isinstance(value, dict):
        return [found for key, inner in value.items() for found in _autos(inner, f"{name}.{key}" if name else str(key))]
    return []
