"""`prepare corpus` and `prepare pretrain`, killed when chance has it and gone on with: the same bytes.

test_job.py kills at every kind of file; here what is drawn is how many shards are finished at the kill, and the verbs
are those that people run.
"""

import hashlib
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from realm_ds.data.tokenizer import train_wordpiece
from realm_ds.tether import tagged
from tests.support.jobs import run_and_leave_none

NUM_ARTICLES = 350
SMALL_CHUNKS = """
import runpy, sys
from realm_ds.prepare import corpus
corpus.CHUNK_CHARACTERS = 40_000
sys.argv[0] = "realm-ds"
runpy.run_module("realm_ds", run_name="__main__")
"""
"""The command line, with many chunks to make of little text: whenever it is killed, there is work left."""


def text(number: int) -> str:
    return " ".join(
        f"They met Anna Lee of {number + place} Elm Street on {1 + place % 28} July {1700 + number}."
        for place in range(40)
    )


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with articles and a tokenizer: work for many chunks, each of several shards."""
    folder = tmp_path_factory.mktemp("source")
    rows = [{"id": str(number), "title": f"t{number}", "text": text(number)} for number in range(NUM_ARTICLES)]
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    train_wordpiece([text(number) for number in range(9)], vocab_size=300, folder=folder / "tokenizer")
    return folder


def sums(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def workers_of(tag: str) -> list[int]:
    workers = []
    for pid in tagged(tag):
        with suppress(OSError):  # it ended meanwhile
            if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                workers.append(pid)
    return workers


def finished(folder: Path) -> dict[Path, int]:
    """Shards that a manifest or a journal names, and when each was written. One that a kill came between and the
    journal is written again."""
    shards: dict[Path, int] = {}
    for part in (folder / "held_out", folder / "out"):
        for told in (part / "manifest.json", part / "unfinished" / "journal.json"):
            with suppress(FileNotFoundError):
                paths = [part / entry["name"] for entry in json.loads(told.read_bytes())["shards"]]
                shards |= {path: path.stat().st_mtime_ns for path in paths}
    return shards


def kill_at(num_shards: int, folder: Path, whom: str) -> Callable[[subprocess.Popen, str], None]:
    """Kill the main process or a worker as soon as the folder holds so many finished shards."""

    def kill(process: subprocess.Popen, tag: str) -> None:
        deadline = time.monotonic() + 60
        while len(finished(folder)) < num_shards:
            assert process.poll() is None, f"it ended before it was killed, with {len(finished(folder))} shards"
            assert time.monotonic() < deadline, f"{len(finished(folder))} of {num_shards} shards"
            time.sleep(0.001)
        os.kill(workers_of(tag)[0] if whom == "worker" else process.pid, signal.SIGKILL)

    return kill


def command(verb: str, source: Path, out: Path, *, workers: int = 2) -> list[str]:
    options = ["--tokenizer", source / "tokenizer", "--out", out / "out", "--workers", workers, "--passage-tokens", 64]
    if verb == "pretrain":
        options += ["--held-out", out / "held_out", "--held-out-share", 0.5]
    return [*map(str, ["-c", SMALL_CHUNKS, "prepare", verb, source / "a.jsonl", "--per-shard", 60, *options])]


@pytest.mark.parametrize("verb", ["corpus", "pretrain"])
def test_killed_and_gone_on_with(tmp_path: Path, source: Path, verb: str) -> None:
    assert run_and_leave_none(command(verb, source, tmp_path / "whole", workers=1))[0] == 0
    num_all, folder = len(finished(tmp_path / "whole")), tmp_path / "killed"
    chance, before = random.Random(verb), dict[Path, int]()
    for number, whom in enumerate(("worker", "main"), start=1):
        num_shards = chance.randint(len(before) + 1, max(len(before) + 1, num_all * number // 4))
        kill = kill_at(num_shards, folder, whom)
        code, told = run_and_leave_none([*command(verb, source, folder), "--resume"], meanwhile=kill)
        by_worker = "a worker process was killed (SIGKILL), as the kernel does"
        assert code == -signal.SIGKILL if whom == "main" else (code, by_worker in told) == (1, True), told
        after = finished(folder)
        assert num_shards <= len(after) < num_all
        assert before.items() <= after.items()
        before = after
    code, told = run_and_leave_none([*command(verb, source, folder), "--resume"])
    assert code == 0, told
    assert before.items() <= finished(folder).items()
    assert sums(folder) == sums(tmp_path / "whole")
