"""What is done after each step, in which order, and when a run is asked to end. Engine and files are stand-ins."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from realm_ds.comm.trainers import Trainers
from realm_ds.comm.world import singleton
from realm_ds.config.stages import IctConfig
from realm_ds.models.objectives import Measures
from realm_ds.train import checkpoint, loop
from realm_ds.train.loop import Ending, StepInfo, run_steps
from realm_ds.train.timing import StepTimer
from realm_ds.train.writer import Writer
from tests.support.tiny import tiny_config

STEPS = IctConfig(steps=6, micro_batch_size=2, save_every_steps=2, log_every_steps=5)


class Run:
    """Steps that train nothing; `done` is what happened, in order."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, *, asked_at: int | None = None) -> None:
        self.done: list[str] = []
        self.settings_read, self.step, self.asked_at = 0, 0, asked_at
        self.folder = folder
        monkeypatch.setattr(checkpoint, "save", self.on_save)
        monkeypatch.setattr(loop, "Workload", lambda *_, **__: self)
        self.peak_flops = 1e12

    def drain(self, seconds: float) -> dict[str, float]:
        return {"tokens_per_s": 1.0, "mfu": 0.5}

    def write(self, event: str, **values: Any) -> None:
        self.done += [f"row {values['step']}"] if event == "step" else []

    def on_save(self, *_: object, state: checkpoint.TrainState, **__: object) -> None:
        assert state.fixed == {"read": "1"}
        self.done.append(f"save {state.step}")

    def fixed_settings(self, name: str) -> dict[str, str]:
        self.settings_read += 1
        return {"read": str(self.settings_read)}

    def infos(self) -> Iterator[StepInfo]:
        for self.step in range(1, STEPS.steps + 1):
            yield StepInfo(step=self.step, streams={}, measures=[Measures(torch.zeros(()), {"loss": (1.0, 1.0)})])

    def run(self, evaluate: Callable[[int], None] | None = None) -> Ending:
        writer = Writer(timeout_s=5)
        stage: Any = SimpleNamespace(
            sinks=self, timer=StepTimer(), trainers=Trainers(singleton()), device=torch.device("cpu"),
            pulse=SimpleNamespace(step_done=lambda step: None, steps_over=lambda: None), writer=writer,
            must_leave=lambda: self.step == self.asked_at, fixed_settings=self.fixed_settings, folder=self.folder,
            config=tiny_config(self.folder),
        )  # fmt: skip
        engine: Any = SimpleNamespace(
            module=None, stage=STEPS, zero_stage=2, is_on_disk=False, compute_dtype=torch.float32,
            groups=list, facts=dict,
        )  # fmt: skip
        ending = run_steps(
            self.infos(), name="ict", stage=stage, engine=engine, settings=STEPS, first_step=0, evaluate=evaluate
        )  # fmt: skip
        writer.close()
        return ending

    def evaluate(self, step: int) -> None:
        self.done.append(f"evaluate {step}")


def test_rows_evaluations_and_checkpoints_of_a_whole_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path, monkeypatch)
    assert run.run(run.evaluate) == Ending(step=6, is_early=False)
    assert run.done == [
        "row 1", "evaluate 1", "evaluate 2", "save 2", "evaluate 3", "evaluate 4", "save 4", "row 5", "evaluate 5",
        "row 6", "evaluate 6", "save 6",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("asked_at", "done"),
    [(1, ["row 1", "save 1"]), (3, ["row 3", "save 3"]), (4, ["row 4", "save 4"]), (5, ["row 5", "save 5"])],
)
def test_who_is_asked_to_end_writes_its_row_and_checkpoint_and_evaluates_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked_at: int, done: list[str]
) -> None:
    """Batch systems give a minute or so."""
    run = Run(tmp_path, monkeypatch, asked_at=asked_at)
    assert run.run(run.evaluate) == Ending(step=asked_at, is_early=True)
    assert run.done[-2:] == done
    assert f"evaluate {asked_at}" not in run.done


def test_in_its_last_step_a_run_does_all_that_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path, monkeypatch, asked_at=STEPS.steps)
    assert run.run(run.evaluate) == Ending(step=6, is_early=False)
    assert run.done[-3:] == ["row 6", "evaluate 6", "save 6"]
