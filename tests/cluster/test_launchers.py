"""Launchers other than the scripts of slurm/, as docs/launching.md has them: each makes one world over two nodes, which
trains the same, and leaves nothing when a rank is killed or somebody presses Ctrl-C.
"""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from realm_ds.config.load import dump
from realm_ds.launch.failures import read_records
from realm_ds.observe.sinks import metrics_path, read_events
from tests.support.nodes import Node, some_nodes
from tests.support.slurm import Slurm
from tests.support.ssh import SSH_CONFIG, start_sshd, why_no_ssh
from tests.support.tiny import make_data, tiny_config
from tests.support.worlds import mpiexec, world_environment

pytestmark = pytest.mark.launcher

STEPS = 4
ROLES = {"trainer": 2, "index": 2}
COMPARED = ("step", "loss", "retrieval_utility", "version", "retrieved_crc32")
END_S = 120.0
"""A run that takes eight seconds alone."""
NOTICED_S = 20.0
"""A death is, within this: less than ranks wait for each other."""
BIN = Path(sys.executable).parent
RANK = [sys.executable, "-m", "mpi4py", "-m", "realm_ds"]
ONE_MACHINE = {
    # MPICH by TCP on the loopback, which is all the network that these nodes have, and no core for itself.
    "MPIR_CVAR_CH4_NETMOD": "ofi", "FI_PROVIDER": "tcp", "FI_TCP_IFACE": "lo", "GLOO_SOCKET_IFNAME": "lo",
    "MPIR_CVAR_POLLS_BEFORE_YIELD": "1",
}  # fmt: skip
AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
SCRIPT = str(BIN / "realm-ds")
"""With `python -u` before it, as each back-end of deepspeed puts it, and with no module to be shadowed beside it."""
LIBRARY = "libmpi.so.40"
"""Open MPI's, of whatever version."""
LONG = "pretrain.steps=100000"

JOB = """\
#!/usr/bin/env bash
#SBATCH --nodes=2 --ntasks-per-node=2
set -e
scontrol show hostnames | sed 's/$/ slots=2/' >job-hosts.txt
{deepspeed} --hostfile job-hosts.txt --no_ssh_check --master_addr "$(hostname)" --launcher slurm \
    --launcher_args "-K1 --mpi=pmi2" {rank}
srun -K1 --mpi=pmi2 --multi-prog roles.conf
"""


@dataclass
class Site:
    """Two nodes that one can log in to, with a folder that both see: data, settings, runs."""

    nodes: list[Node]
    folder: Path

    def start(self, command: list[str], env: dict[str, str] | None = None) -> "subprocess.Popen[bytes]":
        """As somebody does who has logged in to the first node; a process group, as in a terminal."""
        variables = world_environment("launchers", ONE_MACHINE if env is None else env)
        variables["PATH"] = os.pathsep.join([*filter(None, [(env or {}).get("PATH")]), str(BIN), os.environ["PATH"]])
        return subprocess.Popen(
            self.nodes[0].command(command, cwd=self.folder), env=variables, stdin=subprocess.DEVNULL,
            stdout=(self.folder / "output").open("wb"), stderr=subprocess.STDOUT, process_group=0,
        )  # fmt: skip

    def end(self, launcher: "subprocess.Popen[bytes]", *, within_s: float) -> int:
        """Its exit code. It must end by then, and nothing but sshd may run on the nodes soon after."""
        try:
            code = launcher.wait(within_s)
            wait_until(lambda: not self.left(), "an end of all that it started", timeout_s=NOTICED_S)
            return code
        except (subprocess.TimeoutExpired, AssertionError) as error:
            raise AssertionError(f"{error}\n{self.output()}") from error
        finally:
            if launcher.poll() is None or self.left():  # it must not come between the tests that follow
                self.reboot()
                launcher.wait()

    def reboot(self) -> None:
        for node in self.nodes:
            node.power_off()
            node.power_on()
        start_sshd(self.nodes, self.folder / "ssh", self.folder)

    def node(self, name: str) -> Node:
        return next(node for node in self.nodes if node.name == name)

    def left(self) -> list[str]:
        """What runs on the nodes, but for what always does."""
        return [line for node in self.nodes for line in node.processes() if "/sshd" not in line]

    def output(self) -> str:
        return (self.folder / "output").read_text(errors="replace")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("launchers")
    make_data(folder)
    (folder / "tiny.yaml").write_text(dump(tiny_config(folder, **{"pretrain.steps": STEPS})))
    return folder


@pytest.fixture(scope="module")
def site(folder: Path) -> Iterator[Site]:
    missing = why_no_ssh()
    if missing:
        pytest.skip(missing)
    (folder / "ssh").mkdir()
    with some_nodes(["node1", "node2"], folder, binds={SSH_CONFIG: folder / "ssh"}) as nodes:
        start_sshd(nodes, folder / "ssh", folder)
        (folder / "hosts.txt").write_text("".join(f"{node.name} slots=2\n" for node in nodes))
        yield Site(nodes, folder)


@pytest.fixture(scope="module")
def expected(site: Site) -> list[tuple[object, ...]]:
    """What a run is, by plain mpiexec."""
    command = [mpiexec(), "-hosts", "node1,node2", "-n", "4", "-ppn", "2", *RANK, *verb("plain")]
    assert site.end(site.start(command), within_s=END_S) == 0, site.output()
    return check_world(site.folder / "plain")


