"""Lets the nodes of nodes.py be logged in to from each other: an sshd on each, with keys made for it."""

import shutil
import socket
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.support.nodes import Node, why_no_nodes

SSH_CONFIG = Path("/etc/ssh/ssh_config.d")
"""What OpenSSH reads there says how nodes are reached: launchers call plain `ssh node2`."""
_CONFIG = """\
Host {names}
  Port {port}
  User root
  IdentityFile {folder}/id
  UserKnownHostsFile {folder}/known
  IdentitiesOnly yes
  BatchMode yes
  LogLevel ERROR
"""
_SSHD = """\
Port {port}
ListenAddress {address}
HostKey {folder}/host
AuthorizedKeysFile {folder}/id.pub
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
PidFile none
"""


def why_no_ssh() -> str:
    """What this machine lacks for nodes with ssh; empty if nothing."""
    if not (shutil.which("sshd") and shutil.which("ssh") and SSH_CONFIG.is_dir()):
        return "no sshd and ssh here: apt-get install openssh-server openssh-client"
    return why_no_nodes()


def start_sshd(nodes: Sequence[Node], config: Path, folder: Path) -> None:
    """On every node, which all must have the folder `config` as SSH_CONFIG. `folder` takes keys and settings.

    Again after nodes have been switched off and on.
    """
    for key in (folder / "host", folder / "id"):
        if not key.exists():
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    Path("/run/sshd").mkdir(exist_ok=True)  # where sshd keeps nothing, but which it wants
    port = _free_port([node.address for node in nodes])
    names = " ".join(node.name for node in nodes)
    (config / "nodes.conf").write_text(_CONFIG.format(names=names, port=port, folder=folder))
    public = (folder / "host.pub").read_text()
    (folder / "known").write_text("".join(f"[{node.name}]:{port} {public}" for node in nodes))
    for node in nodes:
        settings = folder / f"sshd-{node.name}"
        settings.write_text(_SSHD.format(port=port, address=node.address, folder=folder))
        node.run(str(shutil.which("sshd")), "-f", str(settings), "-E", str(folder / f"sshd-{node.name}.log"))


def _free_port(addresses: Sequence[str]) -> int:
    """One that is free now at all these addresses."""
    with ExitStack() as held:
        first = held.enter_context(socket.socket())
        first.bind((addresses[0], 0))
        port = int(first.getsockname()[1])
        for address in addresses[1:]:
            held.enter_context(socket.socket()).bind((address, port))
        return port
