"""DeepSpeed must not change the mathematics: every shape, optimizer and way to clip against plain PyTorch."""

import json
from typing import Any

import pytest

from realm_ds.config.deepspeed import packaged_names
from tests.ranks.programs import zero_stages
from tests.support.worlds import run_ranks


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    outcome = run_ranks(zero_stages, processes=2, timeout_s=500)
    assert outcome.code == 0, outcome.output
    assert "untested optimizer" not in outcome.output
    line = next(line for line in outcome.stdout.splitlines() if line.startswith("TOLD "))
    return json.loads(line.removeprefix("TOLD "))


def tolerance(case: str) -> float:
    """float32 sums in another order; 16 bits round weights, activations and gradients (bf16 to 3 digits, fp16 to 4)."""
    if "in fp32" in case or not ("bf16" in case or "fp16" in case):
        return 2e-4
    return 5e-3 if "bf16" in case else 1e-3


def test_every_shape_trains_as_plain_pytorch_does(told: dict[str, Any]) -> None:
    plain = told["cloze"]
    assert plain[-1] < plain[0]
    found = {case.removeprefix("shape "): losses for case, losses in told.items() if case.startswith("shape ")}
    names = {name for name in packaged_names() if told["knows fp16"] or "fp16" not in name}
    assert found.keys() == (names - zero_stages.ON_DISK) | {"zero3 checkpointed", "zero3-bf16-offload in fp32"}
    for case, losses in found.items():
        assert losses == pytest.approx(plain, rel=tolerance(case)), case
    assert found["zero3 checkpointed"] == found["zero3"]
    assert found["zero2-bf16"] != found["zero2"], "it was no bf16"


@pytest.mark.parametrize(("kind", "clip"), zero_stages.PARTS)
def test_optimizers_and_clipping_with_accumulation(told: dict[str, Any], kind: str, clip: str) -> None:
    plain = told[f"{kind} {clip}"]
    for shape in zero_stages.PARTS[kind, clip]:
        case = f"{kind} {clip} {shape}"
        assert told[case] == pytest.approx(plain, rel=tolerance(case)), case
    other = {"global": "local", "local": "global"}[clip]
    assert told[f"{kind} {other}"][-1] != pytest.approx(plain[-1], rel=1e-3), "this test could not fail"


def test_numbers_that_are_none_end_the_run_by_name(told: dict[str, Any]) -> None:
    for shape in ("zero0", "zero1", "zero3"):
        first, second = told[f"nan {shape}"]
        assert second.startswith("the loss of step 2 is nan on trainer 1: go on with --resume from the last"), shape
        if shape == "zero0":  # DeepSpeed does not look there; the weights are none either by the next step
            assert first.startswith("the loss of step 3 is nan on trainer 0: go on with"), first
        else:
            assert first.startswith("the gradient of step 2 has norm inf over all trainers (the loss of trainer 0 is")


def test_a_loss_scale_that_can_fall_no_further_ends_the_run(told: dict[str, Any]) -> None:
    """From 2**8 at step 2: one step is forgiven, then it is halved eight times."""
    if not told["knows fp16"]:
        pytest.skip("DeepSpeed knows no fp16 on this processor")
    for said in told["overflow zero2-fp16"]:
        assert said.startswith(
            "the gradient of step 11 overflows fp16 at the lowest loss scale, 1: use bf16 (runtime.d"
        )
