"""Launches that cannot work: each ends within seconds, and says what is wrong and how to mend it.

Roles that disagree between ranks, addresses that nobody reaches and dying ranks are test_world.py's.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from realm_ds.comm.code import PACKAGE
from realm_ds.config.load import dump
from realm_ds.sealed import seal
from realm_ds.train.manifest import step_folder
from tests.support.tiny import make_data, tiny_config
from tests.support.worlds import mpiexec, run_ranks, world_environment

WITHIN_S = 30.0


def refused(program: str, *, processes: int, env: dict[str, str] | None = None) -> str:
    """What the ranks say before they end, by an uncaught exception."""
    outcome = run_ranks(program, processes=processes, env=env, timeout_s=WITHIN_S)
    assert outcome.code == 1, outcome.output
    assert "torch was loaded: False" in outcome.stdout, outcome.output
    assert "torch was loaded: True" not in outcome.stdout, outcome.output
    return outcome.stderr


JOIN = """
import os, sys
from pathlib import Path
rank = int(os.environ.get("PMI_RANK", os.environ.get("OMPI_COMM_WORLD_RANK", "0")))
{before}
from realm_ds.comm.world import join_world
try:
    join_world(num_shards={shards}, placement="{placement}", timeout_s={timeout_s}, folder={folder})
finally:
    print("torch was loaded:", "torch" in sys.modules, flush=True)
"""


def joining(
    before: str = "", *, shards: int = 0, placement: str = "tail", folder: str = "None", timeout_s: float = 20
) -> str:
    return JOIN.format(before=before, shards=shards, placement=placement, folder=folder, timeout_s=timeout_s)


@pytest.mark.parametrize("verb", ["pretrain", "doctor"])
def test_singletons_under_a_launcher_that_mpi_did_not_understand(verb: str, tmp_path: Path) -> None:
    """As Open MPI's mpirun starts programs that have loaded mpich."""
    settings = ["data.corpus=c", "data.tokenizer=t"] if verb == "pretrain" else []
    command = [sys.executable, "-m", "mpi4py", "-m", "realm_ds", verb, "--run", str(tmp_path / "run"), *settings]
    env = world_environment("singletons", {})
    told = []
    for rank in range(2):
        ranked = env | {"OMPI_COMM_WORLD_RANK": str(rank), "OMPI_COMM_WORLD_SIZE": "2"}
        done = subprocess.run(command, env=ranked, capture_output=True, text=True, timeout=WITHIN_S)
        told.append((done.returncode, done.stdout if verb == "doctor" else done.stderr))
    code, words = told[0][0], " ".join(told[0][1].split())  # a table folds its lines
    assert code == 1
    assert not (tmp_path / "run" / "config.yaml").exists()
    if verb == "doctor":
        assert told[1] == (0, "")  # one speaks for all
    assert "OMPI_COMM_WORLD_SIZE=2: the launcher started 2 processes, but each is an MPI world of its own" in words
    assert "srun --mpi=pmi2" in words


def test_a_start_that_is_refused_leaves_the_run_as_it_was(tmp_path: Path) -> None:
    make_data(tmp_path)
    config, run = tmp_path / "tiny.yaml", tmp_path / "run"
    config.write_text(dump(tiny_config(tmp_path)))
    (step_folder(run, 2)).mkdir(parents=True)
    seal(step_folder(run, 2))
    command = [
        mpiexec(),
        "-n",
        "1",
        sys.executable,
        "-m",
        "mpi4py",
        "-m",
        "realm_ds",
        "pretrain",
        "--config",
        str(config),
    ]
    done = subprocess.run(
        [*command, "--run", str(run)], env=world_environment("taken", {}), capture_output=True, text=True,
        timeout=WITHIN_S,
    )  # fmt: skip
    assert done.returncode != 0
    assert f"{run} holds a run already: add --resume" in done.stderr
    assert [path.name for path in run.iterdir()] == ["checkpoints"]


def test_too_few_ranks() -> None:
    said = refused(joining(shards=2), processes=2)
    assert "index.num_shards=2 leaves no trainer in a world of 2 process(es): launch at least 3 processes" in said


def test_roles_that_do_not_add_up() -> None:
    said = refused(joining("os.environ['REALM_ROLE'] = ['trainer', 'index'][rank > 0]", shards=1), processes=3)
    assert "index.num_shards=1 but 2 process(es) have REALM_ROLE=index" in said
    assert "set index.num_shards=2, or start 1 with REALM_ROLE=index" in said


