"""The most memory that this process has held, as Linux counts it; forgotten on demand."""

import gc
from pathlib import Path

from realm_ds.errors import DataError


def reset_peak() -> int:
    """Forget this process's peak, and say what it holds now."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    return _status_bytes("VmRSS")


def peak_bytes() -> int:
    """Since the last reset."""
    # Not getrusage: its peak is that of the parent too, until the program was loaded.
    return _status_bytes("VmHWM")


def _status_bytes(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise DataError(f"/proc/self/status tells no {name}: this measure needs Linux")
