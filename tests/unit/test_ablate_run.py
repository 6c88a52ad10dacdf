"""How the parts of a study are run: in which order, what of an earlier try stays, how it ends."""

import errno
import fcntl
import os
import shutil
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from realm_ds.ablate.parts import Command, Part
from realm_ds.ablate.run import Failure, Standing, facts_of, is_done, run_parts
from realm_ds.errors import ConfigError, Preempted
from realm_ds.observe.notice import Notice


def write_and_tell(command: Command) -> list[str]:
    """The command is a program: DONE names a file to write its other words into."""
    return [sys.executable, "-S", "-c", command[0], *command[1:]]


MAKE = "import sys, pathlib; p = pathlib.Path(sys.argv[1]); p.mkdir(parents=True, exist_ok=True); (p / 'made').touch()"
NOTE = "import sys; open(sys.argv[1], 'a').write(' '.join(sys.argv[2:]) + chr(10))"
FAIL = "import sys; print('realm-ds: out of cheese'); print(); sys.exit(3)"
LISTEN = (
    "import signal, sys, pathlib; signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path(sys.argv[2]).touch(), "
    "sys.exit(75))); pathlib.Path(sys.argv[1]).touch(); signal.pause()"
)

DEAF = (
    "import signal, sys, pathlib; signal.signal(signal.SIGTERM, signal.SIG_IGN); pathlib.Path(sys.argv[1]).touch(); "
    "signal.pause()"
)


def part(out: Path, name: str, *, needs: Sequence[str] = (), program: str = MAKE, **how: Any) -> Part:
    return Part(name=name, commands=((program, str(out / name)),), needs=tuple(needs), **how)


def run(parts: Sequence[Part], out: Path, *, jobs: int = 2, seen: list[list[str]] | None = None) -> list[Failure]:
    def on_change(standing: Standing) -> None:
        if seen is not None:
            seen.append(list(standing.working))

    return run_parts(
        parts, out=out, jobs=jobs, notice=Notice(), go_on="again", on_change=on_change, as_line=write_and_tell,
        sleep=lambda seconds: None,
    )  # fmt: skip


def test_parts_are_made_once_in_order_and_so_many_at_a_time(tmp_path: Path) -> None:
    parts = [part(tmp_path, "a"), part(tmp_path, "b"), part(tmp_path, "c"), part(tmp_path, "d", needs=["a", "b"])]
    seen: list[list[str]] = []
    assert run(parts, tmp_path, seen=seen) == []
    assert max(map(len, seen)) == 2
    assert all((tmp_path / one.name / "made").exists() and is_done(tmp_path, one) for one in parts)
    assert not any({"a", "d"} <= set(names) or {"b", "d"} <= set(names) for names in seen)
    seen.clear()
    run(parts, tmp_path, seen=seen)
    assert seen == []
    (tmp_path / "b/made").unlink()
    (tmp_path / "b").rmdir()  # who wants a part made again removes its folder
    run(parts, tmp_path, seen=seen)
    assert {name for names in seen for name in names} == {"b"}


def test_a_part_that_fails_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    parts = [
        part(tmp_path, "bad", program=FAIL), part(tmp_path, "needs-it", needs=["bad"]),
        part(tmp_path, "and-that", needs=["needs-it"]), part(tmp_path, "good"),
    ]  # fmt: skip
    failures = {failure.part: failure.why for failure in run(parts, tmp_path)}
    assert failures == {
        "bad": f"exit code 3: out of cheese ({tmp_path / 'parts/bad.log'})",
        "needs-it": "needs bad, which failed",
        "and-that": "needs needs-it, which failed",
    }
    assert is_done(tmp_path, parts[3])
    mended = [part(tmp_path, "bad"), *parts[1:]]
    assert run(mended, tmp_path) == []


