"""Worlds started on this machine: how they end, what people read then, and that nothing of them stays behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from realm_ds.errors import LaunchError, Preempted
from realm_ds.launch.local import find_mpiexec, run_world, world_command
from realm_ds.observe.sinks import metrics_path, read_events
from realm_ds.tether import tagged

REPOSITORY = Path(__file__).parents[2]
ENV = {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
JOB = "tests.ranks.trivial_job"


def _run(mode: str, folder: Path, *, processes: int = 3, on_poll: Callable[[], None] | None = None, **options) -> str:
    """Runs a world; returns the failure's text, '' if there was none."""
    try:
        run_world(
            [mode, str(folder)], processes=processes, run_folder=folder, env=ENV, module=JOB, on_poll=on_poll, **options
        )
    except LaunchError as error:
        return str(error)
    return ""  # fmt: skip


@pytest.fixture
def nothing_left(monkeypatch: pytest.MonkeyPatch):
    """Fails the test if a process of the world that it starts is alive at its end."""
    tag = f"test-{os.getpid()}-{time.monotonic_ns()}"
    monkeypatch.setattr("realm_ds.launch.local.uuid.uuid4", lambda: type("Tag", (), {"hex": tag}))
    yield tag
    assert tagged(tag) == []


def _all_wait(folder: Path, processes: int) -> bool:
    return len(list(folder.glob("waiting-*"))) == processes


@pytest.mark.usefixtures("nothing_left")
def test_a_world_that_ends_well(tmp_path: Path) -> None:
    assert _run("well", tmp_path) == ""
    assert sorted((tmp_path / "logs" / "world.log").read_text().splitlines()) == [
        "index is here",
        "trainer is here",
        "trainer is here",
    ]
    ranks = [json.loads((tmp_path / "ranks" / f"{rank}.json").read_text()) for rank in range(3)]
    assert [(rank["role"], rank["role_rank"]) for rank in ranks] == [("trainer", 0), ("trainer", 1), ("index", 0)]
    assert (tmp_path / "logs" / "index-0.log").exists()
    joined, step = read_events(metrics_path(tmp_path, role="trainer", role_rank=1))
    assert (joined["event"], step["loss"]) == ("joined", 0.5)
    assert not list(tmp_path.glob("failures/*"))


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize(
    ("mode", "cause"),
    [
        ("data-error", "DataError: shard-00003.tar is damaged; make it again"),
        ("bug", "ValueError: boom"),
        ("killed", "killed by SIGKILL: if nobody did that, the machine ran out of memory"),
        ("crashed", "crashed with SIGABRT: the stacks are at the end of its log"),
    ],
)  # fmt: skip
def test_the_first_death_is_the_cause(tmp_path: Path, mode: str, cause: str) -> None:
    started_at = time.monotonic()
    text = _run(mode, tmp_path)
    assert time.monotonic() - started_at < 30
    assert text.startswith("trainer 1 (world rank 1 on ")
    assert f"): {cause}" in text
    assert "\n" not in text
    assert [path.name for path in (tmp_path / "failures").iterdir()] == ["1.json"]


@pytest.mark.usefixtures("nothing_left")
def test_a_full_disk_is_named(tmp_path: Path) -> None:
    full = metrics_path(tmp_path, role="trainer", role_rank=1)
    full.parent.mkdir()
    full.symlink_to("/dev/full")
    text = _run("waits", tmp_path)
    assert f"the disk is full, {full} could not be written: free some space, then go on with --resume" in text


@pytest.mark.usefixtures("nothing_left")
def test_a_bugs_traceback_is_in_the_log_and_one_line_on_the_console(tmp_path: Path) -> None:
    _run("bug", tmp_path)
    said = (tmp_path / "logs" / "world.log").read_text()
    log = (tmp_path / "logs" / "trainer-1.log").read_text()
    assert 'raise ValueError("boom")' in log
    assert "[trainer 1] ValueError: boom" in said.splitlines()
    assert "Traceback" not in said


@pytest.mark.usefixtures("nothing_left")
def test_a_failure_before_roles_are_known(tmp_path: Path) -> None:
    text = _run("fail-before-joining", tmp_path)
    assert text.startswith("a process on ")
    assert "had no role yet" in text
    assert "DataError: corpus /none is absent; make it" in text


