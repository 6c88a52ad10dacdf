"""What the engine does without DeepSpeed: copies, the choice of an optimizer, faults. Steps are test_zero.py's."""

import errno
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from realm_ds.config import deepspeed
from realm_ds.config.load import load
from realm_ds.config.schema import OptimizerConfig
from realm_ds.errors import CheckpointError, IndexFault, TrainingFault
from realm_ds.train import engine
from realm_ds.train.engine import Engine
from realm_ds.train.optimizer import BertAdam
from realm_ds.train.soundness import Losses, gradient_fault, scale_fault


def copied(layer: nn.Module, **how: object) -> dict[str, torch.Tensor]:
    """Without DeepSpeed's engine, which copying does not touch; sharded weights are test_zero.py's."""
    return Engine.copy_weights(object.__new__(Engine), nn.Sequential(layer), **how)


def test_weights_are_copied_in_the_dtype_asked_for() -> None:
    layer = nn.Linear(3, 2)
    assert copied(layer, dtype=torch.bfloat16, keeps=False) == {}
    copies = copied(layer, dtype=torch.bfloat16)
    assert torch.equal(copies["0.weight"], layer.weight.bfloat16())
    whole = copied(layer)
    layer.weight.data.zero_()
    assert whole["0.weight"].abs().sum() > 0


def test_weights_too_large_for_float16_are_named() -> None:
    layer = nn.Linear(3, 2)
    layer.bias.data[1] = -1e5
    message = r"weights of 0.bias reach 1e\+05, more than float16 holds .*: set refresh.snapshot_dtype=bf16"
    with pytest.raises(IndexFault, match=message):
        copied(layer, dtype=torch.float16)
    assert copied(layer, dtype=torch.bfloat16)["0.bias"].isfinite().all()
    layer.bias.data[1] = 0.0
    layer.weight.data[0, 0] = float("inf")  # a run that has diverged fails elsewhere, with words for that
    assert copied(layer, dtype=torch.float16)["0.weight"].isinf().any()


class Made:
    """Stands for one of DeepSpeed's own optimizers, which only some installations have built."""

    def __init__(self, groups: object, **options: object) -> None:
        self.options = options


CPU_OFFLOAD = {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}}


@pytest.mark.parametrize(
    ("built", "settings", "on_gpu", "chosen", "said"),
    [
        (set(), {}, True, "torch", "(no fused_adam built)"),
        ({"fused_adam"}, {}, True, "FusedAdam", "DeepSpeed's FusedAdam, which this installation has built"),
        ({"fused_adam"}, {}, False, "torch", "torch's fused AdamW"),
        ({"fused_adam"}, CPU_OFFLOAD, True, "torch", "(no cpu_adam built)"),
        ({"cpu_adam"}, CPU_OFFLOAD, False, "DeepSpeedCPUAdam", "DeepSpeed's DeepSpeedCPUAdam, which"),
    ],
)
@pytest.mark.parametrize("kind", ["adamw", "bert"])
def test_deepspeeds_adams_are_taken_where_they_are_built(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    built: set[str], settings: dict, on_gpu: bool, chosen: str, said: str, kind: str,
) -> None:  # fmt: skip
    adams = {name: type(name, (Made,), {}) for name in ("FusedAdam", "DeepSpeedCPUAdam")}
    monkeypatch.setattr(engine, "installed_ops", dict.fromkeys(built, True))
    monkeypatch.setattr(engine.deepspeed.ops, "adam", SimpleNamespace(**adams))
    monkeypatch.setattr(engine.torch.cuda, "is_available", lambda: on_gpu)
    groups = [{"params": [nn.Parameter(torch.ones(2))], "lr": 0.0, "weight_decay": 0.0}]
    with caplog.at_level("INFO"):
        made = engine._optimizer(groups, OptimizerConfig(kind=kind), settings)
    if chosen == "torch":
        assert type(made) is {"adamw": torch.optim.AdamW, "bert": BertAdam}[kind]
    else:
        assert type(made) is adams[chosen]
        assert made.options == {"betas": (0.9, 0.999), "eps": 1e-6, "bias_correction": kind == "adamw"}
    assert said in caplog.messages[-1]


def test_steps_that_deepspeed_made_by_itself_are_forgotten() -> None:
    parameter = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([{"params": [parameter], "lr": 0.0, "step": 3}])
    parameter.grad = torch.zeros(2)
    optimizer.step()
    engine._forget_steps(optimizer)
    assert optimizer.state[parameter]["step"] == 0
    assert optimizer.param_groups[0]["step"] == 0


@pytest.mark.parametrize(
    ("settings", "options", "who"),
    [
        ({}, {}, "whole"),
        ({}, {"clip_norm": 0.0}, "deepspeed"),
        ({}, {"clip_norm": 0.0, "clip": "local"}, "deepspeed"),
        ({"bf16": {"enabled": True}}, {}, "deepspeed"),
        ({"zero_optimization": {"stage": 1}}, {}, "deepspeed"),
        ({"zero_optimization": {"stage": 1}}, {"clip": "local"}, "local"),
    ],
)
def test_who_clips(settings: dict, options: dict, who: str) -> None:
    assert engine._clipping(OptimizerConfig(**options), settings) == who


