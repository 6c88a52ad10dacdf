"""kill -9 of any process of a run, at any moment, also in the middle of a save: resumed until it ends, it ends as the
run that nobody touched. Nothing is left behind, and nobody outlives a death by long."""

import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from realm_ds.config.load import dump
from realm_ds.launch.failures import _read_all
from realm_ds.observe.sinks import last_of_each_step, metrics_path, read_events
from realm_ds.train.checkpoint import find
from realm_ds.train.engine import consolidate
from realm_ds.train.manifest import saved_steps
from tests.support.tiny import make_data, tiny_config
from tests.support.worlds import _environment, _sweep, marked

KILLS, STEPS, SEED = 10, 12, 20020809
LONGEST_DEATH_S = 30.0
COMPARED = ("step", "loss", "retrieval_utility", "version", "retrieved_crc32")
MOMENTS = ("in a save", "after a step", "at the start")
POLL_S = 0.005


@dataclass
class World:
    """A run's launcher, and what it started."""

    folder: Path
    resume: bool

    def __post_init__(self) -> None:
        self.marker, self.started_at = uuid.uuid4().hex, time.monotonic()
        self.saved_before = saved_steps(self.folder)[-1:]
        command = [sys.executable, "-m", "realm_ds", "pretrain", "--config", str(self.folder / "config.yaml")]
        command += ["--run", str(self.folder), *(["--resume"] if self.resume else [])]
        with (self.folder / "console.log").open("ab") as console:
            self.launcher = subprocess.Popen(
                command, env=_environment(self.marker, {}), stdin=subprocess.DEVNULL, stdout=console,
                stderr=subprocess.STDOUT, process_group=0,
            )  # fmt: skip

    def wait_until(self, is_time: Callable[[], bool], *, timeout_s: float = 400.0) -> bool:
        """Whether that came before the end of the run."""
        while self.launcher.poll() is None and not is_time():
            assert time.monotonic() - self.started_at < timeout_s, "neither the moment came nor the end"
            time.sleep(POLL_S)
        return self.launcher.poll() is None

    def kill(self, chance: random.Random) -> str:
        """Kill the launcher or a rank; says which."""
        ranks = [rank for rank in _read_all(self.folder / "ranks") if Path(f"/proc/{rank['pid']}").exists()]
        victims = [("launcher", self.launcher.pid)]
        victims += [(f"{rank['role']} {rank['role_rank']}", rank["pid"]) for rank in ranks]
        name, pid = chance.choice(victims)
        os.kill(pid, signal.SIGKILL)
        return name

    def end(self, *, patience_s: float) -> None:
        """Waits until nothing of it lives; fails if something stays."""
        deadline = time.monotonic() + patience_s
        while (self.launcher.poll() is None or marked(self.marker)) and time.monotonic() < deadline:
            time.sleep(POLL_S)
        left = _sweep(self.marker, patience_s=0.0)
        self.launcher.wait()
        assert not left, f"{patience_s:g} s later there was still {list(left.values())}"


def moment(world: World, kind: str, chance: random.Random) -> Callable[[], bool]:
    """Whether it has come."""
    delay_s = chance.uniform(0.0, 0.1)
    came_at: list[float] = []

    def has_come() -> bool:
        if kind == "at the start":
            return time.monotonic() - world.started_at > 50 * delay_s
        # Each world gets one step further, so that runs go on from many checkpoints rather than begin again and again.
        if not came_at and saved_steps(world.folder)[-1:] != world.saved_before:
            is_saving = any((world.folder / "checkpoints").glob("unfinished-*"))
            if is_saving or kind == "after a step":
                came_at.append(time.monotonic())
        # A save of so small a model is over in some 0.05 s.
        return bool(came_at) and time.monotonic() - came_at[0] > (delay_s / 4 if kind == "in a save" else 3 * delay_s)

    return has_come


def outcome(folder: Path) -> tuple[list[tuple[object, ...]], dict[str, torch.Tensor]]:
    """The losses and candidates of every step of both trainers, and the weights in the end."""
    rows = []
    for rank in (0, 1):
        steps = last_of_each_step(read_events(metrics_path(folder, role="trainer", role_rank=rank), event="step"))
        rows += [tuple(row[name] for name in COMPARED) for row in steps]
    return rows, consolidate(find(folder, STEPS))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make_data(folder)
    return folder


def new_run(folder: Path, data: Path) -> Path:
    folder.mkdir()
    config = tiny_config(
        data, **{"pretrain.steps": STEPS, "pretrain.save_every_steps": 1, "index.num_shards": 1, "runtime.keep_last": 3}
    )
    (folder / "config.yaml").write_text(dump(config))
    return folder


def test_a_run_killed_at_ten_moments_ends_as_one_never_stopped(data: Path, tmp_path: Path) -> None:
    whole, killed, chance = new_run(tmp_path / "whole", data), new_run(tmp_path / "killed", data), random.Random(SEED)
    undisturbed = World(whole, resume=False)
    assert not undisturbed.wait_until(lambda: False)
    undisturbed.end(patience_s=5.0)
    said = []
    for number in range(KILLS):
        kind = MOMENTS[number % len(MOMENTS)]
        world = World(killed, resume=number > 0)
        if not world.wait_until(moment(world, kind, chance)):
            said.append(f"{kind}: it ended before")
            break
        victim, at_step, killed_at = world.kill(chance), saved_steps(killed)[-1:], time.monotonic()
        world.end(patience_s=LONGEST_DEATH_S)
        took_s = time.monotonic() - killed_at
        said.append(f"{kind}: {victim} killed with step {at_step} saved, all dead {took_s:.2f} s later")
    print(f"seed {SEED}:", *said, sep="\n  ")
    last = World(killed, resume=True)
    assert not last.wait_until(lambda: False)
    last.end(patience_s=5.0)
    assert last.launcher.returncode == 0, f"{said}\n{(killed / 'console.log').read_text()[-3000:]}"
    assert len(said) == KILLS, said
    (rows, weights), (expected_rows, expected_weights) = outcome(killed), outcome(whole)
    assert rows == expected_rows, said
    assert len(rows) == 2 * STEPS
    assert weights.keys() == expected_weights.keys()
    assert all(torch.equal(weights[name], value) for name, value in expected_weights.items()), said
    assert saved_steps(killed) == saved_steps(whole) == [STEPS - 2, STEPS - 1, STEPS]
    assert [path.name for path in (killed / "checkpoints").iterdir() if path.name.startswith("unfinished")] == []
