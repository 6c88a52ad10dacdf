"""The scripts in slurm/ as they are, by sbatch, over several nodes: whole runs, and what comes between."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from realm_ds.config.load import dump
from realm_ds.observe.sinks import last_of_each_step, metrics_path, read_events
from tests.support.nodes import Node
from tests.support.slurm import Slurm
from tests.support.tiny import make_data, tiny_config
from tests.support.tiny_qa import make_questions
from tests.support.worlds import REPOSITORY

pytestmark = pytest.mark.slurm

STEPS, SAVE_EVERY = 24, 2
TRAINERS = 4
COMPARED = ("step", "loss", "retrieval_utility", "version", "retrieved_crc32")
START_S = 300.0
"""Sixteen ranks on two cores, which others may want as well, take their time to import what they need."""

SLEEPER = """\
#!/usr/bin/env bash
#SBATCH --requeue
set -euo pipefail
MPI_PLUGIN=none
source slurm/site.sh
realm_begin "$RUN"
realm_run "${SRUN[@]}" bash -c "echo a rank sleeps; exec sleep 600"
"""
"""A job as the scripts are, of ranks that do not take long to start."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, settings, run folders and logs."""
    folder = tmp_path_factory.mktemp("sbatch")
    make_data(folder)
    make_questions(folder)
    patient: dict[str, object] = {
        "runtime.trainers": None, "runtime.wait_timeout_s": START_S, "index.build_timeout_s": START_S,
    }  # fmt: skip
    length = {"pretrain.steps": STEPS, "pretrain.save_every_steps": SAVE_EVERY}
    (folder / "tiny.yaml").write_text(dump(tiny_config(folder, **patient, **length)))
    start = {"model.start_from": folder / "whole run/export"}
    (folder / "qa.yaml").write_text(dump(tiny_config(folder, **patient, **start)))
    return folder


@pytest.fixture(scope="module")
def jobs(slurm: Slurm, folder: Path) -> dict[str, int]:
    """A run, and the same as a heterogeneous job, at once on the same nodes; export and questions behind the first."""
    whole = submit(slurm, folder, "pretrain", *sizes(4, 2), CONFIG="tiny.yaml", RUN="whole run", INDEX_PER_NODE="1")
    hetjob = submit(slurm, folder, "pretrain-hetjob", *sizes(2, 2), ":", *sizes(2, 2), CONFIG="tiny.yaml", RUN="hetjob")
    export = submit(slurm, folder, "export", *sizes(1, 1), *after(whole), RUN="whole run")
    qa = submit(
        slurm, folder, "qa", *sizes(1, 2), *after(export), "--array=0-0", CONFIG="qa.yaml", RUN="qa runs",
        DATA_SETS=str(folder / "qa"), SEEDS="7", SETTINGS="qa.steps=2 qa.micro_batch_size=2 qa.retrieve=8 qa.read=2",
    )  # fmt: skip
    return {"whole": whole, "hetjob": hetjob, "export": export, "qa": qa}


def test_two_jobs_on_the_same_nodes_are_one_and_the_same_run(slurm: Slurm, folder: Path, jobs: dict[str, int]) -> None:
    """Also: a run over a heterogeneous job is that over nodes of one kind, bit for bit."""
    for name, run in (("whole", "whole run"), ("hetjob", "hetjob")):
        assert slurm.wait(jobs[name], timeout_s=START_S)["JobState"] == "COMPLETED", log(folder, jobs[name])
        assert len(steps(folder / run)) == STEPS * TRAINERS
    assert steps(folder / "whole run") == steps(folder / "hetjob")


def test_a_run_goes_on_by_itself_and_ends_as_the_one_that_nothing_came_between(
    slurm: Slurm, folder: Path, jobs: dict[str, int]
) -> None:
    """A node is lost, the job is queued again by hand, its time is over: each in the middle, one after the other."""
    job = submit(slurm, folder, "pretrain", *sizes(4, 2), CONFIG="tiny.yaml", RUN="broken run", INDEX_PER_NODE="1")
    run = folder / "broken run"

    def comes_between(what: Callable[[], object], *, after_steps: int) -> None:
        wait_for_step(slurm, run, last_step(run) + after_steps)  # of this start: those before may have come further
        starts = int(slurm.job(job)["Restarts"])
        what()
        slurm.wait_until(lambda: runs_again(starts), "its next start", timeout_s=START_S)

    def runs_again(starts: int) -> bool:
        """Counted alone, a start is one while the ranks of the last still finish a step."""
        known = slurm.job(job)
        return int(known["Restarts"]) > starts and known["JobState"] == "RUNNING"

    def reach_time_limit() -> None:
        with standing_still(slurm.worker("node1"), run):  # Slurm looks at limits every 30 s: all would be done by then
            slurm.run("scontrol", "update", f"JobId={job}", "TimeLimit=3")  # minutes, and that before it jobs are told
            told = "asked to end; telling the ranks"
            slurm.wait_until(lambda: told in log(folder, job), "it to be told of its end", timeout_s=START_S)
        slurm.run("scontrol", "update", f"JobId={job}", "TimeLimit=60")

    comes_between(slurm.worker("node4").power_off, after_steps=SAVE_EVERY + 1)
    assert "node4" in log(folder, job)
    comes_between(lambda: slurm.run("scontrol", "requeue", str(job)), after_steps=1)
    comes_between(reach_time_limit, after_steps=1)
    assert last_step(run) < STEPS, "all was done before its time was over"
    assert slurm.wait(job, timeout_s=START_S)["JobState"] == "COMPLETED", log(folder, job)
    assert slurm.wait(jobs["whole"], timeout_s=START_S)["JobState"] == "COMPLETED"
    assert steps(run) == steps(folder / "whole run")
    assert "queueing job" in log(folder, job)
    assert not (run / "why.txt").exists()


