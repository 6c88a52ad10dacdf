"""What DeepSpeed's own loading leaves to be mended, and what is said where it cannot. Real worlds: test_layouts.py."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from realm_ds.errors import CheckpointError
from realm_ds.train.universal import convert, loads_universal, mend_groups


def loaded() -> Any:
    """An optimizer as DeepSpeed leaves it: one tensor for all counts, the first group's settings in both."""
    step = torch.tensor(3.0)
    states = {number: {"step": step, "exp_avg": torch.zeros(2)} for number in range(2)}
    groups = [{"params": [], "weight_decay": 0.1, "betas": (0.9, 0.99)} for _ in range(2)]
    return SimpleNamespace(param_groups=groups, optimizer=SimpleNamespace(state=states))


def test_groups_get_their_own_settings_and_states_their_own_count() -> None:
    optimizer = loaded()
    mend_groups(optimizer, [{"weight_decay": 0.1, "betas": [0.9, 0.99]}, {"weight_decay": 0.0, "betas": [0.9, 0.98]}])
    assert [(group["weight_decay"], group["betas"]) for group in optimizer.param_groups] == [
        (0.1, (0.9, 0.99)),
        (0.0, (0.9, 0.98)),
    ]
    first, second = optimizer.optimizer.state.values()
    first["step"] += 1
    assert (first["step"].item(), second["step"].item()) == (4.0, 3.0)


def test_shards_that_cannot_be_put_together(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "zero").mkdir()
    with pytest.raises(
        CheckpointError, match=r"zero cannot be converted for another number of trainers \(FileNotFound"
    ):
        convert(tmp_path / "zero", tmp_path / "converted")
    assert capfd.readouterr() == ("", "")


def test_an_engine_takes_nothing_for_converted_afterwards() -> None:
    engine = SimpleNamespace(_config=SimpleNamespace(load_universal_checkpoint=False))
    with pytest.raises(CheckpointError, match="True"), loads_universal(engine):
        raise CheckpointError(str(engine._config.load_universal_checkpoint))
    assert not engine._config.load_universal_checkpoint