@pytest.mark.parametrize("launcher", ["mpich", "impi", "openmpi"])
def test_deepspeed_starts_one_world(site: Site, expected: list[tuple[object, ...]], launcher: str) -> None:
    started = site.start(*deepspeed(launcher, *verb(launcher)))
    assert site.end(started, within_s=END_S) == 0, site.output()
    assert check_world(site.folder / launcher) == expected


def test_mpiexec_starts_each_role_as_a_program_of_its_own(site: Site, expected: list[tuple[object, ...]]) -> None:
    def ranks(role: str) -> list[str]:
        return ["-n", "2", "-env", "REALM_ROLE", role, *RANK, *verb("mpmd")]

    started = site.start([mpiexec(), "-hosts", "node1,node2", "-ppn", "2", *ranks("index"), ":", *ranks("trainer")])
    assert site.end(started, within_s=END_S) == 0, site.output()
    assert check_world(site.folder / "mpmd") == expected
    assert {rank["host"] for rank in read_records(site.folder / "mpmd/ranks") if rank["role"] == "index"} == {"node1"}


@pytest.mark.slurm
def test_deepspeed_and_multi_prog_start_one_world_in_a_job_of_slurm(slurm: Slurm, folder: Path) -> None:
    script, log = folder / "job.sh", folder / "job.log"
    (folder / "roles.conf").write_text(
        "".join(
            f"{ranks} env REALM_ROLE={role} {shlex.join([*RANK, *verb('multi-prog')])}\n"
            for ranks, role in (("0-1", "index"), ("2-3", "trainer"))
        )
    )
    script.write_text(JOB.format(deepspeed=BIN / "deepspeed", rank=shlex.join([SCRIPT, *verb("srun")])))
    job = slurm.sbatch(f"--chdir={folder}", f"--output={log}", str(script))
    assert slurm.wait(job, timeout_s=2 * END_S)["JobState"] == "COMPLETED", log.read_text()
    assert check_world(folder / "srun") == check_world(folder / "multi-prog")


@pytest.mark.parametrize("launcher", ["mpich", "openmpi"])
def test_a_killed_rank_ends_the_world(site: Site, launcher: str) -> None:
    run = site.folder / f"{launcher} killed"
    started = site.start(*deepspeed(launcher, *verb(run.name, LONG)))
    wait_for_step(site, started, run)
    (killed,) = [rank for rank in read_records(run / "ranks") if rank["world_rank"] == 3]
    site.node(killed["host"]).run("kill", "-KILL", str(killed["pid"]))
    assert site.end(started, within_s=NOTICED_S) > 0, site.output()
    assert read_records(run / "failures")[0]["pid"] == killed["pid"]


def test_ctrl_c_ends_the_world(site: Site) -> None:
    run = site.folder / "interrupted"
    started = site.start(*deepspeed("impi", *verb(run.name, LONG)))
    wait_for_step(site, started, run)
    os.killpg(started.pid, signal.SIGINT)
    assert site.end(started, within_s=NOTICED_S) != 0, site.output()


def deepspeed(launcher: str, *verb: str) -> tuple[list[str], dict[str, str] | None]:
    """Command line, and what it needs in the environment. Skips if the MPI library is not here."""
    command = [str(BIN / "deepspeed"), "--hostfile", "hosts.txt", "--master_addr", "127.0.0.11", "--launcher", launcher]
    env = None
    if launcher == "openmpi":
        env = open_mpi()
        command += ["--launcher_args", "--mca btl_tcp_if_include lo -x MPI4PY_LIBMPI"]
    return [*command, SCRIPT, *verb], env


def open_mpi() -> dict[str, str]:
    """Its programs before those of the wheel of MPICH that mpi4py and PATH would else find."""
    info = shutil.which("ompi_info")
    if info is None:
        pytest.skip("no Open MPI here (ompi_info): apt-get install openmpi-bin")
    beside = Path(info).parents[1] / "lib" / LIBRARY
    return {**AS_ROOT, "PATH": str(Path(info).parent), "MPI4PY_LIBMPI": str(beside) if beside.exists() else LIBRARY}


def verb(run: str, *settings: str) -> list[str]:
    return ["pretrain", "--config", "tiny.yaml", "--run", run, *settings]


def check_world(run: Path) -> list[tuple[object, ...]]:
    """Every logged step of every trainer of a run, whose ranks were one world on both nodes."""
    ranks = read_records(run / "ranks")
    assert sorted(rank["world_rank"] for rank in ranks) == [0, 1, 2, 3]
    assert sorted(Counter(rank["host"] for rank in ranks).values()) == [2, 2]
    for role, count in ROLES.items():
        assert sorted(rank["role_rank"] for rank in ranks if rank["role"] == role) == list(range(count))
    paths = [metrics_path(run, role="trainer", role_rank=number) for number in range(ROLES["trainer"])]
    rows = [row for path in paths for row in read_events(path, event="step")]
    assert len(rows) == STEPS * ROLES["trainer"]
    return [tuple(row.get(name) for name in COMPARED) for row in rows]


def wait_until(is_so: Callable[[], bool], what: str, *, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, f"{timeout_s:g} s for {what}"
        time.sleep(0.1)


def wait_for_step(site: Site, started: "subprocess.Popen[bytes]", run: Path) -> None:
    """Until trainer 0 has logged its first."""
    path = metrics_path(run, role="trainer", role_rank=0)

    def is_there() -> bool:
        assert started.poll() is None, site.output()
        return path.is_file() and bool(list(read_events(path, event="step")))

    wait_until(is_there, f"a step in {run}", timeout_s=END_S)
