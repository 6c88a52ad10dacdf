"""What one rank finds out about itself and its host, as it travels to rank 0. How is look.py's, what it means judge's.

A part that could not be looked at is None, and `faults` says why.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from realm_ds.models.devices import Gpus


@dataclass(frozen=True, kw_only=True)
class Software:
    mpi: str
    thread_level: str
    libraries: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Network:
    interfaces: Mapping[str, Sequence[str]]
    fault: str
    """Of a variable that names one which is not there."""
    address: str
    """By which gloo lets other hosts reach this one."""
    port: int
    """Where this rank listens for the others' trial; 0 if it does not."""
    store: str
    """By which the trainers reach their store; "" unless trainer 0 is on this host and others are not."""


@dataclass(frozen=True, kw_only=True)
class Host:
    """Told by the first rank of each host."""

    free_memory_bytes: int
    free_shm_bytes: int
    disk: str
    """Where temporary files go."""
    free_disk_bytes: int
    locks: Mapping[str, float]
    """Locks of compilers that are there, with their age in seconds."""


@dataclass(frozen=True, kw_only=True)
class Process:
    cores: Sequence[int]
    """Those that this rank may use."""
    threads: int
    """OMP_NUM_THREADS; 0 if unset."""
    open_files: int
    """How many it may open."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """The run's folder, or the nearest above it that is there. Told by the first rank of each host."""

    folder: str
    is_seen: bool
    free_bytes: int
    written_bytes_per_s: float


@dataclass(frozen=True, kw_only=True)
class Devices:
    nodes: int
    """GPUs that the host's kernel knows."""
    gpus: Gpus


@dataclass(frozen=True, kw_only=True)
class Data:
    """Told by the first rank of each host."""

    digests: Mapping[str, str]
    """Of manifests and tokenizer, by setting."""
    faults: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Facts:
    world_rank: int
    software: Software | None = None
    network: Network | None = None
    host: Host | None = None
    process: Process | None = None
    run: Run | None = None
    devices: Devices | None = None
    data: Data | None = None
    faults: Mapping[str, str] = field(default_factory=dict)
    """By part."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Facts":
        values: dict[str, Any] = json.loads(text)
        parts = {name: of(**values[name]) for name, of in PARTS.items() if values[name] is not None}
        if "devices" in parts:
            parts["devices"] = Devices(nodes=parts["devices"].nodes, gpus=Gpus(**values["devices"]["gpus"]))
        return cls(world_rank=values["world_rank"], faults=values["faults"], **parts)


PARTS: dict[str, Any] = {
    "software": Software, "network": Network, "host": Host, "process": Process, "run": Run, "devices": Devices,
    "data": Data,
}  # fmt: skip
