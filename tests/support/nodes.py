"""Several "nodes" on this machine: each has a host name, /etc/hosts, processes and shared memory of its own; all share
its files and its loopback. What runs on them is the test's business; Slurm is slurm.py's.

A node is a set of Linux namespaces that live as long as their first process. When that is killed, or this process dies,
the kernel ends whatever runs on the node and drops its mounts: nothing can be left behind.
"""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from realm_ds.tether import die_with_parent

ADDRESS = "127.0.0.{}"
FIRST_ADDRESS = 11
_NAMESPACES = ("--uts", "--mount", "--ipc", "--pid")
_BOOT = """
set -e
hostname "$1"
mount --bind "$2" /etc/hosts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
shift 2
while [ $# -gt 0 ]; do mount --bind "$1" "$2"; shift 2; done
echo up
exec env --ignore-signal=CHLD sleep infinity
"""
"""What a node's first process does. It ignores the ends of children, so that the kernel clears away orphans for it."""


def why_no_nodes() -> str:
    """What this machine lacks to have nodes; empty if nothing."""
    if os.geteuid():
        return "nodes on this machine are made of namespaces, which needs root"
    if not all(map(shutil.which, ("unshare", "nsenter"))):
        return "nodes on this machine are made by unshare and nsenter (util-linux), which are not here"
    trial = ["unshare", *_NAMESPACES, "--fork", "--mount-proc", "--propagation", "private", "sh", "-c",
             "hostname trial && mount -t tmpfs tmpfs /dev/shm"]  # fmt: skip
    result = subprocess.run(trial, capture_output=True, text=True, timeout=30)
    return f"namespaces are not permitted here: {result.stderr.strip()}" if result.returncode else ""


@dataclass
class Node:
    """One of them; off until it is switched on, as often as one likes."""

    name: str
    address: str
    hosts: Path
    """Its /etc/hosts."""
    binds: Mapping[Path, Path] = field(default_factory=dict)
    """Folders of this machine by the place where the node has them."""

    def power_on(self) -> None:
        binds = [str(path) for place, folder in self.binds.items() for path in (folder, place)]
        self._unshare = subprocess.Popen(
            ["unshare", *_NAMESPACES, "--fork", "--kill-child", "--mount-proc", "--propagation", "private",
             "sh", "-c", _BOOT, "sh", self.name, str(self.hosts), *binds],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            preexec_fn=die_with_parent,
        )  # fmt: skip
        assert self._unshare.stdout is not None
        said = self._unshare.stdout.readline()
        assert said == "up\n", f"{self.name} did not start: {said}{self._unshare.communicate()[0]}"
        (first,) = psutil.Process(self._unshare.pid).children()
        self._first_pid = first.pid

    def power_off(self) -> None:
        """All that runs there ends at once, as at a power cut, and is gone when this returns."""
        if self._unshare.poll() is None:
            os.kill(self._first_pid, signal.SIGKILL)
            self._unshare.communicate()

    def command(self, arguments: Sequence[str], *, cwd: Path | None = None) -> list[str]:
        """What to run here for `arguments` to run there."""
        there = [f"--target={self._first_pid}", *_NAMESPACES, *([f"--wdns={cwd}"] if cwd else [])]
        return ["nsenter", *there, "--", *arguments]

    def run(
        self, *arguments: str, env: Mapping[str, str] | None = None, cwd: Path | None = None, timeout_s: float = 60.0
    ) -> str:
        """Runs a command there; its output. Fails with all that it said if it fails."""
        result = subprocess.run(
            self.command(arguments, cwd=cwd), env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=timeout_s,
        )  # fmt: skip
        assert result.returncode == 0, f"{' '.join(arguments)} on {self.name}: {result.returncode}\n{result.stdout}"
        return result.stdout

    def processes(self) -> list[str]:
        """Command lines of what runs there now, but for its first process."""
        return self.run("ps", "-e", "-o", "args=").splitlines()[1:-1]


@contextmanager
def some_nodes(names: Sequence[str], folder: Path, *, binds: Mapping[Path, Path] | None = None) -> Iterator[list[Node]]:
    """Nodes that know each other by name, up, and off at the end. `folder` takes their /etc/hosts."""
    hosts = folder / "hosts"
    addresses = {name: ADDRESS.format(FIRST_ADDRESS + number) for number, name in enumerate(names)}
    lines = [f"{address} {name}\n" for name, address in addresses.items()]
    hosts.write_text(Path("/etc/hosts").read_text() + "".join(lines))
    nodes = [Node(name, address, hosts, binds or {}) for name, address in addresses.items()]
    with ExitStack() as up:
        for node in nodes:
            node.power_on()
            up.callback(node.power_off)
        yield nodes
