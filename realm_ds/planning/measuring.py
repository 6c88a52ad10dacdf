"""A hardware profile of this machine, measured in some seconds: what planning needs of it, with packaged figures for
what one machine alone cannot tell. What is made of a profile is pace.py's business.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import psutil

from realm_ds.config.hardware import Figure, HardwareProfile, load_hardware

GIB = 2**30
WRITTEN_BYTES = 2**28
SMALL = 64
"""Numbers of a tensor so small that an operation on it is all overhead."""
STARTED = 2_000
"""Operations to time the start of."""
REPEATS = 9
ROWS_AND_COLUMNS = {"cpu": (2_048, 512), "cuda": (65_536, 1_024)}
"""Of states that are added, normed and sent through GELU: as many as a micro-batch has, far more than a GPU caches."""
TRANSFORM_MOVES = 7
"""How often they are read or written for that."""
PEAK_SIZES = {"cpu": 1024, "cuda": 8192}
"""Rows and columns of the matrices to multiply."""
TEMPLATES = {"cpu": "cpu-2-core", "cuda": "h100"}
"""Where figures come from that need more than one machine."""


def measure_hardware(folder: Path) -> HardwareProfile:
    """Of this machine: a device is a core, or a GPU where there are some. `folder` is on the disk to measure."""
    import torch

    kind = "cuda" if torch.cuda.is_available() else "cpu"
    template = load_hardware(TEMPLATES[kind])
    devices = torch.cuda.device_count() if kind == "cuda" else len(os.sched_getaffinity(0))
    host_gib = psutil.virtual_memory().total / GIB
    figures = {
        **measure_device(kind),
        "disk": _written_a_second(folder),
        "host_gib": host_gib,
        "device_gib": torch.cuda.mem_get_info()[1] / GIB if kind == "cuda" else host_gib,
    }
    about = f"measured here: {devices} {'GPUs' if kind == 'cuda' else 'cores'}"
    guessed = {
        name: Figure(value=figure.value, basis="assumed", source=f"as in {TEMPLATES[kind]}: {figure.source}")
        for name in HardwareProfile.model_fields
        if isinstance(figure := getattr(template, name), Figure)
    }
    template = template.model_copy(update={**guessed, "about": about, "devices": devices})
    return with_figures(template, figures)


def with_figures(profile: HardwareProfile, figures: Mapping[str, float]) -> HardwareProfile:
    """The profile with these in place of its own, as measured."""
    measured = {
        name: Figure(value=float(f"{value:.3g}"), basis="measured", source=f"this machine, {_SOURCES[name]}")
        for name, value in figures.items()
    }
    return profile.model_copy(update=measured)


def measure_device(kind: str = "cpu") -> dict[str, float]:
    """Of a GPU, or of one core by the processor's time: other programs that take turns on it do not count."""
    import torch
    from torch.nn import functional

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    clock, finish = (time.process_time, _nothing) if kind == "cpu" else (time.perf_counter, torch.cuda.synchronize)
    timed = partial(_median_s, clock=clock, finish=finish)
    size = PEAK_SIZES[kind]
    states = torch.randn(*ROWS_AND_COLUMNS[kind], device=kind)
    small = torch.ones(SMALL, device=kind)

    def transform() -> None:
        functional.layer_norm(states + states, states.shape[1:])
        functional.gelu(states, approximate="tanh")

    def start_many() -> None:
        for _ in range(STARTED):
            small.add(1.0)

    try:
        figures = {}
        for name, dtype in (("matmul_fp32", torch.float32), ("matmul_16bit", torch.bfloat16)):
            left, right = torch.randn(2, size, size, device=kind).to(dtype)
            figures[name] = 2.0 * size**3 / timed(partial(torch.mm, left, right))
        figures["bandwidth"] = TRANSFORM_MOVES * states.nbytes / timed(transform)
        # Of a GPU the host's time counts, not when the operations are done.
        figures["launch_s"] = _median_s(start_many, clock=clock, finish=_nothing) / STARTED
        return figures
    finally:
        torch.set_num_threads(threads)


_SOURCES = {
    "matmul_fp32": "products of large matrices",
    "matmul_16bit": "products of large matrices",
    "bandwidth": "states added, normed and sent through GELU",
    "launch_s": "additions of a few numbers",
    "disk": "a file written and synced",
    "host_gib": "as the system says",
    "device_gib": "as the system says",
}


def _nothing() -> None:
    """A core has done what it was asked for when the call returns."""


def _median_s(run: Callable[[], object], *, clock: Callable[[], float], finish: Callable[[], None]) -> float:
    run()
    took_s = []
    for _ in range(REPEATS):
        finish()
        started_at = clock()
        run()
        finish()
        took_s.append(clock() - started_at)
    return statistics.median(took_s)


def _written_a_second(folder: Path) -> float:
    data = np.random.default_rng(0).bytes(WRITTEN_BYTES)
    with tempfile.TemporaryFile(dir=folder) as file:
        started_at = time.perf_counter()
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
        return WRITTEN_BYTES / (time.perf_counter() - started_at)
