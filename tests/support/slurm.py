"""A real Slurm over nodes of nodes.py: controller and clients on one, a slurmd on each of the others."""

import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.nodes import Node, some_nodes, why_no_nodes
from tests.support.worlds import REPOSITORY

POLL_S = 0.2
CPUS, GPUS = 64, 8
"""That a node says it has: jobs ask for what real ones do, and two fit on a node."""
OVER = frozenset({"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL"})
"""States of a job that will not run again."""
_PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "scontrol", "munged")
_ONE_MACHINE = {
    # MPI by TCP on the loopback, which is all the network that these nodes have.
    "MPIR_CVAR_CH4_NETMOD": "ofi", "FI_PROVIDER": "tcp", "FI_TCP_IFACE": "lo", "GLOO_SOCKET_IFNAME": "lo",
    # Far more ranks than cores: none may spin or use a second thread.
    "MPIR_CVAR_POLLS_BEFORE_YIELD": "1", "OMP_NUM_THREADS": "1",
}  # fmt: skip
"""What every task's environment gets unless its job has set it: a site's prolog, so that scripts stay as they are."""
_CONF = """\
ClusterName=realm
SlurmctldHost={head}({head_address})
SlurmctldPort={port}
SlurmUser=root
AuthInfo=socket={folder}/munge.sock,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
TmpFS={folder}/tmp/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
TaskProlog={folder}/etc/prolog.sh
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=bf_interval=1,sched_interval=2
PropagateResourceLimits=NONE
MessageTimeout=30
SlurmdTimeout=15
MinJobAge=3600
BatchStartTimeout=60
ReturnToService=2
MpiDefault=none
GresTypes=gpu
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
# cred_expire: a job that is queued again waits so long, else two minutes. bf_interval: only the backfill scheduler
# starts heterogeneous jobs, each 30 s otherwise. config_overrides: nodes are as large as we say. SlurmdTimeout: a node
# that does not answer for so long is down. MinJobAge: jobs that are over are known until the end.


def why_no_slurm() -> str:
    """What this machine lacks for a cluster; empty if nothing."""
    missing = [name for name in _PROGRAMS if not shutil.which(name)]
    if missing:
        return f"no {', '.join(missing)} here: apt-get install slurmctld slurmd slurm-client munge"
    return why_no_nodes()


@dataclass
class Slurm:
    """The cluster, as its users see it."""

    head: Node
    workers: list[Node]
    folder: Path
    """Its settings, state and logs."""

    def run(self, *arguments: str, env: Mapping[str, str] | None = None, cwd: Path = REPOSITORY) -> str:
        """Runs a command where users log in; its output."""
        return self.head.run(*arguments, env=self._environment(env or {}), cwd=cwd)

    def sbatch(self, *arguments: str, env: Mapping[str, str] | None = None, cwd: Path = REPOSITORY) -> int:
        """Submits; the job's id."""
        return int(self.run("sbatch", "--parsable", *arguments, env=env, cwd=cwd).split()[-1].split(";")[0])

    def job(self, job: int | str) -> dict[str, str]:
        """What the controller knows of a job, or of a task of an array such as 12_1."""
        return dict(re.findall(r"(\S+?)=(\S*)", self.run("scontrol", "show", "job", "--oneliner", str(job))))

    def wait(self, job: int | str, *, timeout_s: float) -> dict[str, str]:
        """What is known of a job once it is over."""
        self.wait_until(lambda: self.job(job)["JobState"] in OVER, f"job {job} to end", timeout_s=timeout_s)
        return self.job(job)

    def wait_until(self, is_so: Callable[[], bool], what: str, *, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not is_so():
            assert time.monotonic() < deadline, f"{timeout_s:g} s for {what}\n{self.run('squeue')}\n{self.words()}"
            time.sleep(POLL_S)

    def worker(self, name: str) -> Node:
        return next(node for node in self.workers if node.name == name)

    def start_worker(self, node: Node) -> None:
        """Its slurmd; the node must be up."""
        for folder in (self.folder / node.name, self.folder / "tmp" / node.name):
            folder.mkdir(parents=True, exist_ok=True)
        node.run("slurmd", "-N", node.name, env=self._environment({}))

    def wait_for_workers(self) -> None:
        """Until all can take jobs."""
        self.wait_until(self._all_are_idle, f"{len(self.workers)} idle nodes", timeout_s=30)

    def words(self) -> str:
        """The ends of the daemons' logs."""
        logs = sorted(self.folder.glob("slurm*.log"))
        return "\n".join(f"{log.name}: ..." + log.read_text(errors="replace")[-1500:] for log in logs)

    def _all_are_idle(self) -> bool:
        return len(self.run("sinfo", "-h", "-N", "-t", "idle", "-o", "%N").split()) == len(self.workers)

    def _environment(self, extra: Mapping[str, str]) -> dict[str, str]:
        inherited = {
            name: value for name, value in os.environ.items()
            if not name.startswith(("SLURM_", "SBATCH_", "PMI", "REALM_")) and name not in _ONE_MACHINE
        }  # fmt: skip
        path = os.pathsep.join(filter(None, (str(REPOSITORY), inherited.get("PYTHONPATH", ""))))
        return inherited | {"SLURM_CONF": str(self.folder / "etc" / "slurm.conf"), "PYTHONPATH": path} | extra


@contextmanager
def slurm_cluster(num_nodes: int, folder: Path) -> Iterator[Slurm]:
    """A cluster of node1, node2, ... ready for jobs. `folder` takes all that it writes."""
    etc = folder / "etc"
    for made in (etc, folder / "state"):
        made.mkdir(parents=True)
    names = [f"node{number}" for number in range(1, num_nodes + 1)]
    with some_nodes(["head", *names], folder, binds={Path("/etc/slurm"): etc}) as (head, *workers):
        cluster = Slurm(head, workers, folder)
        _write_settings(cluster, etc)
        (folder / "munge.key").write_bytes(os.urandom(1024))
        (folder / "munge.key").chmod(0o600)
        files = {"socket": "munge.sock", "key-file": "munge.key", "pid-file": "munged.pid", "log-file": "munged.log",
                 "seed-file": "munge.seed"}  # fmt: skip
        head.run("munged", "--force", *(f"--{option}={folder / name}" for option, name in files.items()))
        cluster.run("slurmctld")
        for worker in workers:
            cluster.start_worker(worker)
        cluster.wait_for_workers()
        yield cluster


def _write_settings(cluster: Slurm, etc: Path) -> None:
    ports = _free_ports(1 + len(cluster.workers))
    text = _CONF.format(
        head=cluster.head.name, head_address=cluster.head.address, port=ports.pop(), folder=cluster.folder
    )
    for worker in cluster.workers:
        text += (
            f"NodeName={worker.name} NodeAddr={worker.address} Port={ports.pop()} CPUs={CPUS} RealMemory=1000000 "
            f"Gres=gpu:{GPUS} State=UNKNOWN\n"
        )
    (etc / "slurm.conf").write_text(text)
    for number in range(GPUS):
        (etc / f"gpu{number}").touch()
    (etc / "gres.conf").write_text(f"Name=gpu File={etc}/gpu[0-{GPUS - 1}]\n")
    prolog = [f'[ -n "${{{name}+set}}" ] || echo export {name}={value}' for name, value in _ONE_MACHINE.items()]
    (etc / "prolog.sh").write_text("\n".join(["#!/bin/sh", *prolog, ""]))
    (etc / "prolog.sh").chmod(0o755)


def _free_ports(count: int) -> list[int]:
    """Of this machine, now: all are held until all are found."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("", 0))
        return [one.getsockname()[1] for one in sockets]
