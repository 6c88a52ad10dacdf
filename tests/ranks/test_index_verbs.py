"""The verbs on an index over real MPI worlds: the same index and the same answers as in one process."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from realm_ds.errors import LaunchError
from realm_ds.index.store import stored_parts, version_folder
from realm_ds.launch import index_build
from realm_ds.launch.index_build import build_verb
from realm_ds.launch.index_check import verify_index
from realm_ds.launch.index_open import Answers, Wanted
from realm_ds.launch.index_search import search_index
from realm_ds.launch.index_store import joined
from tests.support.tiny_index import make_ground, make_run
from tests.support.worlds import REPOSITORY, run_ranks

QUERIES = ("the mayor of delft", "harbour", "which river does jena have?", "leon")
LAUNCHED = """
import sys
from realm_ds.cli.main import main
sys.argv = ["realm-ds", *{arguments!r}]
main()
"""


def build(ground: Path, out: Path, *, processes: int = 1, part_passages: int = 65_536) -> None:
    build_verb(
        source=str(ground / "config.yaml"), run=None, out=out, tower=ground / "export", overrides=[],
        processes=processes, part_passages=part_passages, dry_run=False,
    )  # fmt: skip


def search(store: Path, *, processes: int = 0) -> Answers | None:
    wanted = Wanted(store=store, queries=QUERIES, num_hits=7, version=None, factory=None)
    return search_index(wanted, processes=processes)


def vectors_of(store: Path) -> np.ndarray:
    return np.concatenate([np.load(part.vectors_path) for part in stored_parts(store, 0)])


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ground")
    make_ground(folder)
    build(folder, folder / "one")
    return folder


@pytest.fixture(autouse=True)
def from_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ranks run this copy, and a search that fails leaves its logs where they are cleared away."""
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))


def test_all_ranks_of_a_world_build_one_index(ground: Path, tmp_path: Path) -> None:
    out = tmp_path / "index"
    build(ground, out, processes=3, part_passages=10)
    parts = stored_parts(out, 0)
    assert joined((part.start, part.stop) for part in parts) == [(0, 72)]
    assert len(parts) == 9
    assert verify_index(out, version=None) == 0
    assert np.allclose(vectors_of(out), vectors_of(ground / "one"), atol=1e-5)
    assert "trainer" not in "".join(path.name for path in out.rglob("*"))


@pytest.mark.slow
def test_a_launcher_builds_and_another_number_of_ranks_goes_on(ground: Path, tmp_path: Path) -> None:
    out = tmp_path / "index"
    arguments = ["index", "build", "-c", ground / "config.yaml", "--tower", ground / "export", "-o", out,
                 "--part-passages", "7"]  # fmt: skip
    program = LAUNCHED.format(arguments=[str(argument) for argument in arguments])
    outcome = run_ranks(program, processes=2)
    assert outcome.code == 0, outcome.output
    version_folder(out, 0).joinpath("part-000000036-000000043.npy").unlink()
    outcome = run_ranks(program, processes=3)
    assert outcome.code == 0, outcome.output
    assert "part-000000036-000000043.npy is missing" in outcome.output
    assert verify_index(out, version=None) == 0


def test_a_rank_that_is_killed_leaves_parts_to_go_on_with(
    ground: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "index"

    class Killing(index_build._BuildFollower):
        """Kills the second rank once it has written a part."""

        is_done = False

        def poll(self) -> None:
            super().poll()
            if not self.is_done and any(part.start >= 36 for part in stored_parts(out, 0)):
                self.is_done = True
                os.kill(json.loads((out / "ranks/1.json").read_text())["pid"], signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(index_build, "_BuildFollower", Killing)
        with pytest.raises(LaunchError, match=r"index 1 \(world rank 1 on .*killed by SIGKILL"):
            build(ground, out, processes=2, part_passages=1)
    before = {part.vectors_path: part.vectors_path.stat().st_mtime_ns for part in stored_parts(out, 0)}
    assert before
    build(ground, out, processes=2, part_passages=1)
    assert verify_index(out, version=None) == 0
    assert all(path.stat().st_mtime_ns == at for path, at in before.items())


def test_index_ranks_give_the_answers_of_one_process(ground: Path) -> None:
    here, there = search(ground / "one"), search(ground / "one", processes=3)
    assert here == there
    assert [len(hits) for hits in here or []] == 4 * [7]


def test_the_index_of_a_run_is_searched_over_ranks(ground: Path, tmp_path: Path) -> None:
    from realm_ds.config.load import load

    run = make_run(tmp_path / "run", load(ground / "config.yaml"))
    assert search(run) == search(run, processes=2)
    assert sorted(path.name for path in run.iterdir()) == ["config.yaml", "index"]  # logs go elsewhere


@pytest.mark.slow
def test_under_a_launcher_the_first_rank_prints(ground: Path) -> None:
    arguments = ["index", "search", str(ground / "one"), *QUERIES, "-k", "7", "--json"]
    outcome = run_ranks(LAUNCHED.format(arguments=arguments), processes=3)
    assert outcome.code == 0, outcome.output
    rows = [json.loads(line) for line in outcome.stdout.splitlines()]
    assert [row["query"] for row in rows] == list(QUERIES)
    expected = [[vars(hit) for hit in hits] for hits in search(ground / "one") or []]
    assert [row["hits"] for row in rows] == expected


def test_a_damaged_part_ends_the_search_by_name(ground: Path, tmp_path: Path) -> None:
    out = tmp_path / "index"
    build(ground, out)
    (part,) = stored_parts(out, 0)
    part.vectors_path.write_bytes(bytes(part.vectors_path.stat().st_size))
    with pytest.raises(LaunchError, match=r"index \d .*IndexFault: building index version 0 .* cannot be read whole"):
        search(out, processes=2)


def test_the_command_line_starts_its_own_world(ground: Path) -> None:
    command = [sys.executable, "-m", "realm_ds", "index", "search", str(ground / "one"), "-", "-n", "2", "-k", "7"]
    lines = "\n".join(QUERIES)
    texts = [
        subprocess.run(
            each, input=lines, capture_output=True, text=True, cwd=REPOSITORY, timeout=120, check=True
        ).stdout
        for each in (command, [*command, "-n", "0"])
    ]
    assert texts[0] == texts[1]
    assert texts[0].startswith(f"{QUERIES[0]}\n  1  ")
