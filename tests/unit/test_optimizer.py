"""The original's optimizer line by line in float64, its schedule, and which parameters decay."""

import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from realm_ds.config.schema import ModelConfig
from realm_ds.config.stages import IctConfig
from realm_ds.models.qa import build_qa_model
from realm_ds.models.realm import build_model
from realm_ds.train.optimizer import BertAdam, learning_rate_factor, parameter_groups

STEPS = 50


def original_rate(step: int, *, peak: float, steps: int, warmup: int) -> float:
    """bert/optimization.py: polynomial decay of power 1 to 0, replaced by the warm-up's line before its end."""
    decayed = peak * (1.0 - min(step, steps) / steps)
    return peak * (step / warmup) if step < warmup else decayed


def original_step(w: Tensor, g: Tensor, m: Tensor, v: Tensor, *, rate: float, decay: float) -> tuple[Tensor, ...]:
    """AdamWeightDecayOptimizer.apply_gradients, in its order."""
    m = 0.9 * m + 0.1 * g
    v = 0.999 * v + 0.001 * g * g
    update = m / (v.sqrt() + 1e-6)
    update = update + decay * w
    return w - rate * update, m, v


def adamw_step(
    w: Tensor, g: Tensor, m: Tensor, v: Tensor, *, rate: float, decay: float, step: int
) -> tuple[Tensor, ...]:
    """Loshchilov and Hutter's, corrected for the start at zero."""
    m = 0.9 * m + 0.1 * g
    v = 0.999 * v + 0.001 * g * g
    corrected_m, corrected_v = m / (1 - 0.9 ** (step + 1)), v / (1 - 0.999 ** (step + 1))
    return w - rate * (corrected_m / (corrected_v.sqrt() + 1e-6) + decay * w), m, v


def clipped(gradients: list[Tensor], norm: float) -> list[Tensor]:
    """tf.clip_by_global_norm; 0 is off."""
    found = torch.stack([g.pow(2).sum() for g in gradients]).sum().sqrt()
    return [g * norm / max(found, norm) for g in gradients] if norm else gradients


@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
@pytest.mark.parametrize("kind", ["bert", "adamw"])
@pytest.mark.parametrize("warmup", [0, 1, 20])
def test_fifty_steps_are_the_originals(kind: str, clip_norm: float, warmup: int) -> None:
    """Two peak rates, with and without decay; gradients of all sizes, some 0; the last step and one beyond."""
    generator = torch.Generator().manual_seed(7)
    shapes, peaks, decays = [(40, 3), (5,), (6, 7)], [1e-3, 1e-3, 1e-2], [0.01, 0.0, 0.01]
    weights = [torch.randn(shape, generator=generator) for shape in shapes]
    exact = [(w.double(), torch.zeros_like(w).double(), torch.zeros_like(w).double()) for w in weights]
    parameters = [nn.Parameter(w.clone()) for w in weights]
    groups = [{"params": [p], "lr": 0.0, "weight_decay": decay} for p, decay in zip(parameters, decays, strict=True)]
    made: dict[str, Callable[..., torch.optim.Optimizer]] = {"bert": BertAdam, "adamw": torch.optim.AdamW}
    optimizer = made[kind](groups, betas=(0.9, 0.999), eps=1e-6)
    for step in range(STEPS + 1):
        size = 10.0 ** float(torch.randint(-5, 3, (), generator=generator))
        gradients = [torch.randn(shape, generator=generator) * size * (step % 9 > 0) for shape in shapes]
        factor = learning_rate_factor(step, steps=STEPS, warmup_steps=warmup)
        for parameter, group, g, peak in zip(parameters, optimizer.param_groups, gradients, peaks, strict=True):
            parameter.grad, group["lr"] = g.clone(), peak * factor
        if clip_norm:
            nn.utils.clip_grad_norm_(parameters, clip_norm)
        optimizer.step()
        for number, g in enumerate(clipped([g.double() for g in gradients], clip_norm)):
            rate = original_rate(step, peak=peaks[number], steps=STEPS, warmup=warmup)
            w, m, v = exact[number]
            exact[number] = (
                original_step(w, g, m, v, rate=rate, decay=decays[number])
                if kind == "bert"
                else adamw_step(w, g, m, v, rate=rate, decay=decays[number], step=step)
            )
        for parameter, (w, _, _) in zip(parameters, exact, strict=True):
            torch.testing.assert_close(parameter.detach().double(), w, rtol=3e-5, atol=3e-7)


