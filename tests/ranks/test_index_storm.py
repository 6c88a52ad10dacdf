"""100,000 queries during 50 swaps, with every message late by a time of its own: over MPI. On loopback: tests/unit."""

import json
from pathlib import Path

from tests.ranks import storm_job
from tests.support.worlds import run_ranks


def test_no_answer_is_mixed_lost_or_wrong(tmp_path: Path) -> None:
    outcome = run_ranks(
        storm_job, processes=storm_job.NUM_CLIENTS + storm_job.NUM_SHARDS, env={"RESULTS": str(tmp_path)}, timeout_s=240
    )
    assert outcome.code == 0, outcome.output
    seen = [json.loads(path.read_text()) for path in sorted(tmp_path.iterdir())]
    assert len(seen) == storm_job.NUM_CLIENTS
    assert sum(each["queries"] for each in seen) > 100_000
    assert [(each["wrong"], each["lost"], each["mixed"], each["strangers"]) for each in seen] == 3 * [(0, 0, 0, 0)]
