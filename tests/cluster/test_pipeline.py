"""`realm-ds submit pipeline` as people use it: the quick demo, from its text to its scores, over several nodes."""

import json
import sys
from pathlib import Path

import pytest

from tests.support.slurm import Slurm

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

REALM_DS = str(Path(sys.executable).parent / "realm-ds")
WAITS_S = 400.0
"""Of ranks for each other: eight share two cores."""
SIZES = """\
ict: {nodes: 4, tasks_per_node: 2}
pretrain: {nodes: 4, tasks_per_node: 2, index_per_node: 1}
qa: {nodes: 4, tasks_per_node: 1}
"""
SETTINGS = """\
recipe: demo-quick
data: {{corpus: {data}/corpus, pretrain: {data}/pretrain, tokenizer: {data}/tokenizer}}
qa: {{data: {data}/qa}}
runtime: {{trainers: null, wait_timeout_s: {waits_s}}}
index: {{build_timeout_s: {waits_s}}}
"""
JOBS = ("prepare", "ict", "export", "pretrain", "export", "qa")


def test_the_quick_demo_by_one_line_on_four_nodes_of_two_ranks(slurm: Slurm, tmp_path: Path) -> None:
    files = {
        "prepare.txt": f"demo {tmp_path}/data\n", "sizes.yaml": SIZES,
        "my.yaml": SETTINGS.format(data=tmp_path / "data", waits_s=WAITS_S),
    }  # fmt: skip
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    slurm.run(
        REALM_DS, "submit", "pipeline", "--config", "my.yaml", "--run", "all", "--sizes", "sizes.yaml",
        "--prepare", "prepare.txt", cwd=tmp_path, env={"REALM_VENV": str(Path(sys.prefix))},
    )  # fmt: skip
    jobs = [
        json.loads(line)
        for folder in ("prepare", "ict", "pretrain", "qa")
        for line in (tmp_path / "all" / folder / "job/jobs.jsonl").read_text().splitlines()
    ]
    assert sorted(job["name"] for job in jobs) == sorted(JOBS)
    for job in sorted(jobs, key=lambda job: int(job["job"])):
        ended = slurm.wait(int(job["job"]), timeout_s=2 * WAITS_S)
        assert ended["JobState"] == "COMPLETED", Path(job["log"]).read_text(errors="replace")
    scores = json.loads((tmp_path / "all/qa/qa/test.json").read_text())
    assert scores["questions"] > 0
    assert 0 < scores["f1"] < 1
    assert "has not failed" in slurm.run(REALM_DS, "why", str(tmp_path / "all"))