def failing(error: Exception, losses: Losses | None = None) -> Engine:
    """An engine whose DeepSpeed can neither save nor load."""

    def fail(*_: object, **__: object) -> None:
        raise error

    made = object.__new__(Engine)
    made._losses, made.is_on_disk = losses or Losses(trainer_rank=0), False
    made._engine = SimpleNamespace(save_checkpoint=fail, load_checkpoint=fail)
    return made


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError(
            "[enforce fail at inline_container.cc:858] . PytorchStreamWriter failed writing file data/1: file"
        ),
        RuntimeError("[enforce fail at inline_container.cc:603] . unexpected pos 576 vs 470\nframe #0: c10::Throw"),
        RuntimeError("No space left on device"),
    ],
)
def test_a_disk_without_room_for_a_checkpoint_is_told(tmp_path: Path, error: Exception) -> None:
    said = re.escape(str(error).splitlines()[0])
    with pytest.raises(
        CheckpointError, match=rf"cannot write a checkpoint to .* \({said}\): free space there, then go"
    ):
        failing(error).save(tmp_path)


@pytest.mark.parametrize("error", [RuntimeError("CUDA error: unspecified"), RuntimeError(), OSError(errno.EIO, "bad")])
def test_what_else_fails_in_a_save_is_no_full_disk(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        failing(error).save(tmp_path)
    assert caught.value is error


def test_nothing_is_saved_of_a_run_that_has_diverged(tmp_path: Path) -> None:
    losses = Losses(trainer_rank=0)
    losses.add(4, [torch.tensor(float("nan"))])
    with pytest.raises(TrainingFault, match="the loss of step 5 is nan"):
        failing(RuntimeError(), losses).save(tmp_path)


def test_a_checkpoint_that_deepspeed_does_not_take_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"^{tmp_path} cannot be loaded: size mismatch"):
        failing(AssertionError("size mismatch")).load(tmp_path)
    made = failing(RuntimeError())
    made._engine.load_checkpoint = lambda *_, **__: (None, None)
    with pytest.raises(CheckpointError, match="/zero is missing or empty: not a checkpoint of this run"):
        made.load(tmp_path)


@pytest.mark.parametrize(
    ("settings", "dtype"),
    [
        ({}, torch.float32),
        ({"bf16": {"enabled": True}}, torch.bfloat16),
        ({"fp16": {"enabled": True}, "bf16": {"enabled": False}}, torch.float16),
        ({"torch_autocast": {"enabled": True, "dtype": "bfloat16"}}, torch.bfloat16),
        ({"torch_autocast": {"enabled": True, "dtype": "torch.float16"}}, torch.float16),
        ({"torch_autocast": {"enabled": True, "dtype": "fp16"}}, torch.float16),
    ],
)
def test_what_is_computed_in(settings: dict, dtype: torch.dtype) -> None:
    assert engine.compute_dtype(settings) == dtype


def test_a_config_chooses_the_originals_optimizer(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("optimizer:\n  kind: bert\n")
    data = ["data.corpus=corpus", "data.tokenizer=tokenizer"]
    groups = [{"params": [nn.Parameter(torch.ones(2))], "lr": 0.0, "weight_decay": 0.0}]
    for source, kind in ((tmp_path / "run.yaml", BertAdam), ("realm-base", BertAdam), (None, torch.optim.AdamW)):
        assert type(engine._optimizer(groups, load(source, data).optimizer, {})) is kind


def test_a_loss_that_is_no_number_is_told_by_step_and_trainer() -> None:
    losses = Losses(trainer_rank=3)
    losses.check()
    losses.add(6, [torch.tensor(1.0), torch.tensor(2.0)])
    losses.check()
    losses.add(7, [torch.tensor(1.0), torch.tensor(float("inf"))])
    losses.add(8, [torch.tensor(float("nan"))])
    with pytest.raises(TrainingFault, match=r"^the loss of step 8 is inf on trainer 3: go on with --resume from the "):
        losses.check()


def test_faults_of_gradients_say_what_to_do() -> None:
    told = str(gradient_fault(float("inf"), trainer_rank=1, step=4))
    assert told.startswith(
        "the gradient of step 5 has norm inf over all trainers (the loss of trainer 1 is finite): go"
    )
    assert "optimizer.clip_norm" in told
    told = str(scale_fault(1.0, step=4))
    assert told.startswith("the gradient of step 5 overflows fp16 at the lowest loss scale, 1: use bf16 (runtime.deep")


def test_keys_of_deepspeed_are_those_that_its_settings_are_checked_by() -> None:
    from deepspeed.runtime.precision_config import DeepSpeedBF16Config, DeepSpeedFP16Config
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
    from deepspeed.runtime.zero.offload_config import (
        DeepSpeedZeroOffloadOptimizerConfig,
        DeepSpeedZeroOffloadParamConfig,
    )

    models = {
        "zero_optimization": DeepSpeedZeroConfig,
        "zero_optimization.offload_optimizer": DeepSpeedZeroOffloadOptimizerConfig,
        "zero_optimization.offload_param": DeepSpeedZeroOffloadParamConfig,
        "fp16": DeepSpeedFP16Config,
        "bf16": DeepSpeedBF16Config,
    }
    names = {
        section: {known for name, field in model.model_fields.items() for known in (name, field.alias) if known}
        for section, model in models.items()
    }
    assert names == deepspeed.KEYS_OF_SECTIONS
