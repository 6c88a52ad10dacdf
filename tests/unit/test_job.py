"""Jobs: the same bytes whatever the number of workers and however often one was stopped; folders are left alone."""

import contextlib
import errno
import fcntl
import functools
import json
import multiprocessing
import multiprocessing.resource_tracker
import os
import random
import re
import shutil
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realm_ds.data.records import passage_from_json
from realm_ds.data.shards import open_shards
from realm_ds.errors import ConfigError, DataError
from realm_ds.prepare.documents import Tally
from realm_ds.prepare.job import Finished, run_job
from realm_ds.prepare.unfinished import Unfinished
from realm_ds.prepare.workers import work_in_order
from realm_ds.tether import tagged
from tests.support.jobs import NUM_CHUNKS, chunks, output, run_and_leave_none, start_failing, start_half, start_work


def do(
    folder: Path, *, workers: int = 0, resume: bool = False, start: Callable = start_work, **changes: object
) -> Finished:
    return run_job(chunks(), start, output=output(folder, **changes), workers=workers, resume=resume)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("jobs") / "unbroken"
    do(folder)
    return content(folder)


def test_every_record_once_in_order(tmp_path: Path) -> None:
    finished = do(tmp_path / "out")
    made = [json.loads(record) for number in chunks() for record in start_work()(number).records]
    expected = list({passage["uid"]: passage for passage in made}.values())
    shards = open_shards(tmp_path / "out", kind="corpus", fingerprint="f")
    assert shards.manifest == finished.manifest
    assert list(shards.passages()) == [passage_from_json(passage, where="") for passage in expected]
    assert {entry.count for entry in finished.manifest.shards[:-1]} == {4}
    left_out = len(made) - len(expected)
    assert left_out > 5
    assert finished.tally.counts == {"numbers": NUM_CHUNKS, "duplicates left out": left_out}
    assert finished.tally.first == {"numbers": "number 0"}
    settings = dict(finished.manifest.settings)
    assert len(settings.pop("input_digest")) == 64
    assert settings == {
        "passage_tokens": 16,
        "per_shard": 4,
        "counts": finished.tally.counts,
        "first": finished.tally.first,
    }


def test_the_number_of_workers_changes_no_byte(tmp_path: Path, unbroken: dict[str, bytes]) -> None:
    told: list[int] = []
    run_job(
        chunks(), start_work, output=output(tmp_path / "out"), workers=2, resume=False, on_progress=told.append
    )  # fmt: skip
    assert content(tmp_path / "out") == unbroken
    assert told == sorted(told)
    assert (len(told), told[0]) == (NUM_CHUNKS + 1, 0)


def test_what_reading_counts_is_told(tmp_path: Path) -> None:
    reading = Tally()

    def read() -> Iterator[int]:
        for number in chunks():
            reading.add("read")
            yield number

    finished = run_job(read(), start_work, output=output(tmp_path), workers=0, resume=False, reading=reading)
    assert finished.tally.counts["read"] == finished.manifest.settings["counts"]["read"] == NUM_CHUNKS


# Stopped and gone on with.


@settings(max_examples=25, deadline=None)
@given(stops=st.lists(st.integers(1, 150), max_size=4))
def test_stopped_at_any_file_and_gone_on_with(
    stops: list[int], tmp_path_factory: pytest.TempPathFactory, unbroken: dict[str, bytes]
) -> None:
    folder = tmp_path_factory.mktemp("stopped")
    for stop in [*stops, 10_000]:
        calls = iter(range(1, stop))

        def fsync(descriptor: int, calls: Iterator[int] = calls) -> None:
            if next(calls, None) is None:
                raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", fsync)
            with contextlib.suppress(KeyboardInterrupt):
                do(folder, resume=True)
    assert content(folder) == unbroken


def test_killed_and_gone_on_with(tmp_path: Path, unbroken: dict[str, bytes]) -> None:
    chance = random.Random(5)
    codes = []
    while 0 not in codes:
        kill_at = 10_000 if len(codes) == 4 else chance.randint(1, 25)
        code, told = run_and_leave_none(["-m", "tests.support.jobs", str(tmp_path / "out"), "2", str(kill_at)])
        assert told == ""  # not even of semaphores that are left
        codes.append(code)
    assert codes == [-9, -9, -9, -9, 0]
    assert content(tmp_path / "out") == unbroken


def test_a_process_that_does_not_end_is_ended() -> None:
    """By the helper that tests of kills are built on."""
    tags = list[str]()
    wait = "import signal, subprocess, sys; subprocess.Popen([sys.executable, '-c', 'input()']); signal.pause()"
    with pytest.raises(subprocess.TimeoutExpired):
        run_and_leave_none(["-c", wait], meanwhile=lambda process, tag: tags.append(tag), timeout_s=0.1)
    assert tagged(tags[0]) == []