@settings(max_examples=50)
@given(
    numbers=st.lists(st.tuples(*[st.floats(-1e3, 1e3, width=32)] * 3), min_size=1, max_size=40),
    rate=st.floats(0, 0.1),
    decay=st.floats(0, 0.5),
)
def test_one_step_whatever_the_numbers(numbers: list[tuple[float, float, float]], rate: float, decay: float) -> None:
    table = torch.tensor(numbers)
    w, g, m = (column.clone() for column in table.unbind(1))
    v = m.abs()
    parameter = nn.Parameter(w.clone())
    parameter.grad = g.clone()
    optimizer = BertAdam([{"params": [parameter], "lr": rate, "weight_decay": decay}], betas=(0.9, 0.999), eps=1e-6)
    optimizer.state[parameter] = {"step": torch.tensor(3.0), "exp_avg": m.clone(), "exp_avg_sq": v.clone()}
    optimizer.step()
    exact = original_step(w.double(), g.double(), m.double(), v.double(), rate=rate, decay=decay)
    found = (parameter.detach(), optimizer.state[parameter]["exp_avg"], optimizer.state[parameter]["exp_avg_sq"])
    for value, expected in zip(found, exact, strict=True):
        torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-5)
    assert optimizer.state[parameter]["step"] == 4


def test_its_state_is_adamws() -> None:
    """What ZeRO's shards, universal checkpoints and torch's own AdamW expect."""
    parameter, still = nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.ones(2))
    optimizer = BertAdam([{"params": [parameter, still], "lr": 0.1}], betas=(0.9, 0.999), eps=1e-6)
    for _ in range(3):
        parameter.grad = torch.randn(4, 3)
        optimizer.step()
    assert still not in optimizer.state, "it had no gradient"
    saved = copy.deepcopy(optimizer.state_dict())
    assert saved["state"][0].keys() == {"step", "exp_avg", "exp_avg_sq"}
    assert saved["state"][0]["step"] == 3
    for other in (
        torch.optim.AdamW([parameter, still], fused=True),
        BertAdam([parameter, still], betas=(0.5, 0.5), eps=1.0),
    ):
        other.load_state_dict(saved)
        assert other.state[parameter]["step"] == 3
        assert torch.equal(other.state[parameter]["exp_avg"], optimizer.state[parameter]["exp_avg"])
        assert other.param_groups[0]["betas"] == (0.9, 0.999)


def test_the_rate_rises_from_nothing_to_the_line_that_falls_from_the_first_step() -> None:
    factors = [learning_rate_factor(step, steps=10, warmup_steps=4) for step in range(11)]
    assert factors == pytest.approx([0, 0.25, 0.5, 0.75, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0])
    assert learning_rate_factor(12, steps=10, warmup_steps=4) == 0.0
    assert learning_rate_factor(0, steps=10, warmup_steps=0) == 1.0


@pytest.mark.parametrize(("steps", "warmup"), [(50, 100), (5_000, 500), (1_000_000, 10_000)])
def test_warm_up_unless_told_is_berts(steps: int, warmup: int) -> None:
    assert IctConfig(steps=steps).num_warmup_steps == warmup
    assert IctConfig(steps=steps, warmup_steps=0).num_warmup_steps == 0


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


def test_what_does_not_decay_is_what_the_original_names() -> None:
    """Its rule: names with LayerNorm, layer_norm or bias. `norm` is what we call the LayerNorms that BERT has not."""
    model = ModelConfig(num_layers=1, hidden_size=8, num_heads=2, intermediate_size=16, projection_size=4)
    realm = build_model(model, vocab_size=30, max_tokens=16, seed=0)
    qa = build_qa_model(realm, span_hidden_size=4, max_span_tokens=3, seed=0)
    named = {**dict(realm.named_parameters()), **dict(qa.named_parameters())}
    groups = parameter_groups(named.items(), learning_rate_of=lambda name: 1.0, weight_decay=0.01)
    decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    for name, parameter in named.items():
        is_excluded = any(part in name for part in ("LayerNorm", "layer_norm", ".norm.", "bias"))
        assert (decays[id(parameter)] == 0.0) == is_excluded, name
