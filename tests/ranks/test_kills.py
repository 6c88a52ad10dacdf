"""kill -9 of any process of a run, at any moment, also in the middle of a save: resumed until it ends, it ends as the
run that nobody touched. Nothing is left behind, and nobody outlives a death by long."""

import contextlib
import json
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
from realm_ds.observe.sinks import last_of_each_step, metrics_path, read_events
from realm_ds.train.checkpoint import find
from realm_ds.train.manifest import saved_steps
from tests.support.consolidated import consolidate
from tests.support.tiny import make_data, tiny_config
from tests.support.worlds import marked, sweep, world_environment

KILLS, SEED = int(os.environ.get("REALM_TEST_KILLS", "10")), 20020809
MOST_NEW_STEPS = 2
"""After so many a run is killed, whatever its moment: none gets so far that there is nothing left for the others."""
STEPS = KILLS * (MOST_NEW_STEPS + 1) + 2
"""One more each, as we may look late."""
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
        self.saved_before = self.last_saved()
        command = [sys.executable, "-m", "realm_ds", "pretrain", "--config", str(self.folder / "config.yaml")]
        command += ["--run", str(self.folder), *(["--resume"] if self.resume else [])]
        with (self.folder / "console.log").open("ab") as console:
            self.launcher = subprocess.Popen(
                command, env=world_environment(self.marker, {}), stdin=subprocess.DEVNULL, stdout=console,
                stderr=subprocess.STDOUT, process_group=0,
            )  # fmt: skip

    def last_saved(self) -> int:
        return max(saved_steps(self.folder), default=0)

    def is_saving(self) -> bool:
        return any((self.folder / "checkpoints").glob("unfinished-*"))

    def wait_until(self, is_time: Callable[[], bool], *, timeout_s: float = 400.0) -> bool:
        """Whether that came before the end of the run."""
        while self.launcher.poll() is None and not is_time():
            assert time.monotonic() - self.started_at < timeout_s, "neither the moment came nor the end"
            time.sleep(POLL_S)
        return self.launcher.poll() is None

    def kill(self, chance: random.Random) -> str:
        """Kill the launcher or a rank; says which."""
        victims, own = [("launcher", self.launcher.pid)], marked(self.marker)
        for path in sorted((self.folder / "ranks").glob("*.json")):
            with contextlib.suppress(FileNotFoundError):  # Of the world before: the launcher removes them.
                rank = json.loads(path.read_text())
                # A pid that the world before had may be a stranger's by now.
                victims += [(f"{rank['role']} {rank['role_rank']}", rank["pid"])] if rank["pid"] in own else []
        name, pid = chance.choice(victims)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        return name

    def end(self, *, patience_s: float) -> None:
        """Waits until nothing of it lives; fails if something stays."""
        deadline = time.monotonic() + patience_s
        while (self.launcher.poll() is None or marked(self.marker)) and time.monotonic() < deadline:
            time.sleep(POLL_S)
        left = sweep(self.marker, patience_s=0.0)
        self.launcher.wait()
        assert not left, f"{patience_s:g} s later there was still {list(left.values())}"


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How fast a run is on this machine."""

    first_s: float
    """From its start until a step is saved."""
    step_s: float
    save_s: float
    """Of that, at least so long there was an unfinished checkpoint."""


def pace_of(world: World) -> Pace:
    """Measured until the end of a run that nobody disturbs."""
    saved_at: dict[int, float] = {}
    saving_at: list[float] = []

    def look() -> bool:
        now = time.monotonic()
        saved_at.setdefault(world.last_saved(), now)
        if world.is_saving():
            saving_at.append(now)
        return False

    assert not world.wait_until(look)
    first_at, last_at = saved_at[min(saved_at.keys() - {0})], saved_at[max(saved_at)]
    return Pace(
        first_s=first_at - world.started_at,
        step_s=(last_at - first_at) / (STEPS - 1),
        save_s=POLL_S * len(saving_at) / STEPS,
    )


def moment(world: World, kind: str, pace: Pace, chance: random.Random) -> Callable[[], bool]:
    """Whether it has come."""
    share = chance.random()
    came_at: list[float] = []

    def has_come() -> bool:
        now, new_steps = time.monotonic(), world.last_saved() - world.saved_before
        if kind == "at the start":
            return new_steps > 0 or now - world.started_at > share * pace.first_s
        # Each world gets one step further, so that runs go on from many checkpoints rather than begin again and again.
        if not came_at and new_steps > 0 and (kind == "after a step" or world.is_saving()):
            came_at.append(now)
        delay_s = share * (pace.save_s if kind == "in a save" else pace.step_s)
        return new_steps >= MOST_NEW_STEPS or (bool(came_at) and now - came_at[0] > delay_s)

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


def test_a_run_killed_at_random_moments_ends_as_one_never_stopped(data: Path, tmp_path: Path) -> None:
    whole, killed, chance = new_run(tmp_path / "whole", data), new_run(tmp_path / "killed", data), random.Random(SEED)
    undisturbed = World(whole, resume=False)
    pace = pace_of(undisturbed)
    undisturbed.end(patience_s=5.0)
    said = []
    for number in range(KILLS):
        kind = MOMENTS[number % len(MOMENTS)]
        world = World(killed, resume=number > 0)
        if not world.wait_until(moment(world, kind, pace, chance)):
            said.append(f"{kind}: it ended before")
            break
        victim, killed_at, half = world.kill(chance), time.monotonic(), " and half of the next" * world.is_saving()
        world.end(patience_s=LONGEST_DEATH_S)
        took_s = time.monotonic() - killed_at
        said.append(
            f"{kind}: {victim} killed with step {world.last_saved()}{half} saved, all dead {took_s:.2f} s later"
        )
    print(f"seed {SEED}, {pace}:", *said, sep="\n  ")
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
