"""Builder ranks over real MPI: right answers in every version, whatever the split and the timing."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from realm_ds.config.load import dump
from realm_ds.launch.failures import explain_end, read_records
from realm_ds.launch.stages import num_processes
from tests.ranks import builder_job
from tests.support.tiny import make_data, tiny_config
from tests.support.worlds import run_ranks

KILLED = """
import os, signal
from pathlib import Path
from realm_ds.config.load import load
from realm_ds.index.range_embedder import RangeEmbedder
from realm_ds.launch.stages import launch_stage

RangeEmbedder._embedded = lambda self, snapshot: os.kill(os.getpid(), signal.SIGKILL)
folder = Path({folder!r})
launch_stage("pretrain", load_config=lambda: load(folder / "config.yaml"), run_folder=folder, resume=False)
"""


def run(folder: Path, *, num_builders: int, num_shards: int, embed_sleep_s: float) -> dict[str, dict[str, Any]]:
    env = {
        "NUM_BUILDERS": str(num_builders), "NUM_SHARDS": str(num_shards), "EMBED_SLEEP_S": str(embed_sleep_s),
        "RESULTS": str(folder),
    }  # fmt: skip
    outcome = run_ranks(builder_job, processes=1 + num_builders + num_shards, env=env, timeout_s=120)
    assert outcome.code == 0, outcome.output
    return {path.stem: json.loads(path.read_text()) for path in folder.iterdir()}


@pytest.mark.parametrize(("num_builders", "num_shards", "embed_sleep_s"), [(2, 2, 0.002), (1, 3, 0.0), (4, 1, 0.0)])
def test_answers_are_those_of_brute_force_in_every_version(
    tmp_path: Path, num_builders: int, num_shards: int, embed_sleep_s: float
) -> None:
    ranks = run(tmp_path, num_builders=num_builders, num_shards=num_shards, embed_sleep_s=embed_sleep_s)
    assert (ranks["trainer-0"]["searches"], ranks["trainer-0"]["wrong"]) == (builder_job.NUM_STEPS, 0)
    # The last version is launched, but the run ends before anybody asks for it.
    built = list(range(builder_job.NUM_VERSIONS - 1))
    for finished in ranks["trainer-0"]["finished"]:
        assert finished[: len(built)] == built
    for shard in range(num_shards):
        assert ranks[f"index-{shard}"]["versions_built"] >= len(built)
        assert ranks[f"index-{shard}"]["late_vectors"] == 0
    sent = [ranks[f"builder-{number}"]["passages_sent"] for number in range(num_builders)]
    assert sum(sent) >= len(built) * len(builder_job.PASSAGES)


def test_a_builder_that_cannot_embed_ends_the_world_with_its_reason(tmp_path: Path) -> None:
    env = {"BREAK_VERSION": "2", "RESULTS": str(tmp_path)}
    outcome = run_ranks(builder_job, processes=5, env=env, timeout_s=60)
    assert outcome.code != 0
    assert "for index version 2 (step 2) failed: ValueError: weights of another model" in outcome.output


def test_a_killed_builder_ends_a_run_soon_and_is_named(tmp_path: Path) -> None:
    make_data(tmp_path / "data")
    config, folder = tiny_config(tmp_path / "data", **{"index.builders": 1, "index.num_shards": 1}), tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text(dump(config))
    outcome = run_ranks(
        KILLED.format(folder=str(folder)), processes=num_processes("pretrain", config), timeout_s=240
    )  # fmt: skip
    ended_at = time.time()
    assert outcome.code != 0
    (death, *_) = sorted(read_records(folder / "failures"), key=lambda record: record["time"])
    assert ended_at - death["time"] < 30
    said = explain_end(folder, code=outcome.code, log=folder / "logs" / "world.log")
    assert said.startswith("builder 0 (world rank ")
    assert "): killed by SIGKILL: if nobody did that, the machine ran out of memory" in said