def test_a_run_folder_that_one_rank_does_not_see(tmp_path: Path) -> None:
    before = f"""
from realm_ds.comm import shared_folder, world
world.sees_token.__kwdefaults__["timeout_s"] = 0.5
mine = Path({str(tmp_path)!r}) / str(rank)  # as local disks of two hosts
mine.mkdir()
"""
    said = refused(joining(before, folder="mine"), processes=2)
    assert "trainer 1 (world rank 1 on" in said
    assert f"does not see the run folder {tmp_path}/1 of world rank 0" in said
    assert "Name a folder on a file system that all hosts mount" in said


def test_an_interface_that_is_not_there() -> None:
    said = refused(joining(), processes=2, env={"GLOO_SOCKET_IFNAME": "nowhere0"})
    assert "GLOO_SOCKET_IFNAME=nowhere0:" in said
    assert "has no network interface nowhere0, it has" in said
    assert "set it to one of these" in said


def test_mpi_that_was_initialised_without_threads() -> None:
    before = "import mpi4py\nmpi4py.rc.threads = False\nfrom mpi4py import MPI"
    said = refused(joining(before), processes=2)
    assert "offers no thread support (level 0, needed 1, FUNNELED)" in said
    assert "let nothing start MPI before realm_ds does" in said


def test_other_code_on_one_rank(tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "realm_ds", ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "realm_ds" / "errors.py").open("a") as file:
        file.write("# another version\n")
    said = refused(joining(f"if rank == 1: sys.path.insert(0, {str(tmp_path)!r})"), processes=2)
    assert "ConfigError: world rank 1 on" in said
    assert "install the same realm_ds on every host" in said


def test_a_rank_that_never_joins_is_named() -> None:
    before = "if rank == 1:\n    from mpi4py import MPI\n    import time\n    time.sleep(60)"
    said = refused(joining(before, timeout_s=1), processes=3)
    assert "waited 1 s for all 3 ranks to join the world: nothing was heard of world rank(s) 1;" in said


def test_the_doctor_of_a_world_that_can_work(tmp_path: Path) -> None:
    """And of one where a rank stops: it is named, and nothing hangs."""
    program = f"""
    import json, os, sys
    from dataclasses import asdict
    from pathlib import Path
    from realm_ds.cluster import doctor
    doctor.FACTS_TIMEOUT_S = float(os.environ["FACTS_TIMEOUT_S"])
    if os.environ.get("STUCK") == os.environ["PMI_RANK"]:
        import time
        doctor.answer = lambda mailbox, mine: time.sleep(60)
    os.environ["REALM_ROLE"] = ["trainer", "trainer", "index"][int(os.environ["PMI_RANK"])]
    checks = doctor.examine(load_config=lambda: None, stage="pretrain", run=Path({str(tmp_path)!r}) / "run")
    print("torch was loaded:", "torch" in sys.modules, file=sys.stderr, flush=True)
    if checks is not None:
        print(json.dumps([asdict(check) for check in checks]), flush=True)
        sys.exit(int(any(check.state == "fail" for check in checks)))
    """
    outcome = run_ranks(program, processes=3, env={"FACTS_TIMEOUT_S": "20"}, timeout_s=WITHIN_S)
    checks = {check["name"]: check for check in json.loads(outcome.stdout)}
    # What the machine lacks is its own affair; what is told of this launch is not.
    sure = ("one world", "code", "settings", "roles", "MPI", "libraries", "network", "clocks", "run folder")
    assert {checks[name]["state"] for name in sure} <= {"ok", "warn"}, outcome.output
    assert checks["roles"]["found"] == "2 trainers, 1 index ranks: 2 trainer + 1 index on 1 host"
    assert checks["messages"]["found"].count(" ms, ") == 2
    assert outcome.code == int(any(check["state"] == "fail" for check in checks.values())), outcome.output
    is_loaded = Path("/dev/nvidia0").exists()  # for whom torch is asked what it sees of them
    assert outcome.stderr.count(f"torch was loaded: {is_loaded}") == 3, outcome.output
    assert not os.listdir(tmp_path)

    outcome = run_ranks(program, processes=3, env={"FACTS_TIMEOUT_S": "2", "STUCK": "2"}, timeout_s=WITHIN_S)
    assert outcome.code == 1, outcome.output
    assert re.search(r"world rank\(s\) (1, )?2 on", outcome.stdout), outcome.output  # 1 may be late on a busy machine
    assert not os.listdir(tmp_path)
