"""Whole weights from shards: as before they were cut, as DeepSpeed's own script has them, in little memory."""

import json
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
import torch
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

from realm_ds.errors import CheckpointError
from realm_ds.train import consolidate as module
from realm_ds.train.consolidate import consolidate_into, weight_shapes
from tests.support.consolidated import consolidate
from tests.support.zero_shards import write_shards

SHAPES = [{"model.a": (5, 7), "model.b": (3,), "model.c": (1,)}, {"model.d": (11,), "model.e": (4, 4, 2)}]


def drawn() -> list[dict[str, torch.Tensor]]:
    torch.manual_seed(1)
    return [{name: torch.randn(shape) for name, shape in group.items()} for group in SHAPES]


@pytest.mark.parametrize("num_trainers", [1, 2, 4, 11])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("at_once", [3, 1000])
def test_the_whole_is_what_was_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: int, num_trainers: int, at_once: int
) -> None:
    """More trainers than a weight has elements, pieces smaller than a weight."""
    monkeypatch.setattr(module, "_ELEMENTS_AT_ONCE", at_once)
    groups = drawn()
    whole = {name: value for group in groups for name, value in group.items()}
    write_shards(tmp_path, groups, stage=stage, num_trainers=num_trainers)
    read = consolidate(tmp_path)
    assert read.keys() == whole.keys()
    assert all(torch.equal(read[name], value) for name, value in whole.items())
    if stage:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            theirs = get_fp32_state_dict_from_zero_checkpoint(str(tmp_path), tag="zero")
        assert all(torch.equal(read[name], value) for name, value in theirs.items())


def test_other_names_are_left_alone(tmp_path: Path) -> None:
    groups = drawn()
    write_shards(tmp_path, groups, stage=2, num_trainers=2)
    assert weight_shapes(tmp_path)["model.a"] == (5, 7)
    wanted = {"model.d": torch.zeros(11), "other": torch.zeros(2)}
    consolidate_into(wanted, tmp_path)
    assert torch.equal(wanted["model.d"], groups[1]["model.d"])
    assert not wanted["other"].any()


def test_shards_that_are_missing_or_broken_are_told(tmp_path: Path) -> None:
    write_shards(tmp_path, drawn(), stage=2, num_trainers=3)
    zero = tmp_path / "zero"
    with pytest.raises(CheckpointError, match=r"size mismatch for model.b, \(3,\) in the checkpoint and \(4,\)"):
        consolidate_into({"model.b": torch.zeros(4)}, tmp_path)
    (zero / "zero_pp_rank_2_mp_rank_00_optim_states.pt").unlink()
    with pytest.raises(CheckpointError, match=r"was written by 3 trainers, but has optimizer shards of 2: take"):
        consolidate(tmp_path)
    (zero / "zero_pp_rank_0_mp_rank_00_optim_states.pt").rename(zero / "zero_pp_rank_2_mp_rank_00_optim_states.pt")
    with pytest.raises(CheckpointError, match="zero has no optimizer shard of trainer 0: take another checkpoint"):
        consolidate(tmp_path)
    (zero / "mp_rank_00_model_states.pt").write_bytes(b"half a file")
    (zero / "zero_pp_rank_2_mp_rank_00_optim_states.pt").rename(zero / "zero_pp_rank_0_mp_rank_00_optim_states.pt")
    with pytest.raises(CheckpointError, match=r"cannot be consolidated \(.*\): name another with --step"):
        consolidate(tmp_path)


class Runs:
    """What a pickle must not be able to do."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("made of a shard's bytes",))


def test_nothing_is_made_of_a_shards_bytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_shards(tmp_path, drawn(), stage=1, num_trainers=1)
    path = tmp_path / "zero" / "zero_pp_rank_0_mp_rank_00_optim_states.pt"
    torch.save({**torch.load(path), "extra": Runs()}, path)
    with pytest.raises(CheckpointError, match="cannot be consolidated"):
        consolidate(tmp_path)
    assert capsys.readouterr().out == ""


MEASURE = """
import json, resource, sys
from pathlib import Path
import torch
from tests.support.consolidated import consolidate
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak()
weights = consolidate(Path(sys.argv[1]))
print(json.dumps([peak() - before, sum(value.nbytes for value in weights.values())]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "num_trainers"), [(0, 1), (1, 1), (2, 4), (3, 4)])
def test_memory_is_that_of_the_weights(tmp_path: Path, stage: int, num_trainers: int) -> None:
    """A hundred million weights; optimizer states twice as large as they lie in the same files."""
    group = {f"model.{number}": torch.ones(2500, 4000) for number in range(10)}
    write_shards(tmp_path, [group], stage=stage, num_trainers=num_trainers)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path)], capture_output=True, text=True, check=True, timeout=100
    )
    grown, size = json.loads(done.stdout.splitlines()[-1])
    assert size == 4 * 10**8
    assert grown <= 1.15 * size, f"{grown / size:.2f} times the weights"
