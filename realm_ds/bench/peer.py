"""transformers' REALM in a process of its own: an environment for it, made once, and a side that works when asked.

What the process does is peer_step.py's and peer_qa.py's business. The environment holds transformers 4.57.6, the last
with REALM, and takes torch from ours, so that both sides compute with the same library.
"""

import json
import os
import select
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from realm_ds.errors import LaunchError
from realm_ds.tether import die_with_parent

VERSION = "4.57.6"
READY_FILE = "realm-ds-ready"
INSTALL_S = 600.0
ANSWER_S = 600.0
"""For a block of steps or questions."""


def peer_environment(cache: Path | None = None, *, install: Callable[[Path], None] | None = None) -> Path:
    """The Python of an environment with transformers 4.57.6, made unless it is there already.

    Raises LaunchError where it cannot be made, such as without a network.
    """
    folder = _folder(cache)
    python, ours = folder / "bin" / "python", _packages()
    if is_ready(cache):
        return python
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=install is None)
    (install or _install)(python)
    packages = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    # Behind its own packages: what both have, such as transformers, is its own.
    (packages / "realm-ds-torch.pth").write_text(f"{ours}\n")
    (folder / READY_FILE).write_text(ours)  # last: an installation cut short is made again
    return python


def is_ready(cache: Path | None = None) -> bool:
    """Whether the environment is there, with the torch of this one."""
    stamp = _folder(cache) / READY_FILE
    return stamp.is_file() and stamp.read_text() == _packages()


def _packages() -> str:
    """Where torch is: the same for all links to one environment."""
    return os.path.realpath(sysconfig.get_path("purelib"))


def _folder(cache: Path | None) -> Path:
    cache = cache or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "realm-ds"
    return cache / f"transformers-{VERSION}-py{sys.version_info.major}.{sys.version_info.minor}"


def _install(python: Path) -> None:
    command = [
        str(python),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        f"transformers=={VERSION}",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S)
    except subprocess.TimeoutExpired as error:
        raise LaunchError(f"transformers {VERSION} was not installed within {INSTALL_S:g} s: {error.cmd}") from error
    if done.returncode:
        words = done.stderr.strip().splitlines() or ["pip said nothing"]
        raise LaunchError(
            f"transformers {VERSION} could not be installed ({words[-1]}): measure it where pip reaches an index"
        )


class Peer:
    """The process of a program beside this file, which reads its work from a folder and then line by line."""

    def __init__(
        self, python: Path, folder: Path, *, program: str, environ: Mapping[str, str] | None = None
    ) -> None:  # fmt: skip
        # Isolated from ours: its path would bring our transformers before its own.
        environ = {name: value for name, value in (environ or os.environ).items() if name != "PYTHONPATH"}
        self._log = (folder / "peer.log").open("w+")
        self._process = subprocess.Popen(
            [str(python), str(Path(__file__).with_name(program)), str(folder)], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=self._log, text=True, env=environ, preexec_fn=die_with_parent,
        )  # fmt: skip

    def ask(self, line: str) -> Any:
        """What it makes of a line, from JSON. Raises LaunchError if it ends instead."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()
            ready, _, _ = select.select([self._process.stdout], [], [], ANSWER_S)
            if not ready:
                raise LaunchError(f"transformers' side, asked for {line!r}, was not done within {ANSWER_S:g} s")
            told = self._process.stdout.readline()
        except BrokenPipeError:
            told = ""
        if not told:
            self._log.seek(0)
            words = self._log.read().strip().splitlines() or ["it said nothing"]
            raise LaunchError(f"transformers' side ended with exit code {self._process.wait()}: {words[-1]}")
        return json.loads(told)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            if stream:
                stream.close()
