"""Files of weights go into tensors that are there, piece by piece, or say what is wrong."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from realm_ds.errors import CheckpointError
from realm_ds.models import weights as module
from realm_ds.models.weights import read_into


@pytest.mark.parametrize("piece_bytes", [1, 100, 2**20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_all_of_a_file_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece_bytes: int, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(module, "PIECE_BYTES", piece_bytes)
    written = {"a": torch.randn(7, 5).to(dtype), "b": torch.randn(3).to(dtype), "c": torch.randn(2, 3, 4).to(dtype)}
    save_file(written, tmp_path / "x")
    own = {name: torch.full(value.shape, torch.nan) for name, value in written.items()}
    read_into(own, tmp_path / "x")
    assert all(torch.equal(own[name], value.float()) for name, value in written.items())


def test_a_weight_of_two_names_is_there_once(tmp_path: Path) -> None:
    save_file({"embeddings": torch.ones(2, 2)}, tmp_path / "x")
    shared = torch.zeros(2, 2)
    read_into({"head": shared, "embeddings": shared}, tmp_path / "x")
    assert torch.equal(shared, torch.ones(2, 2))


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({name: torch.zeros(2) for name in "abc"}, "it lacks b and 1 more"),
        ({}, "it has a and 0 more"),
        ({"a": torch.zeros(3)}, r"a is \(2,\) there and \(3,\) here"),
    ],
)  # fmt: skip
def test_another_model_is_named(tmp_path: Path, own: dict[str, Tensor], message: str) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "x")
    with pytest.raises(CheckpointError, match=f"x was made with other model sizes: {message}"):
        read_into(own, tmp_path / "x")


def test_what_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"no weights")
    for name in ("x", "nothing"):
        with pytest.raises(CheckpointError, match=f"{name} cannot be read"):
            read_into({}, tmp_path / name)
