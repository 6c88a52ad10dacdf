"""slurm/ablate.sbatch as it is: an array over the cells of a small study, all of whose tasks run at once."""

import sys
from pathlib import Path

import pytest

from realm_ds.config.load import dump
from tests.support.slurm import Slurm
from tests.support.tiny import make_data, tiny_config
from tests.support.tiny_qa import make_questions, qa_changes
from tests.support.worlds import REPOSITORY

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

ROWS = ("realm", "realm-encoder", "baseline")
REALM_DS = str(Path(sys.executable).parent / "realm-ds")
WAITS_S = 300.0
"""Of ranks for each other: those of three cells share two cores."""


def test_cells_are_tasks_of_an_array_and_what_they_share_is_made_once(slurm: Slurm, tmp_path: Path) -> None:
    make_data(tmp_path)
    make_questions(tmp_path)
    settings: dict[str, object] = {
        "runtime.trainers": 1, "runtime.wait_timeout_s": WAITS_S, "index.num_shards": 1,
        "index.build_timeout_s": WAITS_S, "qa.answered": ("dev",),
    }  # fmt: skip
    (tmp_path / "tiny.yaml").write_text(dump(tiny_config(tmp_path, **qa_changes(tmp_path, **settings))))
    study = tmp_path / "study"
    variables = {
        "CONFIG": str(tmp_path / "tiny.yaml"), "RUN": str(study), "ONLY": ",".join(ROWS), "SEEDS": "1",
        "REALM_VENV": sys.prefix,
    }  # fmt: skip
    script = str(REPOSITORY / "slurm/ablate.sbatch")
    job = slurm.sbatch(f"--output={tmp_path}/%a.log", f"--array=0-{len(ROWS) - 1}", "--mem=1G", script, env=variables)
    for task, row in enumerate(ROWS):
        ended = slurm.wait(f"{job}_{task}", timeout_s=2 * WAITS_S)
        assert ended["JobState"] == "COMPLETED", f"{row}: {(tmp_path / f'{task}.log').read_text(errors='replace')}"
    parts = study / "parts"
    assert len((parts / "ict/seed-0.log").read_text().split("exported to")) == 2  # by whichever task came first
    assert sorted(path.stem for path in (parts / "qa").glob("*.json")) == sorted(f"{row}-seed-0" for row in ROWS)
    table = slurm.run(REALM_DS, "ablate", "--out", str(study), "--table-only")
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:5]] == [
        "REALM", "baseline retriever + REALM encoder", "baseline (ICT only)",
    ]  # fmt: skip
