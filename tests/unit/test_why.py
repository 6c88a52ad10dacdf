"""Why a run failed: what its ranks left, what Slurm wrote, and which of the two counts."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from realm_ds.cli.main import app
from realm_ds.cluster.slurm import JobState
from realm_ds.cluster.slurm_log import Cause, cause_in, cause_of, last_attempt, last_words
from realm_ds.cluster.why import Answer, describe, explain, looking_at_jobs
from realm_ds.errors import ConfigError, IndexFault
from realm_ds.launch.failures import record_death, record_error, record_preemption, record_rank
from realm_ds.launch.watch import keep_looking
from realm_ds.observe.sinks import Sinks

NODE_FAILURE = """\
srun: error: Node failure on node2
slurmstepd: error: *** STEP 12.0 ON node1 CANCELLED AT 2026-11-28T01:57:14 DUE TO NODE FAILURE, SEE SLURMCTLD LOG ***
srun: error: node1: tasks 0-1: Killed"""
TIME_LIMIT = "slurmstepd: error: *** JOB 12 ON node1 CANCELLED AT 2026-11-28T01:57:14 DUE TO TIME LIMIT ***"
OUT_OF_MEMORY = """\
slurmstepd: error: Detected 1 oom_kill event in StepId=12.0. Some of the step tasks have been OOM Killed.
srun: error: node2: task 3: Out Of Memory"""


def no_slurm(job: str) -> None:
    return None


def state(word: str, reason: str = "") -> JobState:
    return JobState(job="12", state=word, reason=reason)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """One trainer and one index rank on two nodes, at step 2 a while ago; job 12, the first."""
    folder = tmp_path / "run"
    (folder / "job").mkdir(parents=True)
    (folder / "config.yaml").touch()
    record_rank(folder, world_rank=0, role="trainer", role_rank=0, host="node1")
    record_rank(folder, world_rank=3, role="index", role_rank=0, host="node2")
    with Sinks(folder, role="trainer", role_rank=0, stage="pretrain", clock=lambda: 990.0) as sinks:
        sinks.write("step", step=2, steps=9)
    say(folder, "realm: job 12, start 1, on node[1-2], in here")
    record = {"job": "12", "name": "pretrain", "log": str(folder / "job" / "pretrain-12.log")}
    (folder / "job" / "jobs.jsonl").write_text(json.dumps(record) + "\n")
    return folder


def say(run: Path, text: str, *, name: str = "pretrain-12") -> None:
    with (run / "job" / f"{name}.log").open("a") as log:
        log.write(text + "\n")


def fail(run: Path, error: str, *, at: float, host: str = "node1", world_rank: int = 0) -> None:
    """As a rank of another host would have said it."""
    role = {"world_rank": world_rank, "role": "trainer" if world_rank == 0 else "index", "role_rank": 0}
    path = run / "failures" / f"{world_rank}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({**role, "host": host, "pid": 1, "time": at, "error": error, "traceback": ""}))


@pytest.mark.parametrize(
    ("text", "kind", "what", "host", "world_rank"),
    [
        (NODE_FAILURE, "node", "node node2 failed", "node2", None),
        (NODE_FAILURE.splitlines()[1], "node", "a node failed", "", None),
        (OUT_OF_MEMORY, "memory", "out of memory on node2", "node2", 3),
        ("slurmstepd: error: Detected 2 oom-kill event(s) in StepId=12.0.", "memory", "out of memory", "", None),
        (TIME_LIMIT, "time", "the time limit of the job was reached", "", None),
        ("x: error: *** JOB 1 ON n CANCELLED AT 2026-01-01T00:00:00 DUE TO PREEMPTION ***", "preempted",
         "a job of higher priority took the nodes", "", None),
        ("slurmstepd: error: *** JOB 12 ON n CANCELLED AT 2026-11-28T01:57:14 ***", "cancelled",
         "somebody cancelled the job", "", None),
        ("srun: error: Couldn't find the specified plugin name for mpi/x", "start",
         "srun started nothing: Couldn't find the specified plugin name for mpi/x", "", None),
        ("PMI2: uses unsupported PMI version PMIx", "start",
         "MPI and srun's --mpi do not go together: PMI2: uses unsupported PMI version PMIx", "", None),
        ("bash: line 9: python: command not found", "start",
         "the ranks could not be started: bash: line 9: python: command not found", "", None),
        ("srun: error: node2: task 3: Segmentation fault (core dumped)", "rank",
         "a rank ended: Segmentation fault (core dumped)", "node2", 3),
    ],
)  # fmt: skip
def test_slurms_words_are_understood(text: str, kind: str, what: str, host: str, world_rank: int | None) -> None:
    found = cause_in(["noise", *text.splitlines(), "more"])
    assert found is not None
    assert (found.kind, found.what, found.host, found.world_rank) == (kind, what, host, world_rank)


def test_what_slurm_says_of_any_job_is_no_cause() -> None:
    """A step is said to be cancelled whenever a rank ends badly, a requeued job whenever it is asked to end."""
    assert cause_in(["slurmstepd: error: *** STEP 12.0 ON node1 CANCELLED AT 2026-11-28T01:57:14 ***"]) is None
    assert cause_in(["x: error: *** JOB 12 ON n CANCELLED AT 2026-11-28T01:57:14 DUE TO JOB REQUEUE ***"]) is None
    assert cause_in(["pretrain step 1/2: loss 2.3"]) is None
    assert cause_of(state("COMPLETED")) is None
    assert cause_of(state("TIMEOUT")) == Cause(kind="time", what="the time limit of the job was reached")
    never = cause_of(state("CANCELLED", "DependencyNeverSatisfied"))
    assert never is not None
    assert never.what == "a job that this one waited for did not succeed"


def test_only_the_last_start_of_a_job_counts(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert last_attempt(log).lines == ()
    log.write_text("a\nrealm: job 12, start 1, on n\n" + NODE_FAILURE + "\nrealm: job 12, start 2, on n\nb\nsrun: c\n")
    assert last_attempt(log).lines == ("b", "srun: c")
    assert last_words(last_attempt(log).lines) == "b"
    log.write_text(log.read_text() + "\nrealm: job 12 failed with exit code 1 on n, now:\n/run FAILED: x\n")
    found = last_attempt(log)
    assert (found.lines, found.given_up, found.reason) == (("b", "srun: c", ""), True, "/run FAILED: x")


def test_the_first_rank_that_failed_is_the_cause(run: Path) -> None:
    fail(run, "IndexFault: no answer", at=99.0)
    fail(run, "killed by SIGSEGV", at=98.0, host="node2", world_rank=3)
    say(run, "srun: error: node2: task 3: Killed")
    answer = explain(run, ask=no_slurm)
    assert (answer.has_failed, answer.what, answer.host) == (True, "killed by SIGSEGV", "node2")
    assert (answer.who, answer.world_rank, answer.time) == ("index 0 (world rank 3 on node2)", 3, 98.0)
    assert answer.also == "1 more failed after it"
    text = describe(answer, now=98.0 + 7200)
    assert text.startswith(f"{run} FAILED: killed by SIGSEGV\n  who    index 0 (world rank 3 on node2)\n  when   ")
    assert ", 2 h ago\n" in text
    assert text.endswith(f"  logs   {run}/job/pretrain-12.log")
    own = run / "logs" / "index-0.log"
    own.parent.mkdir()
    own.touch()
    assert explain(run, ask=no_slurm).logs == (f"{run}/job/pretrain-12.log", str(own))


def test_slurm_knows_more_of_a_rank_that_was_killed(run: Path) -> None:
    fail(
        run, "killed by SIGKILL: if nobody did that, the machine ran out of memory", at=99.0, host="node2", world_rank=3
    )
    say(run, OUT_OF_MEMORY)
    answer = explain(run, ask=no_slurm)
    assert (answer.what, answer.who) == ("out of memory on node2", "index 0 (world rank 3 on node2)")
    assert "--mem" in answer.remedy
    say(run, NODE_FAILURE)
    answer = explain(run, ask=no_slurm)
    assert (answer.what, answer.who, answer.host) == ("node node2 failed", "", "node2")
    assert answer.also.startswith("index 0 (world rank 3 on node2): killed by SIGKILL")


def test_a_lost_node_explains_what_others_waited_for_in_vain(run: Path) -> None:
    fail(run, "IndexFault: no answer from shard 0 within 60 s", at=99.0)
    say(run, TIME_LIMIT)
    assert explain(run, ask=no_slurm).what == "IndexFault: no answer from shard 0 within 60 s"
    say(run, NODE_FAILURE)
    assert explain(run, ask=no_slurm).what == "node node2 failed"
    assert (
        explain(run, ask=no_slurm).also
        == "trainer 0 (world rank 0 on node1): IndexFault: no answer from shard 0 within 60 s"
    )


def test_where_no_rank_has_said_anything_slurm_has(run: Path) -> None:
    say(run, TIME_LIMIT)
    answer = explain(run, ask=no_slurm)
    assert (answer.state, answer.what) == ("failed", "the time limit of the job was reached")
    assert answer.time is not None
    assert answer.remedy.startswith("submit it again, or raise --time")
    say(run, "srun: error: node2: task 3: Killed\n" + OUT_OF_MEMORY)
    assert explain(run, ask=no_slurm).who == "index 0 (world rank 3 on node2)"
    (run / "ranks" / "3.json").unlink()
    assert explain(run, ask=no_slurm).who == "world rank 3 on node2"


def test_where_the_log_says_nothing_slurm_is_asked(run: Path) -> None:
    answer = explain(run, ask=lambda job: replace(state("NODE_FAIL"), nodes="node2"))
    assert (answer.what, answer.host) == ("a node failed", "node2")
    say(run, "[trainer 0] last words\nsrun: error: whatever")
    answer = explain(run, ask=lambda job: state("FAILED", "NonZeroExitCode"))
    assert (answer.what, answer.also) == ("[trainer 0] last words", "the job ended as FAILED")
    (run / "ranks" / "3.json").unlink()
    answer = explain(run, ask=no_slurm)
    assert (answer.state, answer.what.partition(" for ")[0]) == ("dead", "no rank has written anything")


def test_a_run_that_goes_on_has_not_failed(run: Path) -> None:
    say(run, NODE_FAILURE)
    answer = explain(run, ask=lambda job: state("PENDING", "BeginTime"))
    assert (answer.has_failed, answer.what) == (False, "job 12 waits (BeginTime)")
    assert answer.also == "before that: node node2 failed"
    say(run, "realm: job 12, start 2, on node1\nsite.sh: line 3: module: command not found")
    record_rank(run, world_rank=0, role="trainer", role_rank=0, host="node1")
    (run / "ranks" / "3.json").unlink()
    with Sinks(run, role="trainer", role_rank=0, stage="pretrain") as sinks:
        sinks.write("joined")
    answer = explain(run, ask=lambda job: state("RUNNING"))
    assert (answer.state, describe(answer)) == ("running", f"{run} has not failed, it runs\n  job    12")
    record_preemption(run, step=2)
    assert not explain(run, ask=lambda job: state("RUNNING")).has_failed


def test_a_job_that_its_script_has_given_up_has_failed(run: Path) -> None:
    record_preemption(run, step=2)
    (run / "restarts").write_text("4 123-45\n")
    say(run, "\nrealm: job 12 failed with exit code 1 on node1, now:\nqueued again 4 times without getting any further")
    answer = explain(run, ask=no_slurm)
    assert (answer.has_failed, answer.what) == (True, "queued again 4 times without getting any further")
    assert "12, queued again 4 times without getting any further" in describe(answer)


def test_a_job_that_could_not_be_queued_again_has_failed(run: Path) -> None:
    record_preemption(run, step=2)
    say(run, "srun: error: node1: task 0: Exited with exit code 75")
    assert not explain(run, ask=no_slurm).has_failed
    say(run, "\nrealm: job 12 failed with exit code 75 on node1, now:\nasked to end, but Slurm does not queue it again")
    answer = explain(run, ask=no_slurm)
    assert (answer.has_failed, answer.what) == (True, "asked to end, but Slurm does not queue it again")


def test_ranks_that_never_came(run: Path) -> None:
    for path in (run / "ranks").iterdir():
        path.unlink()
    assert explain(run, ask=no_slurm).state == "starting"
    say(run, "bash: python: command not found")
    assert explain(run, ask=lambda job: state("RUNNING")).state == "starting"
    for answer in (explain(run, ask=no_slurm), explain(run, ask=lambda job: state("RUNNING"), code=127)):
        assert (answer.state, answer.what) == (
            "failed",
            "the ranks could not be started: bash: python: command not found",
        )
        assert answer.remedy.startswith("mend site.sh (modules, environment, MPI plugin); realm-ds doctor")


def test_a_run_that_failed_before_it_had_a_config(run: Path) -> None:
    (run / "config.yaml").unlink()
    say(run, "realm-ds: no config 'my.yaml'\nsrun: error: node1: task 0: Exited with exit code 2")
    answer = explain(run, ask=no_slurm, code=2)
    assert (answer.has_failed, answer.what) == (True, "a rank ended: Exited with exit code 2")
    record_error(run, ConfigError("no config"), pid=os.getpid())
    assert explain(run, ask=no_slurm).what == "ConfigError: no config"


def test_other_jobs_are_told_by_their_logs(run: Path) -> None:
    with Sinks(run, role="trainer", role_rank=0, stage="pretrain") as sinks:
        sinks.write("ended")
    with (run / "job" / "jobs.jsonl").open("a") as jobs:
        jobs.write(json.dumps({"job": "13", "name": "export", "log": f"{run}/job/export-13.log"}) + "\n")
    assert explain(run, ask=no_slurm).state == "done"  # it waits, and has said nothing
    os.utime(run / "job" / "pretrain-12.log", (5, 5))
    say(run, "realm: job 13, start 1, on node1\nconsolidating\nexported to x", name="export-13")
    assert explain(run, ask=no_slurm).state == "done"
    assert explain(run, ask=lambda job: state("RUNNING")).what == "export says: exported to x"
    assert explain(run, ask=lambda job: state("PENDING")).state == "starting"
    say(run, "realm-ds: the disk is full", name="export-13")
    answer = explain(run, ask=no_slurm)
    assert (answer.has_failed, answer.what, answer.also) == (True, "the disk is full", "while it did export")
    say(run, TIME_LIMIT, name="export-13")
    assert explain(run, ask=no_slurm).what == "the time limit of the job was reached"


@pytest.mark.parametrize("name", ["pretrain", "export"])
def test_a_job_that_is_cancelled_before_it_starts_has_failed(tmp_path: Path, name: str) -> None:
    (tmp_path / "job").mkdir()
    (tmp_path / "config.yaml").touch()
    record = {"job": "12", "name": name, "log": f"{tmp_path}/job/{name}-12.log", "line": "A=b sbatch x"}
    (tmp_path / "job" / "jobs.jsonl").write_text(json.dumps(record))
    answer = explain(tmp_path, ask=lambda job: state("CANCELLED", "PartitionNodeLimit"))
    assert (answer.has_failed, answer.what) == (True, "job 12 was cancelled before it started")
    assert "  to do  submit it again\n  again  A=b sbatch x" in describe(answer)
    answer = explain(tmp_path, ask=lambda job: state("FAILED"))
    assert (answer.has_failed, answer.what) == (True, "the job ended as FAILED")
    assert explain(tmp_path, ask=lambda job: state("PENDING")).what == "job 12 waits (PENDING)"


def test_who_watches_sees_how_a_job_is_that_has_not_started(tmp_path: Path) -> None:
    (tmp_path / "job").mkdir()
    (tmp_path / "config.yaml").touch()
    record = {"job": "12", "name": "pretrain", "log": f"{tmp_path}/job/pretrain-12.log"}
    (tmp_path / "job" / "jobs.jsonl").write_text(json.dumps(record))
    states = iter([state("PENDING", "Priority"), state("CANCELLED")])
    now = iter([0.0, 0.0, 29.0, 30.0, 30.0])
    look = looking_at_jobs(ask=lambda job: next(states), clock=lambda: next(now))
    views = list(keep_looking(tmp_path, every_s=2, sleep=lambda s: None, look=look))
    waits, gone = ("starting", "job 12 waits (Priority)"), ("failed", "job 12 was cancelled before it started")
    assert [(view.state, view.why) for view in views] == [waits, waits, gone]
    record_rank(tmp_path, world_rank=0, role="trainer", role_rank=0, host="node1")
    assert look(tmp_path).state == "running"


def test_what_submits_it_again_is_told(run: Path) -> None:
    fail(run, "IndexFault: late", at=99.0)
    record = {"job": "12", "name": "pretrain", "log": f"{run}/job/pretrain-12.log", "line": "A=b sbatch x"}
    (run / "job" / "jobs.jsonl").write_text(json.dumps(record))
    assert "\n  again  A=b sbatch x\n" in describe(explain(run, ask=no_slurm))
    (run / "job" / "jobs.jsonl").write_text(json.dumps(record | {"in_pipeline": True}))
    assert "\n  again  the same line of realm-ds submit pipeline\n" in describe(explain(run, ask=no_slurm))


@pytest.mark.parametrize(
    ("log", "target", "asked", "is_other"),
    [
        ("pretrain-14", "", "14", False),
        ("14", "realm-pretrain-hetjob-14", "14", False),
        ("14", "mine", "14", False),
        ("export-14", "", "14", True),
        ("14", "realm-export-14", "14", True),
        ("mine", "", "", False),
    ],
)
def test_the_newest_log_counts_also_of_a_job_that_was_submitted_by_hand(
    run: Path, log: str, target: str, asked: str, is_other: bool
) -> None:
    fail(run, "killed by SIGKILL", at=99.0)
    say(run, "srun: error: node1: task 0: Exited with exit code 137")
    os.utime(run / "job" / "pretrain-12.log", (5, 5))
    if target:
        (run / "job" / f"{log}.log").symlink_to(run / f"{target}.log")
        (run / f"{target}.log").touch()
    say(run, "realm: job 14, start 1, at 2999-01-01T00:00:00+00:00, on node1, in here\nworking", name=log)
    jobs: list[str] = []

    def ask(job: str) -> JobState:
        jobs.append(job)
        return replace(state("RUNNING"), job=job)

    answer = explain(run, ask=ask)
    assert (answer.job, "".join(jobs), answer.has_failed) == (asked, asked, False)
    assert (answer.what == "export says: working") == is_other


def test_what_ranks_left_counts_only_from_the_start_of_the_job(run: Path) -> None:
    """A job that is started again has nothing to do with what ended the one before, and may end of something else."""
    fail(run, "killed by SIGKILL", at=99.0)
    runs = lambda job: state("RUNNING")  # noqa: E731
    for path in (*(run / "failures").iterdir(), *(run / "ranks").iterdir()):
        os.utime(path, (1000, 1000))
    say(run, "realm: job 12, start 2, at 1970-01-01T00:16:44+00:00, on node1, in here")
    assert explain(run, ask=runs).what == "killed by SIGKILL"  # clocks differ
    say(run, "realm: job 12, start 2, at 1970-01-01T01:16:46+01:00, on node1, in here")
    answer = explain(run, ask=runs)
    assert (answer.state, answer.what) == ("starting", "its ranks have not met yet")
    say(run, "bash: python: command not found")
    assert explain(run, ask=no_slurm, code=127).what.startswith("the ranks could not be started: bash")
    with Sinks(run, role="trainer", role_rank=0, stage="pretrain") as sinks:
        sinks.write("ended")
    (run / "failures" / "0.json").unlink()
    assert explain(run, ask=no_slurm).state == "done"
    record_rank(run, world_rank=0, role="trainer", role_rank=0, host="node1")
    fail(run, "IndexFault: late", at=99.0)
    assert explain(run, ask=runs).what == "IndexFault: late"


def test_of_a_pipeline_the_part_that_spoke_last(run: Path, tmp_path: Path) -> None:
    pipeline = tmp_path / "all"
    (pipeline / "ict" / "job").mkdir(parents=True)
    run.rename(pipeline / "pretrain")
    say(pipeline / "ict", "x", name="ict-11")
    os.utime(pipeline / "ict" / "job" / "ict-11.log", (5, 5))
    say(pipeline / "pretrain", TIME_LIMIT)
    assert explain(pipeline, ask=no_slurm).folder == f"{pipeline}/pretrain"


def test_of_a_pipeline_that_was_only_submitted_the_first_job(tmp_path: Path) -> None:
    for number, (part, name) in enumerate([("ict", "ict"), ("ict", "export"), ("qa", "qa")], start=11):
        (tmp_path / part / "job").mkdir(parents=True, exist_ok=True)
        (tmp_path / part / "config.yaml").touch()
        with (tmp_path / part / "job" / "jobs.jsonl").open("a") as jobs:
            log = f"{tmp_path}/{part}/job/{name}-{number}.log"
            jobs.write(json.dumps({"job": str(number), "name": name, "log": log}) + "\n")
    silent = "has not started: job {} was submitted, and has said nothing yet\n"
    assert describe(explain(tmp_path, ask=no_slurm)).startswith(f"{tmp_path}/ict {silent.format(11)}")
    waits = explain(tmp_path, ask=lambda job: state("PENDING", "Priority"))
    assert (waits.state, waits.what) == ("starting", "job 11 waits (Priority)")

    (tmp_path / "prepare" / "job").mkdir(parents=True)
    record = {"job": "10", "name": "prepare", "log": f"{tmp_path}/prepare/job/prepare-10.log"}
    (tmp_path / "prepare" / "job" / "jobs.jsonl").write_text(json.dumps(record))
    assert describe(explain(tmp_path, ask=no_slurm)).startswith(f"{tmp_path}/prepare {silent.format(10)}")
    waits = explain(tmp_path, ask=lambda job: state("PENDING", "Resources"))
    assert (waits.state, waits.what) == ("starting", "job 10 waits (Resources)")
    runs = explain(tmp_path, ask=lambda job: state("RUNNING"))
    assert (runs.state, runs.what) == ("running", "job 10 was submitted and runs, and has said nothing yet")


def test_a_run_without_slurm(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()
    record_rank(tmp_path, world_rank=0, role="trainer", role_rank=0, host="node1")
    record_error(tmp_path, IndexFault("late"), pid=os.getpid())
    record_death(tmp_path, 9, pid=1)
    answer = explain(tmp_path)
    assert (answer.what, answer.job, answer.world_rank) == ("IndexFault: late", "", 0)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damage=st.dictionaries(
    st.sampled_from(["failures/0.json", "ranks/0.json", "restarts", "preempted.json", "job/jobs.jsonl", "job/a.log",
                     "metrics/trainer-0.jsonl"]),
    st.one_of(st.binary(max_size=40), st.sampled_from([b"[]", b'{"host": 1}', b'{"host": "n", "error": 3}'])),
))  # fmt: skip
def test_whatever_a_full_disk_has_left_there_is_an_answer(tmp_path: Path, damage: dict[str, bytes]) -> None:
    (tmp_path / "config.yaml").touch()
    for name, text in damage.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(text)
    answer = explain(tmp_path, ask=no_slurm)
    assert describe(answer)
    for name in damage:
        (tmp_path / name).unlink()


def test_the_verb(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")

    def verb(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["why", *arguments])
        return result.exit_code, result.stdout + result.stderr

    fail(run, "IndexFault: late", at=99.0)
    code, text = verb(str(run))
    assert (code, text.startswith(f"{run} FAILED: IndexFault: late\n")) == (1, True)
    assert "ago" in text
    assert "ago" not in verb(str(run), "--code", "1")[1]
    code, text = verb(str(run), "--json")
    found = json.loads(text)
    assert (code, found["has_failed"]) == (1, True)
    assert found.keys() == {"has_failed", *Answer.__dataclass_fields__}
    (run / "failures" / "0.json").unlink()
    with Sinks(run, role="trainer", role_rank=0, stage="pretrain") as sinks:
        sinks.write("ended")
    assert verb(str(run))[0] == 0
    (tmp_path / "log").write_text(TIME_LIMIT)
    assert verb(str(run), "--log", str(tmp_path / "log"))[0] == 0  # of a job before: it has trained to its end
    code, text = verb(str(tmp_path / "none"))
    assert (code, "none is no folder, so it holds no run" in text) == (2, True)
