"""A hardware profile of this machine, measured in some seconds: what planning needs of it, with packaged figures for what
one machine alone cannot tell. What is made of a profile is pace.py's business.
"""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil

from realm_ds.config.hardware import Figure, HardwareProfile, load_hardware

GIB = 2**30
COPIED_BYTES = 2**27
"""Far more than caches hold for one core."""
WRITTEN_BYTES = 2**28
SMALL = 64
"""Numbers of a tensor so small that an operation on it is all overhead."""
STARTED = 2_000
"""Operations to time the start of."""
REPEATS = 5
TEMPLATES = {"cpu": "cpu-2-core", "gpu": "h100"}
"""Where figures come from that need more than one machine."""


def measure_hardware(folder: Path) -> HardwareProfile:
    """Of this machine: a device is a core, or a GPU where there are some. `folder` is on the disk to measure."""
    import torch

    from realm_ds.train.figures import peak_flops

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    template = load_hardware(TEMPLATES["gpu" if device.type == "cuda" else "cpu"])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # A device of a cpu node is one core.
    try:
        host_gib = psutil.virtual_memory().total / GIB
        figures = {
            "matmul_fp32": peak_flops(device, torch.float32),
            "matmul_16bit": peak_flops(device, torch.bfloat16),
            "bandwidth": _moved_a_second(device),
            "launch_s": _launch_s(device),
            "disk": _written_a_second(folder),
            "host_gib": host_gib,
            "device_gib": torch.cuda.mem_get_info()[1] / GIB if device.type == "cuda" else host_gib,
        }
    finally:
        torch.set_num_threads(threads)
    devices = torch.cuda.device_count() if device.type == "cuda" else len(os.sched_getaffinity(0))
    measured = {
        name: Figure(value=float(f"{value:.3g}"), basis="measured", source=f"this machine, {_SOURCES[name]}")
        for name, value in figures.items()
    }
    about = f"measured here: {devices} {'GPUs' if device.type == 'cuda' else 'cores'}"
    return template.model_copy(update={**measured, "about": about, "devices": devices})


_SOURCES = {
    "matmul_fp32": "the best of some large products",
    "matmul_16bit": "the best of some large products",
    "bandwidth": "adding two large tensors into a third",
    "launch_s": "additions of a few numbers",
    "disk": "a file written and synced",
    "host_gib": "as the system says",
    "device_gib": "as the system says",
}


def _moved_a_second(device: "object") -> float:
    import torch

    one, other, result = (torch.ones(COPIED_BYTES // 4, device=device) for _ in range(3))  # type: ignore[call-overload]
    seconds = _best(lambda: torch.add(one, other, out=result), finish=_finisher(device))
    return 3 * COPIED_BYTES / seconds


def _launch_s(device: "object") -> float:
    import torch

    small = torch.ones(SMALL, device=device)  # type: ignore[call-overload]

    def start_many() -> None:
        for _ in range(STARTED):
            small.add(1.0)

    # On a GPU the host's time counts, not when the operations are done.
    return _best(start_many, finish=lambda: None) / STARTED


def _finisher(device: "object") -> Callable[[], None]:
    import torch

    return torch.cuda.synchronize if str(device) == "cuda" else lambda: None


def _best(run: Callable[[], object], *, finish: Callable[[], None]) -> float:
    run()
    took_s = []
    for _ in range(REPEATS):
        finish()
        started_at = time.perf_counter()
        run()
        finish()
        took_s.append(time.perf_counter() - started_at)
    return min(took_s)


def _written_a_second(folder: Path) -> float:
    data = np.random.default_rng(0).bytes(WRITTEN_BYTES)
    with tempfile.TemporaryFile(dir=folder) as file:
        started_at = time.perf_counter()
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
        return WRITTEN_BYTES / (time.perf_counter() - started_at)
