"""The whole index over real MPI: swaps under load, the same answers whatever the timing, faults that end the world."""

import json
from pathlib import Path
from typing import Any

from tests.ranks import swap_job
from tests.support.worlds import run_ranks


def swap_under_load(folder: Path, *, embed_sleep_s: float) -> list[dict[str, Any]]:
    folder.mkdir()
    env = {"EMBED_SLEEP_S": str(embed_sleep_s), "RESULTS": str(folder)}
    outcome = run_ranks(swap_job, processes=4, env=env, timeout_s=120)
    assert outcome.code == 0, outcome.output
    return [json.loads(path.read_text()) for path in sorted(folder.iterdir())]


def test_dozens_of_swaps_under_load_give_no_mixed_and_no_wrong_answer_whatever_the_timing(tmp_path: Path) -> None:
    searches = swap_job.NUM_STEPS * swap_job.SEARCHES_PER_STEP
    digests = []
    for embed_sleep_s in (0.0, 0.002):
        ranks = swap_under_load(tmp_path / str(embed_sleep_s), embed_sleep_s=embed_sleep_s)
        trainers = sorted((rank for rank in ranks if "trainer" in rank), key=lambda rank: rank["trainer"])
        shards = [rank for rank in ranks if "shard" in rank]
        assert [rank["searches"] for rank in trainers] == 2 * [searches]
        assert [rank["mixed_version_replies"] + rank["strangers"] for rank in trainers] == [0, 0]
        assert [rank["built"] for rank in shards] == 2 * [swap_job.NUM_VERSIONS]
        assert [rank["searches"] for rank in shards] == 2 * [2 * searches]
        # Each shard reports each finished build, before it answers from it, to trainer 0 alone.
        assert [rank["finished"] for rank in trainers] == [2 * swap_job.NUM_VERSIONS, 0]
        digests.append([rank["digest"] for rank in trainers])
    assert digests[0] == digests[1]


def test_a_failed_build_ends_the_world_with_its_reason() -> None:
    outcome = run_ranks(swap_job, processes=4, env={"BREAK_VERSION": "2"}, timeout_s=60)
    assert outcome.code != 0
    assert "building index version 2 (step 2) of passages" in outcome.output
    assert "failed: ValueError: weights of another model" in outcome.output
