"""Before ranks start: whether this machine can keep weights and optimizer states on a disk, where a run asks for it.

DeepSpeed compiles its reader and writer of disks when it is first used. That is done here, once: in the ranks all would
wait for one, behind a lock that a killed job leaves behind for ever.
"""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from realm_ds.config.deepspeed import needs_nvme
from realm_ds.errors import ConfigError

_BUILD = "from realm_ds.train.engine import build_disk_operator; build_disk_operator()"
BUILD_TIMEOUT_S = 1200.0
"""Some six minutes of one core."""


def check_offload(settings: Mapping[str, Any]) -> None:
    """Raise ConfigError if settings offload to a disk that cannot be written, or whose operator cannot be built."""
    if not needs_nvme(settings):
        return
    for what in ("optimizer", "param"):
        folder = settings["zero_optimization"].get(f"offload_{what}", {}).get("nvme_path")
        if folder is not None:
            _check_folder(Path(folder), name=f"zero_optimization.offload_{what}.nvme_path")
    try:
        # A process of its own: what launches a world should not have loaded torch.
        subprocess.run([sys.executable, "-c", _BUILD], check=True, capture_output=True, timeout=BUILD_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise ConfigError(
            f"runtime.deepspeed offloads to a disk, and building DeepSpeed's async_io took more than "
            f"{BUILD_TIMEOUT_S:g} s: if no other process builds it, one that was killed has left its lock; remove the "
            "folder async_io below TORCH_EXTENSIONS_DIR (~/.cache/torch_extensions)"
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
        probe.unlink()
    except OSError as error:
        raise ConfigError(f"{name}={folder} cannot be written ({error.strerror}): name a folder of yours") from error
