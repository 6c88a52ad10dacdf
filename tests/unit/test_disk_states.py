"""Files of weights and states that lie on a disk; that DeepSpeed moves them so is test_nvme.py's."""

import errno
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from realm_ds.errors import CheckpointError
from realm_ds.train import disk_states
from realm_ds.train.disk_states import load_states, save_states
from tests.support.consolidated import consolidate

TRAINERS = 2


class Zero:
    """As much of DeepSpeed's stage 3 as is used: parts of one trainer, the first sub-group on a disk (a list)."""

    def __init__(self, module: nn.Module, *, trainer_rank: int) -> None:
        parameters = list(module.parameters())
        self.fp16_groups = [parameters[:2], parameters[2:]]
        self.fp32_partitioned_groups_flat = []
        for group in self.fp16_groups:
            parts = []
            for parameter in group:
                size = -(-parameter.numel() // TRAINERS)
                parameter.ds_shape, parameter.partition_numel = parameter.shape, lambda size=size: size
                padded = nn.functional.pad(parameter.detach().flatten(), (0, size * TRAINERS - parameter.numel()))
                parts.append(padded[trainer_rank * size :][:size])
            self.fp32_partitioned_groups_flat.append(nn.Parameter(torch.cat(parts)))
        self.optimizer = torch.optim.AdamW(self.fp32_partitioned_groups_flat, lr=0.1)
        self.moved: list[str] = []

    def step(self) -> None:
        for flat in self.fp32_partitioned_groups_flat:
            flat.grad = torch.ones_like(flat)
        self.optimizer.step()

    def states(self) -> list[dict[str, Tensor]]:
        return [{"weights": flat.detach(), **self.optimizer.state[flat]} for flat in self.fp32_partitioned_groups_flat]

    def _partition_all_parameters(self) -> None:
        self.moved.append("partitioned")

    def _swappable_optimizer_subgroup(self, number: int) -> bool:
        return number == 0

    def _optimizer_states_and_gradient_swap_in(self, number: int) -> None:
        self.moved.append(f"in {number}")

    def _optimizer_states_and_gradient_swap_out(self, number: int) -> None:
        self.moved.append(f"out {number}")

    def _release_swap_buffers(self, number: int) -> None:
        self.moved.append(f"let go {number}")

    def _reassign_or_swap_out_partitioned_parameters(self, number: int) -> None:
        self.moved.append(f"reassigned {number}")

    def _post_step(self, timers: set[str]) -> None:
        self.moved.append("done")


def module() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))


def test_all_parts_make_up_the_whole_again(tmp_path: Path) -> None:
    whole = module()
    for rank in range(TRAINERS):
        save_states(Zero(whole, trainer_rank=rank), whole, tmp_path / "zero", trainer_rank=rank)
    read = consolidate(tmp_path)
    assert read.keys() == whole.state_dict().keys()
    assert all(torch.equal(read[name], value) for name, value in whole.state_dict().items())


def test_a_fresh_engine_takes_up_weights_states_and_steps(tmp_path: Path) -> None:
    base = module()
    trained = Zero(base, trainer_rank=0)
    trained.step()
    trained.optimizer.state[trained.fp32_partitioned_groups_flat[1]]["step"] = 1  # as DeepSpeed's CPU Adam has it
    save_states(trained, base, tmp_path, trainer_rank=0)
    assert trained.moved == ["in 0", "let go 0"]
    fresh = Zero(module(), trainer_rank=0)
    load_states(fresh, tmp_path, trainer_rank=0, num_trainers=1)
    assert fresh.moved == ["partitioned", "in 0", "reassigned 0", "out 0", "reassigned 1", "done"]
    for found, expected in zip(fresh.states(), trained.states(), strict=True):
        assert found.keys() == expected.keys() == {"weights", "step", "exp_avg", "exp_avg_sq"}
        assert type(found["step"]) is type(expected["step"])
        assert all(torch.equal(torch.as_tensor(found[name]), torch.as_tensor(expected[name])) for name in expected)


def test_parts_of_another_number_of_trainers_are_refused(tmp_path: Path) -> None:
    whole = module()
    save_states(Zero(whole, trainer_rank=0), whole, tmp_path, trainer_rank=0)
    with pytest.raises(
        CheckpointError, match="has weights of 1 trainers on disk, and this run has 2: .*; resume with 1"
    ):
        load_states(Zero(whole, trainer_rank=1), tmp_path, trainer_rank=1, num_trainers=2)


def test_a_full_disk_is_an_error_of_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """safetensors would raise its own, which nobody takes for one."""

    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(disk_states, "write_durably", full)
    whole = module()
    with pytest.raises(OSError, match=r"No space left on device: .*zero/states-00000-00000.safetensors"):
        save_states(Zero(whole, trainer_rank=0), whole, tmp_path / "zero", trainer_rank=0)
