"""A run that offloads to a disk is told before any rank starts if this machine cannot."""

import subprocess
from pathlib import Path

import pytest

from realm_ds.errors import ConfigError
from realm_ds.launch import offload
from realm_ds.launch.offload import check_offload


def settings(folder: Path) -> dict:
    return {"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "nvme", "nvme_path": str(folder)}}}


def test_nothing_is_built_unless_a_disk_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("it was"))
    check_offload({"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu"}}})
    check_offload({})


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError) as caught:
        check_offload(settings(tmp_path / "file" / "below"))
    assert str(caught.value) == (
        f"zero_optimization.offload_optimizer.nvme_path={tmp_path}/file/below cannot be written (Not a directory): "
        "name a folder of yours"
    )


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (
            "raise RuntimeError('no libaio')",
            "is not to be had here (RuntimeError: no libaio): install libaio's headers",
        ),
        ("import time; time.sleep(60)", "took more than 0.5 s: if no other process builds it, one that was killed has"),
    ],
)
def test_an_operator_that_cannot_be_built_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, message: str
) -> None:
    monkeypatch.setattr(offload, "_BUILD", program)
    monkeypatch.setattr(offload, "BUILD_TIMEOUT_S", 0.5 if "sleep" in program else 60.0)
    with pytest.raises(ConfigError) as caught:
        check_offload(settings(tmp_path / "made"))
    assert message in str(caught.value)
    assert list((tmp_path / "made").iterdir()) == []


def test_an_operator_that_is_there_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offload, "_BUILD", "pass")
    check_offload(settings(tmp_path))
