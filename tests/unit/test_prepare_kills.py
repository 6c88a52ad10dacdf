"""`prepare corpus` and `prepare pretrain`, killed at moments drawn by chance and gone on with: the same bytes.

test_job.py kills at every kind of file; here the clock decides, and the verbs are those that people run.
"""

import hashlib
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from realm_ds.data.tokenizer import train_wordpiece
from realm_ds.tether import lives, tagged
from tests.support.jobs import run_and_leave_none

NUM_ARTICLES = 180


def text(number: int) -> str:
    return " ".join(
        f"They met Anna Lee of {number + place} Elm Street on {1 + place % 28} July {1700 + number}."
        for place in range(40)
    )


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with articles and a tokenizer: work for two chunks, of which the shards are many."""
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
    def is_worker(pid: int) -> bool:
        return lives(pid) and b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()

    return [pid for pid in tagged(tag) if is_worker(pid)]


def kill_after(wait_s: float, whom: str) -> Callable[[subprocess.Popen, str], None]:
    """Kill the main process, or a worker if there is one by then."""

    def kill(process: subprocess.Popen, tag: str) -> None:
        time.sleep(wait_s)
        victims = workers_of(tag) if whom == "worker" else []
        os.kill(victims[0] if victims else process.pid, signal.SIGKILL)

    return kill


def command(verb: str, source: Path, out: Path) -> list[str]:
    options = ["--tokenizer", source / "tokenizer", "--out", out / "out", "--workers", 2, "--passage-tokens", 64]
    if verb == "pretrain":
        options += ["--held-out", out / "held_out", "--held-out-share", 0.3]
    return [*map(str, ["-m", "realm_ds", "prepare", verb, source / "a.jsonl", "--per-shard", 60, *options])]


@pytest.mark.parametrize("verb", ["corpus", "pretrain"])
def test_killed_by_the_clock_and_gone_on_with(tmp_path: Path, source: Path, verb: str) -> None:
    started_at = time.monotonic()
    assert run_and_leave_none(command(verb, source, tmp_path / "whole"))[0] == 0
    took_s = time.monotonic() - started_at
    chance = random.Random(verb)
    for whom in ("worker", "main", "worker"):
        kill = kill_after(chance.uniform(0.3, 0.9) * took_s, whom)
        code, told = run_and_leave_none([*command(verb, source, tmp_path / "killed"), "--resume"], meanwhile=kill)
        assert code in (0, -signal.SIGKILL) or "a worker process was killed (SIGKILL), as the kernel does" in told
    code, told = run_and_leave_none([*command(verb, source, tmp_path / "killed"), "--resume"])
    assert code == 0, told
    assert sums(tmp_path / "killed") == sums(tmp_path / "whole")
