"""Weights and optimizer states on a disk: trained, saved, consolidated and gone on with as in memory."""

import json
import os
from pathlib import Path

import pytest

from tests.ranks.programs import nvme
from tests.support.worlds import run_ranks

EXTENSIONS = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or Path.home() / ".cache" / "torch_extensions")


@pytest.mark.skipif(
    not list(EXTENSIONS.rglob("async_io.so")),
    reason="DeepSpeed's async_io is not built here; with libaio-dev, after six minutes of one core: "
    "python -c 'from realm_ds.train.engine import build_disk_operator as build; build()'",
)
def test_a_run_on_disk_trains_as_plain_pytorch_does(tmp_path: Path) -> None:
    outcome = run_ranks(nvme, processes=2, timeout_s=240, env={"REALM_NVME": str(tmp_path)})
    assert outcome.code == 0, outcome.output
    line = next(line for line in outcome.stdout.splitlines() if line.startswith("TOLD "))
    told = json.loads(line.removeprefix("TOLD "))
    assert told["nvme"] == pytest.approx(told["plain"], rel=2e-4)
    assert told["bytes"] > 2**20, "it all stayed in memory"
