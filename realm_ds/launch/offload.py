"""Before ranks start: whether this machine can keep weights and optimizer states on a disk, where a run asks for it.

DeepSpeed compiles its reader and writer of disks when it is first used. That is done here, once: in the ranks all would
wait for one, behind a lock that a killed job leaves behind for ever. `python -m realm_ds.launch.offload` does no more.
"""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from realm_ds.config.deepspeed import needs_nvme, offload_device
from realm_ds.errors import ConfigError

BUILD_COMMAND = "python -m realm_ds.launch.offload"
BUILD_TIMEOUT_S = 1200.0
"""Some six minutes of one core."""
SHARE_OF_A_WAIT = 0.8
"""Of the time that other ranks wait for the one that builds: they must not give up before it can tell why."""
_BUILD = "from realm_ds.train.engine import build_disk_operator; build_disk_operator()"


def check_offload(settings: Mapping[str, Any], *, others_wait_s: float | None = None) -> None:
    """Raise ConfigError if settings offload to a disk that cannot be written, or whose operator cannot be built.

    `others_wait_s` says how long the ranks that have been started wait for this; None if none has been.
    """
    if not needs_nvme(settings):
        return
    check_disk_folders(settings)
    build_operator(timeout_s=BUILD_TIMEOUT_S if others_wait_s is None else SHARE_OF_A_WAIT * others_wait_s)


def check_disk_folders(settings: Mapping[str, Any]) -> None:
    """Raise ConfigError if a folder to offload to cannot be written here: each node has a disk of its own."""
    for what in ("optimizer", "param"):
        if offload_device(settings, what) == "nvme":
            folder = Path(settings["zero_optimization"][f"offload_{what}"]["nvme_path"])
            _check_folder(folder, name=f"zero_optimization.offload_{what}.nvme_path")


def build_operator(*, timeout_s: float = BUILD_TIMEOUT_S) -> None:
    """Compile what reads and writes disks, unless that was done. Raises ConfigError where that cannot be."""
    try:
        # A process of its own: what launches a world should not have loaded torch.
        subprocess.run([sys.executable, "-c", _BUILD], check=True, capture_output=True, timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        raise ConfigError(
            f"runtime.deepspeed offloads to a disk, and building DeepSpeed's async_io took more than {timeout_s:g} s: "
            "remove the folder async_io below TORCH_EXTENSIONS_DIR (~/.cache/torch_extensions), where a build that was "
            f"killed leaves its lock, and build it before the run is started: {BUILD_COMMAND}"
        ) from error
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").strip().splitlines()
        raise ConfigError(
            f"runtime.deepspeed offloads to a disk, but DeepSpeed's async_io is not to be had here "
            f"({lines[-1] if lines else 'no reason given'}): install libaio's headers (libaio-dev, libaio-devel) and "
            "a C++ compiler, or choose runtime.deepspeed=zero3-bf16-offload, which needs neither"
        ) from error


def _check_folder(folder: Path, *, name: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".realm-ds-was-here"
        probe.touch()
        probe.unlink(missing_ok=True)  # All trainers of a node do this at once.
    except OSError as error:
        raise ConfigError(f"{name}={folder} cannot be written ({error.strerror}): name a folder of yours") from error


if __name__ == "__main__":
    build_operator()
