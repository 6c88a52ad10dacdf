"""What the engine is given: the learning rate of every step, and which parameters decay. Steps are test_zero.py's."""

import pytest
import torch
from torch import nn

from realm_ds.errors import IndexFault
from realm_ds.train.engine import Engine
from realm_ds.train.optimizer import learning_rate_factor, parameter_groups


def test_the_rate_rises_to_the_line_that_falls_from_the_first_step() -> None:
    factors = [learning_rate_factor(step, steps=10, warmup_steps=4) for step in range(11)]
    assert factors == pytest.approx([0.25, 0.5, 0.75, 1.0, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0])
    assert learning_rate_factor(12, steps=10, warmup_steps=4) == 0.0
    assert learning_rate_factor(0, steps=10, warmup_steps=0) == 1.0


@pytest.mark.parametrize(("steps", "warmup"), [(50, 100), (5_000, 500), (1_000_000, 10_000)])
def test_warm_up_unless_told_is_berts(steps: int, warmup: int) -> None:
    assert learning_rate_factor(warmup - 1, steps=steps, warmup_steps=None) == 1.0
    assert learning_rate_factor(0, steps=steps, warmup_steps=None) == pytest.approx(1 / warmup)
    assert learning_rate_factor(warmup, steps=steps, warmup_steps=None) == pytest.approx(max(0, 1 - warmup / steps))


def test_groups_are_by_rate_and_decay() -> None:
    parameters = {
        "tower.weight": nn.Parameter(torch.ones(2, 2)),
        "tower.bias": nn.Parameter(torch.ones(2)),
        "encoder.weight": nn.Parameter(torch.ones(2, 2)),
        "encoder.norm.weight": nn.Parameter(torch.ones(2)),
        "encoder.embedding": nn.Parameter(torch.ones(2, 1)),
    }
    groups = parameter_groups(
        parameters.items(), learning_rate_of=lambda name: 0.1 if name.startswith("tower.") else 0.2, weight_decay=0.01
    )
    name_of = {id(parameter): name for name, parameter in parameters.items()}
    found = {(group["lr"], group["weight_decay"]): [name_of[id(p)] for p in group["params"]] for group in groups}
    assert len(found) == len(groups)
    assert found == {
        (0.1, 0.01): ["tower.weight"],
        (0.1, 0.0): ["tower.bias"],
        (0.2, 0.01): ["encoder.weight", "encoder.embedding"],
        (0.2, 0.0): ["encoder.norm.weight"],
    }


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