def uids_in(path: Path) -> list[int]:
    with tarfile.open(path) as archive:
        return [json.load(archive.extractfile(member))["uid"] for member in archive]


def stopped(folder: Path, *, at: int = 20) -> int:
    """A job that an error stopped; returns how many of its shards are finished."""
    with pytest.raises(DataError, match="number 20 cannot be read"):
        do(folder, start=functools.partial(start_failing, at, "error"))
    return len(list(folder.glob("shard-*.tar")))


def test_finished_chunks_are_not_worked_on_again(tmp_path: Path) -> None:
    num_shards = stopped(tmp_path / "out")
    in_shards = {uid for path in (tmp_path / "out").glob("shard-*.tar") for uid in uids_in(path)}
    make = start_work()
    open_chunk = next(number for number in chunks() if not in_shards.issuperset(make(number).keys))
    (tmp_path / "touched").mkdir()
    do(tmp_path / "out", resume=True, start=functools.partial(start_work, tmp_path / "touched"))
    first, *others = sorted(int(path.name) for path in (tmp_path / "touched").iterdir())
    assert others == list(range(first + 1, NUM_CHUNKS))
    assert first in (open_chunk, open_chunk - 1)  # one that ended with its shard is looked at again
    assert num_shards > 3


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("error", "number 20 cannot be read; leave it out"),
        (
            "SIGKILL",
            "a worker process was killed \\(SIGKILL\\), as the kernel does when memory runs out; go on with --re",
        ),
        (
            "SIGSEGV",
            "a worker process was ended by SIGSEGV; go on with --resume, if it was memory with fewer --workers",
        ),
    ],
)
def test_a_worker_that_dies(tmp_path: Path, unbroken: dict[str, bytes], how: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        do(tmp_path / "out", workers=1, start=functools.partial(start_failing, 20, how))
    do(tmp_path / "out", resume=True)
    assert content(tmp_path / "out") == unbroken


def in_time(function: Callable[[], object]) -> None:
    """Call it, in a thread, so that it may hang."""
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive(), "it hangs"
    assert not multiprocessing.active_children()


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"no {path.name}"
        time.sleep(0.01)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_dies_in_the_middle_of_a_result(tmp_path: Path, workers: int) -> None:
    sizes: list[int] = []

    def work() -> None:
        start = functools.partial(start_half, 4, "dies", tmp_path / "told")
        with pytest.raises(DataError, match="a worker process was killed \\(SIGKILL\\)"):
            sizes.extend(map(len, work_in_order(chunks(), start, workers=workers)))
        sizes.append(-1)

    in_time(work)
    assert sizes == [2 << 20] * 4 + [-1]


def test_a_worker_that_dies_before_it_has_read_what_it_starts_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nkill -9 $$\n")
    python.chmod(0o755)
    multiprocessing.resource_tracker.ensure_running()  # by the real one
    monkeypatch.setattr("multiprocessing.spawn._python_exe", os.fsencode(python))

    def work() -> None:
        start = functools.partial(start_work, Path("x" * (1 << 20)))
        with pytest.raises(DataError, match="a worker process was killed \\(SIGKILL\\)"):
            list(work_in_order(chunks(), start, workers=2))

    in_time(work)


def test_closed_in_the_middle_of_a_result(tmp_path: Path) -> None:
    def work() -> None:
        start = functools.partial(start_half, 3, "waits", tmp_path / "told")
        results = work_in_order(chunks(), start, workers=2)
        next(results)
        wait_for(tmp_path / "told")
        results.close()

    in_time(work)
    assert (tmp_path / "told").exists()


def test_where_an_error_of_a_worker_came_from() -> None:
    start = functools.partial(start_failing, 0, "error")
    with pytest.raises(DataError, match="number 0 cannot be read") as raised:
        list(work_in_order(chunks(), start, workers=1))
    assert "in fail\n" in raised.value.__notes__[0]


def test_no_more_is_read_ahead_than_said() -> None:
    read: list[int] = []

    def reading() -> Iterator[int]:
        for number in chunks():
            read.append(number)
            yield number

    results = work_in_order(reading(), start_work, workers=1)
    for number in range(5):
        next(results)
        assert len(read) <= number + 3
    results.close()


def test_disk_full_and_gone_on_with(
    tmp_path: Path, unbroken: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def fsync(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls > 30:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(DataError, match="No space left on device.*free space there, and go on with --resume"):
            do(tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.tmp-*"))
    do(tmp_path / "out", resume=True)
    assert content(tmp_path / "out") == unbroken


# Folders that hold something.


def test_a_finished_set_is_left_alone_or_done_already(tmp_path: Path) -> None:
    first = do(tmp_path / "out")
    with pytest.raises(ConfigError, match="out holds a finished set of shards.*not overwritten: name another folder"):
        do(tmp_path / "out")
    again = do(tmp_path / "out", resume=True, start=functools.partial(start_failing, 0, "error"))
    assert again.was_done
    assert (again.manifest, again.tally) == (first.manifest, first.tally)
    with pytest.raises(
        ConfigError, match="was begun otherwise: settings.passage_tokens was 16 and is now 32; give wha"
    ):
        do(tmp_path / "out", resume=True, settings={"passage_tokens": 32})
    with pytest.raises(
        ConfigError, match="was begun otherwise: input_digest was '[0-9a-f]{64}' and is now '[0-9a-f]{64}';"
    ):
        do(tmp_path / "out", resume=True, identity={"files": ["numbers", 41]})


def test_a_stopped_job_is_gone_on_with_only_when_asked(tmp_path: Path) -> None:
    num_shards = stopped(tmp_path / "out")
    with pytest.raises(
        ConfigError, match=f"a job that was stopped \\(tar shards done: {num_shards}\\): go on with --re"
    ):
        do(tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": {"passage_tokens": 32}}, "settings.passage_tokens was 16 and is now 32"),
        ({"per_shard": 5}, "settings.per_shard was 4 and is now 5"),
        ({"fingerprint": "g"}, "tokenizer was 'f' and is now 'g'"),
        (
            {"identity": {"files": ["numbers", 41]}},
            "identity.files was \\['numbers', 40\\] and is now \\['numbers', 41\\]",
        ),
        ({"source": "letters"}, "source was 'numbers' and is now 'letters'"),
    ],
)
def test_another_job_does_not_go_on_with_it(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    stopped(tmp_path / "out")
    with pytest.raises(ConfigError, match=f"out was begun otherwise: {message}; give what it was begun with"):
        do(tmp_path / "out", resume=True, **changes)


def test_what_cannot_be_compared_is_not_gone_on_with(tmp_path: Path) -> None:
    stopped(tmp_path / "stopped")
    do(tmp_path / "whole")
    for name in ("stopped", "whole"):
        before = sorted((tmp_path / name).rglob("*"))
        with pytest.raises(ConfigError, match=f"{name} holds what came of an earlier call, and what stdin or a pipe"):
            do(tmp_path / name, resume=True, identity=None)
        assert before == sorted((tmp_path / name).rglob("*"))
    finished = do(tmp_path / "new", resume=True, identity=None)
    assert finished.manifest.settings["input_digest"] is None


def test_of_many_changes_some_are_told(tmp_path: Path) -> None:
    stopped(tmp_path / "out")
    with pytest.raises(ConfigError, match="settings.3 was None and is now 3, and 6 more; give"):
        do(tmp_path / "out", resume=True, identity={}, settings={str(number): number for number in range(9)})


def test_a_job_that_was_killed_before_its_first_shard_counts_as_nothing(tmp_path: Path) -> None:
    (tmp_path / "out" / "unfinished").mkdir(parents=True)
    (tmp_path / "out" / "unfinished" / "lock").touch()
    assert do(tmp_path / "out", per_shard=5).manifest.count


def test_a_job_that_fails_before_its_first_shard_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    for out in (tmp_path / "mine", tmp_path / "new" / "out"):
        with pytest.raises(DataError, match="number 0 cannot be read"):
            do(out, start=functools.partial(start_failing, 0, "error"))
    assert [path.name for path in tmp_path.rglob("*")] == ["mine"]


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for resume in (False, True):
        with pytest.raises(
            ConfigError, match="holds files already \\(notes.txt\\); name an empty folder, or a new one"
        ):
            do(tmp_path, resume=resume)
    with pytest.raises(ConfigError, match="notes.txt is a file; name a folder"):
        do(tmp_path / "notes.txt")
    assert content(tmp_path) == {"notes.txt": b"mine"}


def test_an_output_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    long = "x" * 300  # which Path.exists raises an error for
    for out, why in (
        ("file/out", "Not a directory"),
        (long, "File name too long"),
        (f"{long}/out", "File name too long"),
    ):
        with pytest.raises(DataError, match=f"cannot write to .*{out}: {why}; mend that, or name another folder$"):
            do(tmp_path / out)


def test_a_journal_that_cannot_be_read_is_not_damaged(tmp_path: Path) -> None:
    (tmp_path / "unfinished" / "journal.json").mkdir(parents=True)
    with pytest.raises(
        DataError, match="cannot read .*unfinished/journal.json: Is a directory; mend that, or name ano"
    ):
        do(tmp_path, resume=True)


def test_two_at_once(tmp_path: Path) -> None:
    def read() -> Iterator[int]:
        with pytest.raises(ConfigError, match="another process writes there now; wait for it or end it"):
            do(tmp_path / "out", resume=True)
        yield from chunks()

    run_job(read(), start_work, output=output(tmp_path / "out"), workers=0, resume=False)


def test_a_lock_that_the_job_before_removed_is_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flock, folder = fcntl.flock, tmp_path / "out" / "unfinished"

    def end_before_flock(lock: BinaryIO, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        shutil.rmtree(folder)
        flock(lock, operation)

    monkeypatch.setattr(fcntl, "flock", end_before_flock)
    test_two_at_once(tmp_path)
    assert fcntl.flock is flock


def test_a_second_one_leaves_the_files_of_the_first_alone(tmp_path: Path) -> None:
    written = tmp_path / "out" / "shard-00000.tar.tmp-1@here"

    def read() -> Iterator[int]:
        written.touch()
        with pytest.raises(ConfigError, match="another process writes there now"):
            do(tmp_path / "out", resume=True)
        assert written.exists()
        yield from chunks()

    run_job(read(), start_work, output=output(tmp_path / "out"), workers=0, resume=False)


def test_only_stale_files_of_ours_are_removed(tmp_path: Path, unbroken: dict[str, bytes]) -> None:
    stopped(tmp_path)
    for name in ("shard-00009.tar.tmp-12@node-1.cluster", "manifest.json.tmp-3@here"):
        (tmp_path / name).touch()
    for name in ("notes.tmp-keep", "shard-00001.tar.bak", "shard-00001.tar.tmp-mine"):
        (tmp_path / name).touch()
        with pytest.raises(ConfigError, match=f"holds files already \\({name}\\)"):
            do(tmp_path, resume=True)
        (tmp_path / name).unlink()
    do(tmp_path, resume=True)
    assert content(tmp_path) == unbroken


def test_a_file_system_without_locks(
    tmp_path: Path, unbroken: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", flock)
    do(tmp_path / "out")
    assert content(tmp_path / "out") == unbroken
    assert "out: its file system has no locks (Function not implemented), so make sure that no other" in caplog.text


def test_a_damaged_shard_is_not_gone_on_from(tmp_path: Path) -> None:
    stopped(tmp_path / "out")
    shard = tmp_path / "out" / "shard-00001.tar"
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    with pytest.raises(DataError, match="shard-00001.tar: sha256 is .* the file is damaged"):
        do(tmp_path / "out", resume=True)


@pytest.mark.parametrize(
    ("name", "text"),
    [("journal.json", "{"), ("journal.json", '{"job": {}, "shards": [{}]}'), ("keys-00002.npy", "numpy")],
)
def test_a_damaged_journal_is_not_gone_on_from(tmp_path: Path, name: str, text: str) -> None:
    stopped(tmp_path / "out")
    (tmp_path / "out" / "unfinished" / name).write_text(text)
    with pytest.raises(DataError, match=f"{name}: cannot be read .*; remove .*out and begin again"):
        do(tmp_path / "out", resume=True)


def test_a_stopped_job_of_another_kind_is_no_damage(tmp_path: Path) -> None:
    Unfinished(tmp_path, stale=re.compile("x")).write({"job": {"corpus": None}})  # as that of prepare qa
    for resume in (False, True):
        with pytest.raises(ConfigError, match="writes no tar shards, such as `prepare qa`; name another folder"):
            do(tmp_path, resume=resume)
    assert (tmp_path / "unfinished" / "journal.json").exists()


def test_keys_that_are_not_those_of_the_shard(tmp_path: Path) -> None:
    stopped(tmp_path / "out")
    folder = tmp_path / "out" / "unfinished"
    (folder / "keys-00001.npy").write_bytes((folder / "keys-00001.npy").read_bytes().replace(b"(4,)", b"(3,)"))
    with pytest.raises(
        DataError, match="keys-00001.npy: cannot be read \\(3 keys, but shard-00001.tar has 4 records\\)"
    ):
        do(tmp_path / "out", resume=True)


def test_nothing_came_of_it(tmp_path: Path) -> None:
    reading = Tally()
    reading.add("documents without text", where="line 1")
    for told in ("documents without text: 1 \\(first: line 1\\)", "nothing was read"):
        with pytest.raises(
            DataError, match=f"numbers: no record came of it, so nothing was written \\({told}\\); check"
        ):
            run_job(iter(()), start_work, output=output(tmp_path), workers=0, resume=False, reading=reading)
        assert content(tmp_path) == {}
        reading = Tally()