def test_export_and_questions_follow_as_dependent_jobs(slurm: Slurm, folder: Path, jobs: dict[str, int]) -> None:
    for name in ("export", "qa"):
        assert slurm.wait(jobs[name], timeout_s=START_S)["JobState"] == "COMPLETED", log(folder, jobs[name])
    assert (folder / "whole run/export/manifest.json").is_file()
    assert (folder / "qa runs/qa-seed-7/qa/test.json").is_file()


def test_a_fault_of_its_own_ends_a_job_and_is_said_first(slurm: Slurm, folder: Path) -> None:
    job = submit(
        slurm, folder, "pretrain", *sizes(2, 1), CONFIG="tiny.yaml", RUN="wrong", INDEX_PER_NODE="1",
        SETTINGS="index.placement=tail index.num_shards=1 pretrain.candidates=1000",
    )  # fmt: skip
    ended = slurm.wait(job, timeout_s=START_S)
    assert (ended["JobState"], ended["Restarts"]) == ("FAILED", "0"), log(folder, job)
    why = (folder / "wrong/why.txt").read_text()
    assert why.startswith(f"job {job} failed")
    assert "pretrain.candidates=1000 needs 999 passages" in why
    assert log(folder, job).rstrip().endswith(why.rstrip())


def test_a_job_that_is_cancelled_does_not_come_back(slurm: Slurm, folder: Path) -> None:
    script = folder / "sleeper.sbatch"
    script.write_text(SLEEPER)
    job = slurm.sbatch(f"--output={folder}/%j.log", "--nodes=2", str(script), env={"RUN": str(folder / "sleeper")})
    wait_for_sleep(slurm, folder / f"{job}.log", ranks=2)
    slurm.run("scancel", str(job))
    slurm.wait_until(lambda: "and decides whether it runs again" in log(folder, job), "its end", timeout_s=START_S)
    assert slurm.wait(job, timeout_s=START_S)["JobState"] == "CANCELLED"


def test_a_task_of_an_array_that_is_asked_to_end_leaves_the_others(slurm: Slurm, folder: Path) -> None:
    """Of tasks, one has the id that is Slurm's for all of them: that of the last."""
    script = folder / "sleeper.sbatch"
    script.write_text(SLEEPER)
    job = slurm.sbatch(f"--output={folder}/%A_%a.log", "--array=0-1", str(script), env={"RUN": str(folder / "array")})
    for task in (0, 1):
        wait_for_sleep(slurm, folder / f"{job}_{task}.log", ranks=1)
    last = f"{job}_1"
    assert slurm.job(last)["JobId"] == str(job)
    slurm.run("scancel", "--batch", "--signal=USR1", last)
    slurm.wait_until(lambda: slurm.job(last)["Restarts"] == "1", "its next start", timeout_s=START_S)
    assert (slurm.job(f"{job}_0")["JobState"], slurm.job(f"{job}_0")["Restarts"]) == ("RUNNING", "0")
    assert "asked to end" not in (folder / f"{job}_0.log").read_text()
    slurm.run("scancel", str(job))
    for task in (f"{job}_0", last):
        slurm.wait_until(lambda task=task: slurm.job(task)["JobState"] == "CANCELLED", "its end", timeout_s=START_S)


def wait_for_sleep(slurm: Slurm, log: Path, *, ranks: int) -> None:
    """Until the sleeper's ranks run: of a signal that comes while Slurm starts them they would not know."""
    slurm.wait_until(
        lambda: log.is_file() and log.read_text().count("a rank sleeps") == ranks, "its ranks", timeout_s=START_S
    )


def submit(slurm: Slurm, folder: Path, name: str, *options: str, **variables: str) -> int:
    """A script of slurm/, with options of sbatch and with variables; their files are in `folder`."""
    for variable in {"CONFIG", "RUN"} & variables.keys():
        variables[variable] = str(folder / variables[variable])
    script = str(REPOSITORY / "slurm" / f"{name}.sbatch")
    return slurm.sbatch(f"--output={folder}/%j.log", *options, script, env=variables)


@contextmanager
def standing_still(node: Node, run: Path) -> Iterator[None]:
    """The ranks that a run has on a node, meanwhile."""
    ranks = f"^[^ ]*python.*{run}"
    node.run("pkill", "--signal=STOP", "--full", ranks)
    try:
        yield
    finally:
        node.run("pkill", "--signal=CONT", "--full", ranks)


def sizes(nodes: int, tasks: int) -> list[str]:
    return [f"--nodes={nodes}", f"--ntasks-per-node={tasks}", "--cpus-per-task=1", "--gpus-per-node=1"]


def after(job: int) -> list[str]:
    return [f"--dependency=afterok:{job}", "--kill-on-invalid-dep=yes"]


def log(folder: Path, job: int) -> str:
    return (folder / f"{job}.log").read_text(errors="replace")


def steps(run: Path) -> list[tuple[object, ...]]:
    """Every logged step of every trainer; where a step was done twice, the second."""
    paths = [metrics_path(run, role="trainer", role_rank=rank) for rank in range(TRAINERS)]
    rows = [row for path in paths for row in last_of_each_step(read_events(path, event="step"))]
    return [tuple(row.get(name) for name in COMPARED) for row in rows]


def last_step(run: Path) -> int:
    """The newest that is logged; 0 before the first."""
    path = metrics_path(run, role="trainer", role_rank=0)
    return max((row["step"] for row in read_events(path, event="step")), default=0) if path.is_file() else 0


def wait_for_step(slurm: Slurm, run: Path, step: int) -> None:
    slurm.wait_until(lambda: last_step(run) >= step, f"step {step} in {run}", timeout_s=START_S)
