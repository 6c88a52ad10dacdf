"""DeepSpeed must not change the mathematics: every ZeRO stage against plain PyTorch."""

import json

import pytest

from tests.ranks.programs import zero_stages
from tests.support.worlds import run_ranks


def test_zero_stages_train_as_plain_pytorch_does() -> None:
    outcome = run_ranks(zero_stages, processes=2, timeout_s=240)
    assert outcome.code == 0, outcome.output
    line = next(line for line in outcome.stdout.splitlines() if line.startswith("LOSSES "))
    losses = json.loads(line.removeprefix("LOSSES "))
    plain = losses.pop("plain")
    assert plain[-1] < plain[0]
    assert set(losses) == {"zero0", "zero1", "zero2", "zero3"}
    for found in losses.values():
        assert found == pytest.approx(plain, rel=2e-4)
