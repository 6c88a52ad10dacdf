"""Resuming under every ZeRO stage: bit by bit in the layout that wrote the checkpoint, within rounding in another."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.ranks.programs import layouts
from tests.support.worlds import run_ranks


def seen(folder: Path, mode: str, *, processes: int) -> dict[str, Any]:
    env = {"LAYOUTS_FOLDER": str(folder), "LAYOUTS_MODE": mode}
    outcome = run_ranks(layouts, processes=processes, timeout_s=240, env=env)
    assert outcome.code == 0, outcome.output
    line = next(line for line in outcome.stdout.splitlines() if line.startswith("SEEN "))
    found: dict[str, Any] = json.loads(line.removeprefix("SEEN "))
    assert len(found) == len(layouts.RUNS)
    return found


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("layouts")
    return folder, seen(folder, "write", processes=2)


def test_the_same_layout_goes_on_bit_by_bit(written: tuple[Path, dict[str, Any]]) -> None:
    """With gradient accumulation: losses of the next steps, and all weights after them."""
    for name, run in written[1].items():
        assert run["resumed"] == run["losses"][layouts.SAVED_AT :], name
        assert run["is_same"], name
        assert len(set(run["decays"])) == 2, name


@pytest.mark.parametrize("trainers", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_another_number_of_trainers_goes_on_within_rounding(
    written: tuple[Path, dict[str, Any]], trainers: int
) -> None:
    folder, before = written
    for name, run in seen(folder, "go on", processes=trainers).items():
        expected = before[name]["losses"][layouts.SAVED_AT :]
        assert run["losses"] == pytest.approx(expected, rel=2e-4 if name.endswith("bf16") else 2e-6), name
        assert run["decays"] == before[name]["decays"], name
        if name.startswith("zero3"):
            # What mend_groups is for. Once DeepSpeed does it itself, this says so.
            assert run["as_loaded"]["decays"] == before[name]["decays"][:1] * 4, name
        if name == "zero3-adamw-fp32":  # It alone counts its steps.
            assert run["as_loaded"]["losses"] != pytest.approx(expected, rel=1e-4), name