@pytest.mark.usefixtures("nothing_left")
def test_an_exit_without_a_word(tmp_path: Path) -> None:
    text = _run("exits", tmp_path)
    assert "none told why" in text
    assert "is here" in text
    assert str(tmp_path / "logs" / "world.log") in text


@pytest.mark.usefixtures("nothing_left")
def test_old_failures_are_not_taken_for_new_ones(tmp_path: Path) -> None:
    assert "boom" in _run("bug", tmp_path)
    assert _run("well", tmp_path) == ""
    assert not list(tmp_path.glob("failures/*"))


@pytest.mark.usefixtures("nothing_left")
def test_an_error_in_the_caller_ends_the_world(tmp_path: Path) -> None:
    def fail_when_all_wait() -> None:
        if _all_wait(tmp_path, 3):
            raise RuntimeError("the display broke")

    with pytest.raises(RuntimeError, match="the display broke"):
        _run("waits", tmp_path, on_poll=fail_when_all_wait)


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize(("mode", "at_most_s"), [("waits", 8.0), ("stubborn", 9.0)])
def test_ctrl_c_leaves_nothing(tmp_path: Path, mode: str, at_most_s: float) -> None:
    pressed: list[float] = []

    def press_when_all_wait() -> None:
        if _all_wait(tmp_path, 3) and not pressed:
            pressed.append(time.monotonic())
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        _run(mode, tmp_path, on_poll=press_when_all_wait, grace_s=1.0)
    assert time.monotonic() - pressed[0] < at_most_s
    assert not list(tmp_path.glob("failures/*"))


@pytest.mark.usefixtures("nothing_left")
def test_sigterm_lets_ranks_save_and_end(tmp_path: Path) -> None:
    sent: list[bool] = []

    def send_when_all_wait() -> None:
        if _all_wait(tmp_path, 2) and not sent:
            sent.append(True)
            signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    assert _run("saves", tmp_path, processes=2, on_poll=send_when_all_wait) == ""
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_world_that_was_asked_to_end_is_preempted(tmp_path: Path, number: signal.Signals) -> None:
    sent: list[bool] = []

    def send_when_all_wait() -> None:
        if _all_wait(tmp_path, 3) and not sent:
            sent.append(True)
            signal.raise_signal(number)

    with pytest.raises(Preempted, match="^asked to end: checkpoint of step 3 is written in .*; go on with --resume$"):
        _run("leaves", tmp_path, on_poll=send_when_all_wait)
    assert "BAD TERMINATION" not in (tmp_path / "logs" / "world.log").read_text()
    assert not (tmp_path / "failures").exists()


@pytest.mark.usefixtures("nothing_left")
def test_a_second_sigterm_ends_ranks_that_do_not(tmp_path: Path) -> None:
    def send_when_all_wait() -> None:
        if _all_wait(tmp_path, 2):
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        _run("deaf", tmp_path, processes=2, on_poll=send_when_all_wait, grace_s=0.5)


def test_a_killed_parent_takes_its_world_along(tmp_path: Path, nothing_left: str) -> None:
    program = (
        "import sys; from pathlib import Path; from realm_ds.launch import local;"
        f"local.uuid.uuid4 = lambda: type('Tag', (), {{'hex': {nothing_left!r}}});"
        f"folder = {str(tmp_path)!r};"
        f"local.run_world(['waits', folder], processes=3, run_folder=Path(folder), module={JOB!r})"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], env={**os.environ, **ENV})
    deadline = time.monotonic() + 30
    while not _all_wait(tmp_path, 3) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(tagged(nothing_left)) > 3
    parent.kill()
    parent.wait()
    while tagged(nothing_left) and time.monotonic() < deadline:
        time.sleep(0.05)


def test_the_command_line_is_one_that_people_can_run() -> None:
    command = world_command(["pretrain", "--run", "runs/a"], processes=4)
    assert command == [find_mpiexec(), "-n", "4", sys.executable, "-m", "mpi4py", "-m", "realm_ds", "pretrain", "--run", "runs/a"]  # fmt: skip # noqa: E501


def test_no_mpiexec_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("realm_ds.launch.local.sys.executable", "/nowhere/python")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(LaunchError, match="no mpiexec beside /nowhere/python or on PATH: pip install mpich"):
        find_mpiexec()
