"""A sealed folder is there whole or not at all, whoever of those who write it finds the disk full."""

import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from realm_ds.errors import CheckpointError, ConfigError, IndexFault
from realm_ds.index.faiss_index import write_flat
from realm_ds.index.store import IndexStore
from realm_ds.sealed import check, read_facts, recover_sealed, replace_file, sealed_folder
from tests.support.full_disk import no_file_longer_than

VECTORS_NP = np.ones((64, 64), dtype=np.float32)


def write(folder: Path, *, step: int) -> None:
    with sealed_folder(folder, what="the models", remedy="free space there", kind="export", step=step) as unfinished:
        (unfinished / "step").write_text(str(step))


def test_a_folder_replaces_its_like_and_nothing_else(tmp_path: Path) -> None:
    final = tmp_path / "deep" / "models"
    for step in (3, 4):
        recover_sealed(final, what="export of steps", kind="export")
        write(final, step=step)
        assert (check(final)["step"], (final / "step").read_text()) == (step, str(step))
    recover_sealed(final, what="export of steps", kind="export", step=4)
    with pytest.raises(
        ConfigError, match=r"models is there and is no export of steps, so it is not overwritten: name another folder"
    ):
        recover_sealed(final, what="export of steps", kind="export", step=5)
    final.rename(final.with_name("replaced-models"))  # a stop between two names
    recover_sealed(final, what="export of steps", kind="export")
    assert [path.name for path in final.parent.iterdir()] == ["models"]


def save_weights(folder: Path) -> None:
    save_file({"w": torch.from_numpy(VECTORS_NP)}, folder / "w.safetensors")


def save_vectors(folder: Path) -> None:
    IndexStore(folder, corpus_sha256="").save(VECTORS_NP, version=0, snapshot_sha256="", start=0)


def save_for_faiss(folder: Path) -> None:
    write_flat([VECTORS_NP], folder / "index.faiss", width=64)


@pytest.mark.parametrize("save", [save_weights, save_vectors, save_for_faiss])
def test_a_full_disk_is_one_error_and_leaves_what_was_there(tmp_path: Path, save: Callable[[Path], None]) -> None:
    final = tmp_path / "models"
    write(final, step=1)
    message = r"^cannot write the models to .*/models \(.*(File too large|write error).*\): free space there$"
    with (
        no_file_longer_than(1_000),
        pytest.raises(CheckpointError, match=message),
        sealed_folder(final, what="the models", remedy="free space there", kind="export", step=2) as unfinished,
    ):
        save(unfinished)
    assert read_facts(final)["step"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["models"]


def test_what_has_nothing_to_do_with_the_disk_is_told_as_it_is(tmp_path: Path) -> None:
    with (
        pytest.raises(IndexFault, match="^no numbers$"),
        sealed_folder(tmp_path / "models", what="the models", remedy="free space there"),
    ):
        raise IndexFault("no numbers")
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_left_is_removed_by_the_next_and_that_of_a_running_one_is_not(tmp_path: Path) -> None:
    """A number that no process has here may be one of another host, which shares the folder."""
    final, here = tmp_path / "models[1]", socket.gethostname()
    killed = subprocess.Popen(["true"])
    killed.wait()
    left, runs, elsewhere, others = (tmp_path / f"{name}.tmp-{process}@{host}" for name, process, host in (
        (final.name, killed.pid, here), (final.name, os.getppid(), here), (final.name, killed.pid, f"not-{here}"),
        ("models1", killed.pid, here),
    ))  # fmt: skip
    for folder in (left, runs, elsewhere, others):
        (folder / "part").mkdir(parents=True)
    write(final, step=1)
    assert sorted(tmp_path.iterdir()) == sorted([final, runs, elsewhere, others])


def test_a_file_with_another_text_is_whole_again(tmp_path: Path) -> None:
    write(tmp_path / "models", step=1)
    replace_file(tmp_path / "models", "step", "two")
    assert check(tmp_path / "models")["step"] == 1
    assert (tmp_path / "models" / "step").read_text() == "two"
