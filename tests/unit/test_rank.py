"""Threads of a rank, and failures as sentences."""

import gc
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from realm_ds.errors import IndexFault
from realm_ds.launch.failures import (
    describe_death,
    describe_error,
    explain_end,
    forget_last_world,
    is_launcher_noise,
    record_death,
    record_error,
    record_rank,
)
from realm_ds.launch.rank import limit_threads, loading_libraries, pass_on_signals, threads_for_rank


@pytest.mark.parametrize(
    ("threads", "said", "expected"), [(0, None, 2), (0, "", 2), (0, "5", 5), (0, "0", 2), (3, "5", 3)]
)
def test_threads_of_a_rank(monkeypatch: pytest.MonkeyPatch, threads: int, said: str | None, expected: int) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if said is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert threads_for_rank(threads, ranks_here=4, cores=8) == expected


def test_more_ranks_than_cores_have_one_thread_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert threads_for_rank(0, ranks_here=4, cores=2) == 1


def test_a_signal_for_a_rank_that_has_just_ended_is_no_failure() -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        pass_on_signals(ended.pid)
        signal.raise_signal(signal.SIGUSR1)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_limits_reach_the_environment_and_a_loaded_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, "7")
    before = torch.get_num_threads()
    try:
        limit_threads(1)
        assert torch.get_num_threads() == 1
        assert os.environ["OMP_NUM_THREADS"] == "1"
    finally:
        torch.set_num_threads(before)


def test_libraries_are_no_garbage_and_looked_through_no_more() -> None:
    library: list[list[int]] = []

    def load() -> None:
        with loading_libraries():
            assert not gc.isenabled()
            library.append([])
            raise ImportError("no such library")

    gc.unfreeze()
    try:
        with pytest.raises(ImportError, match="no such"):
            load()
        assert gc.isenabled()
        assert not any(thing is library[0] for thing in gc.get_objects())  # those that are looked through
    finally:
        gc.unfreeze()
    assert any(thing is library[0] for thing in gc.get_objects())


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (IndexFault("shard 1 is late"), "IndexFault: shard 1 is late"),
        (OSError(28, "No space left on device", "a.npy"), "the disk is full, a.npy could not be written: free"),
        (OSError(28, "No space left on device"), "the disk is full, the run folder could not be written"),
        (FileNotFoundError(2, "No such file", "x"), "FileNotFoundError: [Errno 2] No such file: 'x'"),
        (ValueError("one\ntwo"), "ValueError: one two"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
    ],
)  # fmt: skip
def test_errors_as_one_line(error: BaseException, text: str) -> None:
    assert describe_error(error).startswith(text)
    assert "\n" not in describe_error(error)


def test_deaths_as_one_line() -> None:
    assert "ran out of memory" in describe_death(signal.SIGKILL)
    assert describe_death(signal.SIGSEGV).startswith("crashed with SIGSEGV")
    assert describe_death(signal.SIGTERM) == "ended by SIGTERM"


def test_the_earliest_failure_is_the_cause_and_a_death_after_it_changes_nothing(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "world.log"
    record_rank(tmp_path, world_rank=2, role="index", role_rank=0, host="node7")
    record_error(tmp_path, IndexFault("version 3 could not be built"), pid=os.getpid())
    record_death(tmp_path, signal.SIGKILL, pid=os.getpid())
    record_death(tmp_path, signal.SIGTERM, pid=99999999)
    text = explain_end(tmp_path, code=1, log=log)
    assert text == (
        "index 0 (world rank 2 on node7): IndexFault: version 3 could not be built; 1 more failed after it "
        f"(logs: {log.parent})"
    )
    record = json.loads((tmp_path / "failures" / "2.json").read_text())
    assert "IndexFault" in record["traceback"]
    forget_last_world(tmp_path)
    assert not list(tmp_path.glob("*/*.json"))


def test_without_a_record_the_last_words_count(tmp_path: Path) -> None:
    log = tmp_path / "world.log"
    log.write_text("cannot load libmpi.so\n\n====\n=   BAD TERMINATION OF ONE\n")
    text = explain_end(tmp_path, code=9, log=log)
    assert "exit code 9" in text
    assert "it said: cannot load libmpi.so" in text
    assert explain_end(tmp_path, code=9, log=tmp_path / "none").endswith(f"(all of it: {tmp_path / 'none'})")


def test_hydras_own_lines_are_known() -> None:
    assert is_launcher_noise("=   PID 7442 RUNNING AT vm")
    assert is_launcher_noise("[mpiexec@vm] Sending Ctrl-C to processes as requested")
    assert not is_launcher_noise("[trainer 0] step 3")


def test_a_full_disk_does_not_hide_the_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("realm_ds.launch.failures.write_durably", full)
    record = record_error(tmp_path, ValueError("boom"), pid=os.getpid())
    assert record["error"] == "ValueError: boom"
    assert "ValueError: boom (and no record of it" in capsys.readouterr().out