def test_training_goes_on_from_its_checkpoint_and_what_only_prepares_begins_anew(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    checkpoint = tmp_path / "train/checkpoints/step-00000004"
    checkpoint.mkdir(parents=True)
    (checkpoint / "manifest.json").touch()
    (tmp_path / "data").mkdir()
    (tmp_path / "data/half").touch()
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/data.begun").touch()
    train = Part(name="train", stage="ict", commands=((NOTE, str(notes), "train"), (NOTE, str(notes), "export")))
    data = Part(name="data", commands=((MAKE, str(tmp_path / "data")),))
    assert run([data, train], tmp_path) == []
    assert notes.read_text() == "train --resume\nexport\n"
    assert not (tmp_path / "data/half").exists()


def test_what_nobody_needs_any_more_is_removed_and_counted(tmp_path: Path) -> None:
    for name, size in (("run/checkpoints/state", 1000), ("run/qa/dev.json", 10), ("first/export/weights", 100)):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(bytes(size))
    done = part(tmp_path, "run", stage="qa", leaves=("checkpoints",), releases=("first",))
    run([done], tmp_path)
    assert not (tmp_path / "run/checkpoints").exists()
    assert not (tmp_path / "first/export").exists()
    facts = facts_of(tmp_path, "run")
    assert (facts["kept_bytes"], facts["removed_bytes"]) == (10, 1000)
    # A kill between the mark and the removal: the next start removes.
    (tmp_path / "run/checkpoints").mkdir()
    run([done], tmp_path)
    assert not (tmp_path / "run/checkpoints").exists()


def test_what_was_removed_is_made_again_with_what_it_starts_from(tmp_path: Path) -> None:
    export = tmp_path / "first/export"
    parts = [
        Part(name="first", stage="ict", commands=((MAKE, str(export)),)),
        part(tmp_path, "last", stage="qa", needs=["first"], releases=("first",)),
    ]
    assert run(parts, tmp_path) == []
    assert not export.exists()
    seen: list[list[str]] = []
    run(parts, tmp_path, seen=seen)
    assert seen == []
    shutil.rmtree(tmp_path / "last")
    run(parts, tmp_path, seen=seen)
    assert {name for names in seen for name in names} == {"first", "last"}


def test_what_was_removed_and_is_then_interrupted_is_not_taken_for_done(tmp_path: Path) -> None:
    whole = part(tmp_path, "train", stage="qa", leaves=("checkpoints",))
    assert run([whole], tmp_path) == []
    shutil.rmtree(tmp_path / "train")
    checkpoint = tmp_path / "train/checkpoints/half"
    killed = part(tmp_path, "train", program=f"{MAKE}; import os; os.kill(os.getpid(), 9)", stage="qa")
    assert [failure.part for failure in run([killed], tmp_path)] == ["train"]
    checkpoint.mkdir(parents=True)  # the folder is there again, and half of what was to be in it
    assert not is_done(tmp_path, whole)
    failures = run([part(tmp_path, "train", program=FAIL, stage="qa", leaves=("checkpoints",))], tmp_path)
    assert len(failures) == 1
    assert checkpoint.is_dir()


def test_data_that_the_study_has_not_made_is_not_removed(tmp_path: Path) -> None:
    by_hand = tmp_path / "data/precious"
    by_hand.mkdir(parents=True)
    with pytest.raises(
        ConfigError, match=r"/data is there, but this study has not made it: move it away, .*data\.corpus"
    ):
        run([part(tmp_path, "data")], tmp_path)
    assert by_hand.is_dir()


def test_without_locks_people_are_told_once_and_the_study_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", flock)
    assert run([part(tmp_path, "a"), part(tmp_path, "b")], tmp_path) == []
    assert caplog.text.count(f"{tmp_path}: its file system has no locks (Function not implemented)") == 1


class Other:
    """Another process, which has a part until we have slept some times, and then has made it."""

    def __init__(self, out: Path, name: str) -> None:
        self._out, self._name, self.num_sleeps = out, name, 0
        path = out / f"parts/{name}.lock"
        path.parent.mkdir(exist_ok=True)
        path.write_text("node7:12")
        self._lock = path.open("rb")
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def sleep(self, seconds: float) -> None:
        self.num_sleeps += 1
        if self.num_sleeps == 20:
            (self._out / self._name).mkdir()
            (self._out / f"parts/{self._name}.json").write_text("{}")
            self._lock.close()


def run_beside(other: Other, parts: Sequence[Part], out: Path) -> tuple[list[Failure], list[dict[str, str]]]:
    elsewhere: list[dict[str, str]] = []
    failures = run_parts(
        parts, out=out, jobs=2, notice=Notice(), go_on="again", as_line=write_and_tell, sleep=other.sleep,
        on_change=lambda standing: elsewhere.append(dict(standing.elsewhere)),
    )  # fmt: skip
    return failures, elsewhere


def test_a_part_that_another_process_is_at_is_waited_for_and_named(tmp_path: Path) -> None:
    other = Other(tmp_path, "shared")
    parts = [part(tmp_path, "shared", program=FAIL), part(tmp_path, "own", needs=["shared"])]
    failures, elsewhere = run_beside(other, parts, tmp_path)
    assert failures == []
    assert other.num_sleeps > 20
    assert is_done(tmp_path, parts[1])
    assert elsewhere[0] == {"shared": "node7:12"}
    assert elsewhere[-1] == {}
    assert (tmp_path / "parts/own.lock").read_text() == f"{socket.gethostname()}:{os.getpid()}"


def test_what_another_process_has_removed_just_now_is_not_made_again(tmp_path: Path) -> None:
    parts = [
        part(tmp_path, "first", program=FAIL, stage="ict"),
        part(tmp_path, "last", program=FAIL, stage="qa", needs=["first"], releases=("first",)),
    ]  # fmt: skip
    (tmp_path / "first").mkdir()
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/first.json").write_text("{}")  # done, and its models were released; `last` is not marked yet
    assert run_beside(Other(tmp_path, "last"), parts, tmp_path)[0] == []


def end_while_it_runs(program: str, tmp_path: Path) -> Part:
    """Asked to end as soon as the program says that it is ready."""
    ready, saved, notice = tmp_path / "ready", tmp_path / "saved", Notice()
    ending = []
    working = Part(name="long", commands=((program, str(ready), str(saved)),), stage="qa")

    def ask(standing: Standing) -> None:
        if ready.exists():
            notice.name = "SIGTERM"
        ending.append((standing.ending, tuple(standing.working)))

    with pytest.raises(Preempted, match="asked to end: go on with realm-ds ablate --resume"):
        run_parts(
            [working], out=tmp_path, jobs=1, notice=notice, go_on="realm-ds ablate --resume", on_change=ask,
            as_line=write_and_tell, sleep=lambda seconds: time.sleep(0.01),
        )  # fmt: skip
    assert ending[-1] == (True, ("long",))  # people see what is waited for
    return working


def test_asked_to_end_it_has_what_runs_save_first(tmp_path: Path) -> None:
    working = end_while_it_runs(LISTEN, tmp_path)
    assert (tmp_path / "saved").exists()
    assert not is_done(tmp_path, working)


def test_what_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("realm_ds.ablate.run.GRACE_S", 0.0)
    working = end_while_it_runs(DEAF, tmp_path)
    assert not is_done(tmp_path, working)
