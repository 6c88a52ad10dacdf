"""Builder ranks over real MPI: right answers in every version, whatever the split and the timing."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.ranks import builder_job
from tests.support.worlds import run_ranks


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
