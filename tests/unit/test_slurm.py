"""The door to Slurm, with programs that only say what a test tells them; batch scripts' lines and sizes."""

from pathlib import Path

import pytest

from realm_ds.cluster import slurm
from realm_ds.cluster.scripts import Component, components, sbatch_options, script_path, site_path
from realm_ds.cluster.slurm import JobState, live_jobs, state_of, submit
from realm_ds.config.sizes import JobSizes, load_sizes
from realm_ds.errors import ConfigError, LaunchError
from tests.support.fake_slurm import FakeSlurm, install

SCRIPT = """#!/usr/bin/env bash
# Nodes of one kind.
#SBATCH --nodes=8 # of eight
#SBATCH --ntasks-per-node 4
#SBATCH --requeue
#SBATCH -t 1:00

true
#SBATCH --nodes=99
"""
HETJOB = """#!/usr/bin/env bash
#SBATCH -N2 -n 6
#SBATCH hetjob
#SBATCH --nodes=3
#SBATCH --exclusive
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    return install(tmp_path / "programs", monkeypatch)


def test_a_job_is_submitted_with_its_environment(fake: FakeSlurm) -> None:
    path = fake.folder
    assert submit(["--nodes=2", "a b.sbatch"], environment={"RUN": "a b", "PATH": str(path)}) == "101"
    (call,) = fake.calls("sbatch")
    assert call["arguments"] == ["--parsable", "--nodes=2", "a b.sbatch"]
    assert call["environment"]["RUN"] == "a b"  # type: ignore[index]


def test_slurms_refusal_is_told_in_its_words(fake: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.answer("sbatch", error="sbatch: error: invalid partition specified: gpu\nsbatch: error: Batch job no.", code=1)
    with pytest.raises(LaunchError, match="sbatch refused the job: invalid partition specified: gpu; Batch job no. "):
        submit([], environment={"PATH": str(fake.folder)})
    fake.answer("sbatch", "Submitted batch job")
    with pytest.raises(LaunchError, match="'Submitted batch job' where a job id was due: look with squeue --me"):
        submit([], environment={"PATH": str(fake.folder)})
    fake.answer("squeue", error="slurm_load_jobs error: Unable to contact slurm controller", code=1)
    with pytest.raises(LaunchError, match="squeue failed: slurm_load_jobs error: Unable to contact slurm controller"):
        live_jobs(["12"])
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(
        LaunchError, match="no squeue on PATH, so this is no host of a Slurm cluster: submit from a log"
    ):
        live_jobs(["12"])
    assert state_of("12") is None


@pytest.mark.parametrize(
    ("program", "says"),
    [("sbatch", "before you submit again"), ("squeue", "gave no answer within 0.001 s.*try again in a while")],
)
def test_a_controller_that_is_silent_is_given_up(
    fake: FakeSlurm, monkeypatch: pytest.MonkeyPatch, program: str, says: str
) -> None:
    with pytest.raises(LaunchError, match=says):
        slurm._ask([program], timeout_s=0.001)


def test_live_jobs_are_those_of_the_queue(fake: FakeSlurm) -> None:
    assert live_jobs([]) == []
    assert fake.calls("squeue") == []
    fake.answer("squeue", "31|30|PENDING|Priority|\n30|30|RUNNING|None|node[1-2]\n12|12|PENDING|Dependency|\n")
    waits = JobState(job="12", state="PENDING", reason="Dependency")
    assert live_jobs(["12", "30"]) == [waits, JobState(job="30", state="PENDING", reason="Priority")]  # an array
    assert fake.calls("squeue")[0]["arguments"][-1] == "--jobs=12,30"  # type: ignore[index]
    fake.answer("squeue", error="slurm_load_jobs error: Invalid job id specified", code=1)
    assert live_jobs(["7"]) == []


def test_a_job_that_ended_is_asked_for_in_two_places(fake: FakeSlurm) -> None:
    assert state_of("12") is None
    fake.answer("sacct", "CANCELLED by 1000|None|node1\n")
    assert state_of("12") == JobState(job="12", state="CANCELLED", nodes="node1")
    of_components = (
        "JobId=12 JobState=COMPLETED Reason=None NodeList=node1\nJobId=13 JobState=FAILED Reason=NonZeroExitCode"
    )
    fake.answer("scontrol", of_components + " ReqNodeList=(null) NodeList=(null)\n")
    assert state_of("12") == JobState(job="12", state="FAILED", reason="NonZeroExitCode")
    fake.answer("scontrol", of_components + "\nJobId=14 JobState=RUNNING Reason=None NodeList=node3")
    found = state_of("12")
    assert found is not None
    assert found.is_live


def test_a_script_says_how_large_it_is() -> None:
    assert components(SCRIPT, JobSizes()) == (Component(nodes=8, tasks_per_node=4),)
    assert components(SCRIPT, JobSizes(nodes=2)) == (Component(nodes=2, tasks_per_node=4),)
    assert components(SCRIPT, JobSizes(tasks_per_node=3, sbatch=("-N5",))) == (Component(nodes=5, tasks_per_node=3),)
    assert components(HETJOB, JobSizes()) == (
        Component(nodes=2, tasks_per_node=3),
        Component(nodes=3, tasks_per_node=1),
    )
    assert components(HETJOB, JobSizes(index_nodes=1, index_tasks_per_node=2))[1] == Component(
        nodes=1, tasks_per_node=2
    )
    assert components("#!/bin/sh\n", JobSizes()) == (Component(nodes=1, tasks_per_node=1),)
    # Of tasks in all and tasks of a node sbatch takes the first, and the second as the most that a node gets.
    assert components(SCRIPT, JobSizes(nodes=2, sbatch=("--ntasks=6",))) == (Component(nodes=2, tasks_per_node=3),)


@pytest.mark.parametrize(
    ("text", "sizes", "says"),
    [
        ("#SBATCH --nodes=2-4\n", JobSizes(), "nodes=2-4: a run has a fixed number of ranks, so give one number"),
        ("#SBATCH -N2 -n5\n", JobSizes(), "ntasks=5 cannot be the same on all 2 nodes: give --tasks-per-node"),
        (
            "#SBATCH -N2\n",
            JobSizes(index_nodes=2),
            "index_nodes=2 is for nodes of another kind, .* submit pretrain-hetjob .of a pipeline, give index_nodes.",
        ),
        ("#SBATCH -N2\n", JobSizes(index_tasks_per_node=2), "index_tasks_per_node=2 is for nodes of another kind"),
        ("#SBATCH -N2\n", JobSizes(index_sbatch=("--mem=0",)), "index_sbatch=--mem=0 is for .* leave index_sbatch out"),
        (SCRIPT, JobSizes(nodes=2, sbatch=("-n10",)), "ntasks=10 cannot be the same on all 2 nodes of at most 4: give"),
        (SCRIPT, JobSizes(nodes=2, sbatch=("--nodes=5",)), "nodes=5 for sbatch, but nodes=2: leave one of them out"),
        (
            HETJOB,
            JobSizes(index_tasks_per_node=2, index_sbatch=("-n6",)),
            "ntasks=6 for sbatch, but ntasks-per-node=2: leave one of them out",
        ),
    ],
)
def test_sizes_that_are_no_fixed_number_are_refused(text: str, sizes: JobSizes, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        components(text, sizes)


def test_sizes_as_options() -> None:
    sizes = JobSizes(nodes=2, gpus_per_node="a100:4", time="1:00", sbatch=("--mem=0",), index_nodes=1)
    first = ["--nodes=2", "--gpus-per-node=a100:4", "--time=1:00", "--mem=0"]
    assert sbatch_options(sizes, is_hetjob=False) == first
    assert sbatch_options(sizes, is_hetjob=True) == [*first, ":", "--nodes=1", "--time=1:00"]
    assert sbatch_options(JobSizes(nodes=2), is_hetjob=True) == [
        "--nodes=2",
        ":",
    ]  # else the index's would be two as well
    assert sbatch_options(JobSizes(index_nodes=1), is_hetjob=True) == [":", "--nodes=1"]


def test_a_file_of_sizes(tmp_path: Path) -> None:
    path = tmp_path / "sizes.yaml"
    path.write_text("ict:\n  nodes: 2\n  time: 12:00:00\n  qos: null\npretrain:\n  sbatch: [--mem=0]\n")
    sizes = load_sizes(path, names=("ict", "pretrain"))
    assert sizes == {"ict": JobSizes(nodes=2, time="12:00:00"), "pretrain": JobSizes(sbatch=("--mem=0",))}
    assert sizes["ict"].over(JobSizes(nodes=9, account="us")) == JobSizes(nodes=2, time="12:00:00", account="us")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("pretrian:\n  nodes: 2\n", "sizes.yaml: pretrian is no job; did you mean pretrain?"),
        ("x:\n  nodes: 2\n", "x is no job: ict, pretrain"),
        ("ict: 2\n", "ict is '2': write its sizes below it, as `  nodes: 2`"),
        ("ict:\n  node: 2\n", "ict.node is no size of a job; did you mean nodes?"),
        ("ict:\n  nodes: two\n", "ict.nodes is 'two', but the input should be a valid integer"),
        ("ict:\n  nodes: 0\nqa: 1", "ict.nodes is '0', but the input should be greater.*; qa|qa is no job"),
        ("[ict]", "holds no sizes: write the name of a job and below it"),
        ("a: [", "sizes.yaml is not YAML: while parsing"),
    ],
)
def test_mistakes_in_a_file_of_sizes_are_named(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "sizes.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=says):
        load_sizes(path, names=("ict", "pretrain"))


def test_a_file_of_sizes_is_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read --sizes .*none.yaml: No such file"):
        load_sizes(tmp_path / "none.yaml", names=())


def test_scripts_are_the_ones_at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ConfigError, match="slurm/none.sbatch is neither in .* nor beside .*: the installation is incom"
    ):
        script_path("none")
    for name in ("none.sbatch", "site.sh"):
        (tmp_path / "slurm").mkdir(exist_ok=True)
        (tmp_path / "slurm" / name).touch()
    (tmp_path / "my.sh").touch()
    assert script_path("none") == tmp_path / "slurm" / "none.sbatch"
    assert site_path(None, environment={}) == tmp_path / "slurm" / "site.sh"
    assert site_path(Path("my.sh"), environment={"REALM_SITE": "/else"}) == tmp_path / "my.sh"
    assert site_path(None, environment={"REALM_SITE": "my.sh"}) == tmp_path / "my.sh"
    with pytest.raises(ConfigError, match="REALM_SITE=/else is no file: name your site.sh, a copy of .*/slurm/site.sh"):
        site_path(None, environment={"REALM_SITE": "/else"})
