"""Jobs are checked, get their run folder and are handed to sbatch; pipelines wait for themselves. Slurm is made up."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

from realm_ds.cli.main import app
from realm_ds.cli.prepare import prepare
from realm_ds.cluster.pipeline import plan_pipeline, submit_pipeline
from realm_ds.cluster.request import Request, preparing
from realm_ds.cluster.scripts import PREPARE_VERBS
from realm_ds.cluster.submit import check_is_shared, is_done, jobs_of, plan_job, show_plan, submit_job
from realm_ds.config.load import dump, load
from realm_ds.config.sizes import JobSizes
from realm_ds.errors import ConfigError, DataError, FolderTaken, LaunchError
from realm_ds.launch.stages import check_inputs
from realm_ds.sealed import seal
from tests.support.fake_slurm import FakeSlurm, install
from tests.support.tiny import make_data, tiny_config

SIZES = JobSizes(nodes=2, tasks_per_node=3, index_per_node=1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make_data(folder, num_facts=2)
    qa = folder / "qa"
    qa.mkdir()
    for split in ("train", "dev", "test"):
        (qa / f"{split}.jsonl").write_text('{"question": "a?", "answers": ["b"]}\n')
    config = tiny_config(folder, **{"pretrain.steps": 4, "index.num_shards": 1, "index.placement": "per_node"})
    (folder / "my.yaml").write_text(dump(config))
    (folder / "my.yaml").write_text(dump(load(folder / "my.yaml", [f"qa.data={qa}"])))
    return folder


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    """Slurm, and scripts in the folder where we are."""
    monkeypatch.chdir(tmp_path)
    scripts = tmp_path / "slurm"
    scripts.mkdir()
    for name in ("prepare", "ict", "pretrain", "export", "qa", "eval", "index"):
        (scripts / f"{name}.sbatch").write_text("#!/bin/sh\n#SBATCH --nodes=1 --ntasks-per-node=2\n")
    (scripts / "pretrain-hetjob.sbatch").write_text("#SBATCH -N1\n#SBATCH hetjob\n#SBATCH -N1\n")
    (scripts / "site.sh").write_text("# ours\n")
    for name in ("RUN", "CONFIG", "SETTINGS", "REALM_SITE"):
        monkeypatch.delenv(name, raising=False)
    return install(tmp_path / "programs", monkeypatch)


@pytest.fixture
def request_(tmp_path: Path, data: Path) -> Request:
    return Request(name="pretrain", run=tmp_path / "a run", source=str(data / "my.yaml"), sizes=SIZES)


def checkpoint(run: Path, stage: str, step: int) -> None:
    folder = run / "checkpoints" / f"step-{step:08d}"
    folder.mkdir(parents=True)
    (folder / "weights").write_text("some")
    seal(folder, stage=stage, step=step)


def export(run: Path) -> None:
    for name in ("query_tower", "passage_tower", "encoder"):
        (run / "export" / name).mkdir(parents=True)
        (run / "export" / name / "config.json").write_text("{}")
    projection = {"dense.weight": np.zeros((load(run).model.projection_size, 1), dtype=np.float32)}
    save_file(projection, run / "export" / "query_tower" / "projection.safetensors")
    (run / "export" / "manifest.json").touch()


def test_a_job_gets_its_run_folder_and_is_submitted(fake: FakeSlurm, request_: Request) -> None:
    run = request_.run
    assert submit_job(plan_job(replace(request_, overrides=("runtime.seed=5",), after="7:8"))) == "101"
    config = load(run)
    assert (config.index.num_shards, config.runtime.seed) == (2, 5)
    assert (run / "code.txt").is_file()
    assert (run / "job" / "site.sh").read_text() == "# ours\n"
    assert (run / "job" / "pretrain.sbatch").read_text() == Path("slurm/pretrain.sbatch").read_text()
    (call,) = fake.calls("sbatch")
    assert call["arguments"] == [
        "--parsable", f"--output={run}/job/pretrain-%j.log", "--export=ALL", "--dependency=afterok:7:8",
        "--kill-on-invalid-dep=yes", "--nodes=2", "--ntasks-per-node=3", f"{run}/job/pretrain.sbatch",
    ]  # fmt: skip
    environment = {name: call["environment"][name] for name in ("RUN", "CONFIG", "SETTINGS", "REALM_SITE")}  # type: ignore[index]
    settings = "index.num_shards=2 index.placement=per_node"
    assert environment == {
        "RUN": str(run), "CONFIG": str(run), "SETTINGS": settings, "REALM_SITE": f"{run}/job/site.sh",
    }  # fmt: skip
    (record,) = jobs_of(run)
    assert (record["job"], record["name"], record["log"]) == ("101", "pretrain", f"{run}/job/pretrain-101.log")
    assert "--nodes=2" in record["line"]
    assert "--dependency" not in record["line"]  # it would submit it again: 7 and 8 are over by then
    with (run / "job" / "jobs.jsonl").open("a") as file:
        file.write('{"job": "9"}\n[]\n{"jo')  # not ours, and half a line
    assert jobs_of(run) == [record]


def test_index_ranks_of_each_node_are_on_each_node(fake: FakeSlurm, request_: Request, data: Path) -> None:
    tail = data / "tail.yaml"
    tail.write_text(dump(load(data / "my.yaml", ["index.placement=tail"])))
    job = plan_job(replace(request_, source=str(tail)))
    assert job.config is not None
    assert job.config.index.placement == "per_node"
    assert job.environment["SETTINGS"] == "index.num_shards=2 index.placement=per_node"


def test_fine_tuning_has_index_ranks_where_sizes_or_settings_say_so(fake: FakeSlurm, request_: Request) -> None:
    job = plan_job(replace(request_, name="qa"))
    assert "2 x 3 ranks: 4 trainers, 2 index" in show_plan(job)
    assert job.environment["SETTINGS"] == "index.num_shards=2 index.placement=per_node qa.index=sharded"
    without = plan_job(replace(request_, name="qa", sizes=JobSizes(nodes=2, tasks_per_node=3)))
    assert "2 x 3 ranks\n" in show_plan(without)
    assert without.environment["SETTINGS"].endswith("qa.index=in_process")
    sharded = replace(request_, name="qa", overrides=("qa.index=sharded",), sizes=JobSizes(nodes=2, tasks_per_node=1))
    with pytest.raises(ConfigError, match="num_shards=1 is not a multiple of the 2 nodes"):
        plan_job(sharded)
    with pytest.raises(ConfigError, match="qa.index=in_process, but the sizes of the job say qa.index=sharded: leave"):
        plan_job(replace(request_, name="qa", overrides=("qa.index=in_process",)))


def test_a_dry_run_writes_nothing(fake: FakeSlurm, request_: Request) -> None:
    text = show_plan(plan_job(request_))
    assert "index:\n  num_shards: 2\n" in text
    assert "2 x 3 ranks: 4 trainers, 2 index" in text
    assert f"RUN='{request_.run}'" in text
    assert "sbatch '--output=" in text
    assert not request_.run.exists()
    assert fake.calls("sbatch") == []


def test_a_heterogeneous_job_counts_its_index_nodes(fake: FakeSlurm, request_: Request) -> None:
    sizes = JobSizes(nodes=2, tasks_per_node=2, index_nodes=1, index_tasks_per_node=3, time="5")
    job = plan_job(replace(request_, name="pretrain-hetjob", sizes=sizes))
    assert job.config is not None
    assert job.config.index.num_shards == 3
    assert job.arguments[2:-1] == [
        "--nodes=2", "--ntasks-per-node=2", "--time=5", ":", "--nodes=1", "--ntasks-per-node=3", "--time=5",
    ]  # fmt: skip
    with pytest.raises(
        ConfigError, match="index_per_node=1 would be ignored: pretrain-hetjob has no index ranks beside"
    ):
        plan_job(replace(request_, name="pretrain-hetjob", sizes=sizes.over(JobSizes(index_per_node=1))))


def test_other_scripts_take_variables(fake: FakeSlurm, request_: Request, data: Path) -> None:
    wanted = replace(request_, name="index", overrides=("index.vectors=fp16",), environment={"TOWER": "x"})
    job = plan_job(replace(wanted, source=str(data / "my.yaml"), sizes=JobSizes()))
    assert job.config is None
    assert job.environment["SETTINGS"] == "index.vectors=fp16"
    assert (job.environment["CONFIG"], job.environment["TOWER"]) == (str(data / "my.yaml"), "x")
    recipe = replace(
        wanted, source="demo", overrides=(f"data.corpus={data}", f"data.tokenizer={data}"), sizes=JobSizes()
    )
    assert plan_job(recipe).environment["CONFIG"] == "demo"
    for name in ("index", "export", "eval"):  # behind the job that makes what it begins with
        late = Request(name=name, run=request_.run, after="7")
        assert plan_job(late).environment["CONFIG"] == ""


def test_an_array_is_checked_with_each_of_its_data_sets(
    fake: FakeSlurm, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nq").symlink_to(data / "qa")
    wanted = Request(
        name="qa", run=tmp_path / "runs", source=str(data / "my.yaml"), overrides=("qa.data=null",),
        sizes=JobSizes(sbatch=("--array=0-2:2,3%1",)), environment={"DATA_SETS": f"nq {data}/qa", "SEEDS": "0 1"},
    )  # fmt: skip
    assert plan_job(wanted).config.qa.data is None  # type: ignore[union-attr]

    def told(message: str, *, array: str = "--array=0-3", error: type[Exception] = ConfigError, **sets: str) -> None:
        environment = {**wanted.environment, **sets}
        with pytest.raises(error, match=message):
            plan_job(replace(wanted, sizes=JobSizes(sbatch=(array,)), environment=environment))

    told("array=0-4 has a task 4, but 2 data sets and 2 seeds are tasks 0 to 3: name them by --env D", array="-a0-4")
    told("two of DATA_SETS are called qa, and so would be their run folders: rename one", DATA_SETS=f"qa {data}/qa")
    told("/wq/train.jsonl cannot be read", error=DataError, DATA_SETS="nq wq")
    told("array=0-3 of qa is over data sets: name them by --env DATA_SETS='data/nq data/wq'", DATA_SETS="")
    monkeypatch.setenv("DATA_SETS", "wq nq")
    told("/wq/train.jsonl cannot be read", error=DataError, DATA_SETS="")  # the script would take them as well
    with pytest.raises(ConfigError, match="qa.data is not set"):
        plan_job(replace(wanted, sizes=JobSizes()))


def test_each_task_of_a_study_has_a_cell(fake: FakeSlurm, tmp_path: Path) -> None:
    wanted = Request(name="ablate", run=tmp_path / "study", overrides=("pretrain.steps=5",), environment={"ONLY": ""})
    job = plan_job(wanted)
    assert job.config is None
    assert (job.environment["RUN"], job.environment["SETTINGS"]) == (str(tmp_path / "study"), "pretrain.steps=5")
    few = {"ONLY": "realm,stale", "SEEDS": "2"}
    plan_job(replace(wanted, environment=few, sizes=JobSizes(sbatch=("--array=0-3",))))
    for changes, says in (
        ({"environment": few}, "--array=0-35 has a task 35, but the study has cells 0 to 3 .*--sbatch=--array=0-3"),
        ({"environment": {"SEEDS": "few"}}, "--env SEEDS=few: give a number of seeds, such as 3"),
        ({"environment": {"ONLY": "real"}}, "no row 'real' in the study"),
        ({"environment": {"CORPUS": "wiki"}}, "--corpus .*wiki needs questions that it answers"),
        ({"overrides": ("pretrain.step=5",)}, "did you mean pretrain.steps"),
    ):
        with pytest.raises(ConfigError, match=says):
            plan_job(replace(wanted, **changes))  # type: ignore[arg-type]


def test_a_line_that_prepares_nothing_is_named(fake: FakeSlurm, request_: Request, tmp_path: Path) -> None:
    commands = tmp_path / "commands.txt"
    commands.write_text("# all\n\n qa 'a b.jsonl' --out q\nbogus foo\n")
    with pytest.raises(ConfigError, match="commands.txt, line 4: bogus is nothing to prepare: begin it with one of de"):
        plan_job(preparing(Request(name="prepare", run=request_.run), commands))
    assert {command.name for command in prepare.registered_commands} == set(PREPARE_VERBS)


def test_what_is_prepared_is_known_by_its_line(fake: FakeSlurm, request_: Request, tmp_path: Path) -> None:
    commands = tmp_path / "commands.txt"
    commands.write_bytes(b"# all\ncorpus a.xml \n\nqa b.jsonl")
    wanted = preparing(Request(name="prepare", run=request_.run), commands)
    job = plan_job(wanted)
    assert job.environment["COMMANDS"] == str(commands)
    assert not is_done(job)
    marks = request_.run / "job"
    marks.mkdir(parents=True)
    (marks / "done-2").write_text("corpus a.xml \n")
    (marks / "done-4").write_text("qa a.jsonl\n")
    assert not is_done(job)  # that was another line
    (marks / "done-4").write_text("qa b.jsonl\n")
    assert is_done(job)


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"sizes": JobSizes(nodes=2, tasks_per_node=1, index_per_node=1)}, ConfigError, "leaves no trainer in a world"),
        (
            {"sizes": JobSizes(nodes=2, tasks_per_node=2)},
            ConfigError,
            "num_shards=1 is not a multiple of the 2 nodes.*or say by --ind",
        ),
        (
            {"overrides": ("index.num_shards=3",)},
            ConfigError,
            "index.num_shards=3, but the sizes of the job say index.num_shards=2: leave one of the two out",
        ),
        (
            {"overrides": ("index.placement=tail",)},
            ConfigError,
            "index.placement=tail, but the sizes of the job say index.placement=per_node: leave one of the two out",
        ),
        (
            {"name": "export", "source": None},
            ConfigError,
            "index_per_node=1 would be ignored: export has no index ranks",
        ),
        (
            {"name": "export", "sizes": JobSizes()},
            ConfigError,
            "--config .*my.yaml would be ignored: export takes no set",
        ),
        (
            {"name": "eval", "sizes": JobSizes(), "source": None, "overrides": ("a.b=c", "d=e")},
            ConfigError,
            "a.b=c d=e would be ignored: eval takes no settings; leave that out",
        ),
        (
            {"name": "export", "sizes": JobSizes(), "source": None},
            ConfigError,
            "a run is no run folder, it has no config.yaml: name by --run the one to export, or by --after the job",
        ),
        (
            {"name": "eval", "sizes": JobSizes(), "source": None},
            ConfigError,
            "no folder .*a run of runs that have answered questions: name it by --run, or by --after the job that",
        ),
        ({"source": None}, ConfigError, "a run is no run yet: name its settings with --config: a YAML file or a rec"),
        (
            {"name": "index", "sizes": JobSizes(), "source": None},
            ConfigError,
            "2 settings are wrong:\n  data.corpus is missing",
        ),
        ({"name": "index", "sizes": JobSizes(), "overrides": ("index.vector=1",)}, ConfigError, "mean index.vectors"),
        (
            {"name": "index", "sizes": JobSizes(), "run": Path("slurm")},
            ConfigError,
            "slurm is no index and not empty .it holds eval.sbatch.: name another folder with --run",
        ),
        (
            {"name": "prepare", "sizes": JobSizes(), "source": None},
            ConfigError,
            "prepare.txt of what to prepare is no file: name by --prepare one with a line for each thing, such as: cor",
        ),
        ({"name": "ict"}, ConfigError, "index_per_node=1 would be ignored: ict has no index ranks beside trainers"),
        (
            {"sizes": JobSizes(sbatch=("--array=0-3",))},
            ConfigError,
            "--array=0-3 would have several jobs write into .*a run: only prepare, qa, ablate are arrays; for several",
        ),
        (
            {"environment": {"RUN": "/elsewhere"}},
            ConfigError,
            "--env RUN: give it by --run, so that it is checked",
        ),
        (
            {"name": "index", "sizes": JobSizes(), "overrides": ("data.corpus=/my data",)},
            ConfigError,
            "'data.corpus=/my data': the script takes settings as words: write it into the file of --config",
        ),
        ({"after": "abc"}, ConfigError, "--after abc: give job ids, 12 or 12:13, or a condition of Slurm's such as"),
        ({"sizes": JobSizes(sbatch=("mem=0",))}, ConfigError, "'mem=0' is no option of sbatch: write --sbatch=--mem=0"),
        ({"overrides": ("data.corpus=/nowhere",)}, DataError, "/nowhere"),
        ({"overrides": ("model.start_from=/nowhere",)}, Exception, "/nowhere"),
    ],
)
def test_what_cannot_work_is_told_before_it_waits_in_a_queue(
    fake: FakeSlurm, request_: Request, changes: dict[str, object], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        plan_job(replace(request_, **changes))  # type: ignore[arg-type]


def test_disks_of_nodes_are_not_looked_for_here(
    fake: FakeSlurm, request_: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REALM_NVME", "/proc/nowhere")
    config = plan_job(replace(request_, overrides=("runtime.deepspeed=zero3-bf16-nvme",))).config
    assert config is not None
    with pytest.raises(ConfigError, match="/proc/nowhere.* cannot be written"):
        check_inputs("pretrain", config)


def test_what_an_earlier_job_makes_may_be_late(
    fake: FakeSlurm, request_: Request, capsys: pytest.CaptureFixture[str]
) -> None:
    late = replace(request_, after="7", overrides=("model.start_from=/nowhere",))
    assert str(plan_job(late).config.model.start_from) == "/nowhere"  # type: ignore[union-attr]
    late = replace(request_, after="7", overrides=("data.corpus=/nowhere",))
    with pytest.raises(DataError):
        plan_job(late)
    plan_job(replace(late, data_may_be_late=True))
    assert "not there yet: no folder /nowhere of corpus tar shards" in capsys.readouterr().err


def test_a_run_is_neither_overwritten_nor_submitted_twice(fake: FakeSlurm, request_: Request) -> None:
    job = plan_job(request_)
    submit_job(job)
    fake.answer("squeue", "101|101|PENDING|Priority|\n")
    with pytest.raises(
        ConfigError, match="is job 101's, PENDING Priority: wait for its end, or end it .scancel 101., "
    ):
        submit_job(job)
    assert submit_job(replace(job, after="101")) == "102"
    fake.answer("squeue", "")
    checkpoint(request_.run, "pretrain", 2)
    with pytest.raises(ConfigError, match="holds a run already: add --resume"):
        submit_job(job)
    again = plan_job(replace(request_, source=None, sizes=JobSizes(nodes=2, tasks_per_node=3), resume=True))
    assert submit_job(again) == "103"
    assert load(request_.run).index.num_shards == 2
    assert not is_done(again)
    checkpoint(request_.run, "pretrain", 4)
    assert is_done(again)


def test_a_run_that_others_train_is_left_alone(
    fake: FakeSlurm, request_: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = plan_job(request_)
    submit_job(job)
    asked: list[Path] = []

    def refuse(run: Path) -> None:
        asked.append(run)
        raise FolderTaken("is being trained")

    monkeypatch.setattr("realm_ds.cluster.submit.refuse_to_join_in", refuse)
    for after in ("", "99"):  # 99 is of another run
        with pytest.raises(ConfigError, match="is being trained"):
            submit_job(replace(job, after=after))
    assert asked == [request_.run] * 2
    submit_job(replace(job, after="101"))


def test_a_folder_that_no_node_sees_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text("/dev/a / ext4 rw 0 0\ntmpfs /mem\\040ory tmpfs rw 0 0\nnas /mem\\040ory/nas nfs4 rw 0 0\n")
    with pytest.raises(
        ConfigError, match="/mem ory/run is in this host's memory .tmpfs., where no node of a job sees it"
    ):
        check_is_shared(Path("/mem ory/run"), mounts=mounts)
    for place in ("/mem ory/nas/run", "/home/run", "/mem/run"):
        check_is_shared(Path(place), mounts=mounts)
    assert capsys.readouterr().err == ""
    check_is_shared(Path("/tmp/run"), mounts=mounts)
    assert "/tmp is often each node's own" in capsys.readouterr().err


def run_cli(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.stdout, result.stderr


def test_a_pipeline_is_one_line(fake: FakeSlurm, data: Path, tmp_path: Path) -> None:
    run, sizes, commands = tmp_path / "all", tmp_path / "sizes.yaml", tmp_path / "prepare.txt"
    sizes.write_text("pretrain:\n  nodes: 2\n  tasks_per_node: 2\n  index_nodes: 1\n")
    commands.write_text("corpus a.xml\n")
    line = ["submit", "pipeline", "-c", str(data / "my.yaml"), "-r", str(run), "--sizes", str(sizes), "--nodes", "4",
            "--qos", "long", "--prepare", str(commands)]  # fmt: skip
    code, out, err = run_cli(*line, "--dry-run")
    assert code == 0, err
    assert "--dependency=afterok:JOB-OF-pretrain" in out
    assert "num_shards: " not in out
    assert len(out.splitlines()) < 40
    assert not run.exists()
    code, out, err = run_cli(*line)
    assert code == 0, err
    assert "job 104: pretrain-hetjob in" in out
    assert "scancel 101 102 103 104 105 106" in out
    calls = [call["arguments"] for call in fake.calls("sbatch")]
    assert [Path(call[-1]).parent.parent.name + "/" + Path(call[-1]).stem for call in calls] == [  # type: ignore[index]
        "prepare/prepare", "ict/ict", "ict/export", "pretrain/pretrain-hetjob", "pretrain/export", "qa/qa",
    ]  # fmt: skip
    waits = [[word for word in call if word.startswith("--dependency")] for call in calls]  # type: ignore[attr-defined]
    assert waits == [[], *([f"--dependency=afterok:{number}"] for number in range(101, 106))]
    nodes = [[word for word in call if word.startswith("--nodes")] for call in calls]  # type: ignore[attr-defined]
    assert nodes == [[], ["--nodes=4"], [], ["--nodes=2", "--nodes=1"], [], ["--nodes=4"]]
    assert all("--qos=long" in call for call in calls)  # type: ignore[operator]
    assert load(run / "qa").model.start_from == run / "pretrain" / "export"
    assert fake.calls("sbatch")[0]["environment"]["COMMANDS"] == str(commands)  # type: ignore[index]


def test_a_pipeline_goes_on_where_it_was(fake: FakeSlurm, data: Path, tmp_path: Path) -> None:
    wanted = Request(name="pipeline", run=tmp_path / "all", source=str(data / "my.yaml"))
    steps = plan_pipeline(wanted, sizes={})
    submit_pipeline(steps, run=wanted.run)
    fake.answer("squeue", "103|103|RUNNING|None|node1\n")
    with pytest.raises(ConfigError, match="jobs of the pipeline in .* are in the queue: 103 .RUNNING.. .*scancel 103"):
        submit_pipeline(steps, run=wanted.run)
    fake.answer("squeue", "")
    checkpoint(wanted.run / "ict", "ict", load(data / "my.yaml").ict.steps)
    checkpoint(wanted.run / "pretrain", "pretrain", 2)
    for stage in ("ict", "pretrain"):  # the second of these is of another checkpoint than the last
        export(wanted.run / stage)
    (wanted.run / "qa/qa").mkdir()
    (wanted.run / "qa/qa/test.json").touch()  # and so is this: it was of fewer steps of pre-training
    steps = plan_pipeline(wanted, sizes={})
    assert [step.name for step in steps if step.is_done] == ["ict", "ict export"]
    fake.answer("sbatch", error="sbatch: error: over your limit", code=1)
    with pytest.raises(LaunchError, match="^pretrain: sbatch refused the job: over your limit"):
        submit_pipeline(steps, run=wanted.run)
    fake.answer("sbatch", "NUMBER")
    assert [step.name for step, _ in submit_pipeline(steps, run=wanted.run)] == ["pretrain", "pretrain export", "qa"]


def test_a_pipeline_that_is_refused_in_part_is_taken_back(fake: FakeSlurm, data: Path, tmp_path: Path) -> None:
    wanted = Request(name="pipeline", run=tmp_path / "all", source=str(data / "my.yaml"))
    steps = plan_pipeline(wanted, sizes={})
    fake.refuse("pretrain.sbatch", "sbatch: error: invalid partition specified: gpu")
    with pytest.raises(
        LaunchError, match="^pretrain: sbatch refused.*: gpu. .* .cancelled again, submitted before it: 101 102.$"
    ):
        submit_pipeline(steps, run=wanted.run)
    assert [call["arguments"] for call in fake.calls("scancel")] == [["101", "102"]]
    fake.answer("scancel", error="scancel: error: Unable to contact slurm controller", code=1)
    with pytest.raises(
        LaunchError, match="before it, and not cancelled, scancel failed: Unable.*: end them by scancel 104 105.$"
    ):
        submit_pipeline(steps, run=wanted.run)
    checkpoint(wanted.run / "pretrain", "pretrain", 2)  # by somebody else, since it was looked at
    with pytest.raises(ConfigError, match="^pretrain: .*/pretrain holds a run already: .*before it, and not cancelled"):
        submit_pipeline(steps, run=wanted.run)


def test_what_was_refused_is_submitted_by_the_same_line(fake: FakeSlurm, request_: Request) -> None:
    fake.refuse("pretrain.sbatch", "sbatch: error: invalid partition specified: gpu")
    with pytest.raises(LaunchError, match="invalid partition"):
        submit_job(plan_job(request_))
    fake.refuse("none")
    assert submit_job(plan_job(request_)) == "102"


def test_submitting_is_told(fake: FakeSlurm, data: Path, tmp_path: Path) -> None:
    line = ["submit", "pretrain", "-c", str(data / "my.yaml"), "-r", str(tmp_path / "run"), "pretrain.steps=3"]
    code, out, err = run_cli(*line)
    assert code == 0, err
    assert "job 101: pretrain in" in out
    assert "1 x 2 ranks: 1 trainers, 1 index" in out
    assert f"realm-ds watch {tmp_path}/run" in out
    assert "scancel 101" in out
    checkpoint(tmp_path / "run", "pretrain", 3)
    code, out, _ = run_cli(*line, "--resume")
    assert (code, out) == (0, f"nothing is left to do: {tmp_path}/run is done\n")
    assert len(fake.calls("sbatch")) == 1


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (["pretrian"], "pretrian is no job: did you mean pretrain?"),
        (["zzz"], "zzz is no job: there are prepare, ict,"),
        (["ict", "--sizes", "s.yaml"], "--sizes is for submit pipeline: give ict its own, --nodes and the like"),
        (["ict", "--prepare", "p.txt"], "--prepare is for submit prepare and submit pipeline: ict prepares nothing"),
        (
            ["prepare", "--prepare", "none"],
            "/none of what to prepare is no file: name by --prepare one with a line for",
        ),
        (
            ["export", "--run", "r", "--resume"],
            "--resume is for submit ict, pretrain, pretrain-hetjob, qa: export goes on by itself where it can",
        ),
        (["export"], "submit export needs --run: the run to export"),
        (["eval"], "submit eval needs --run: the folder of the runs that qa has made"),
        (["index"], "submit index needs --run: where to write the index"),
        (["ict", "--env", "a b"], "--env a b: write NAME=VALUE, a variable that the script's head lists"),
    ],
)
def test_misuse_is_one_line_and_code_2(fake: FakeSlurm, line: list[str], says: str) -> None:
    code, _, err = run_cli("submit", *line)
    assert code == 2
    assert says in err


def test_a_run_folder_is_that_of_the_stage(fake: FakeSlurm, data: Path, tmp_path: Path) -> None:
    code, out, err = run_cli("submit", "pretrain-hetjob", "-c", str(data / "my.yaml"), "--dry-run")
    assert code == 0, err
    assert f"pretrain-hetjob in {tmp_path}/runs/pretrain, 1 x 1 + 1 x 1 ranks" in out


def test_no_slurm_is_said(fake: FakeSlurm, request_: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(LaunchError, match="no sbatch on PATH, so this is no host of a Slurm cluster"):
        submit_job(plan_job(request_))
