"""Looks at this process and its host. Each look has a deadline of its own: a disk or driver that hangs is a finding.

What is found out between ranks is trial.py's business.
"""

import os
import resource
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from realm_ds.cluster.checks.facts import Data, Devices, Facts, Host, Network, Process, Run, Software
from realm_ds.comm.code import library_versions
from realm_ds.comm.network import ADDRESS_VARIABLE, check_interfaces, choose_address, gloo_address, interfaces
from realm_ds.comm.shared_folder import sees_token
from realm_ds.comm.world import World, library_name
from realm_ds.config.schema import RealmConfig
from realm_ds.errors import ConfigError, RealmError
from realm_ds.models.devices import Gpus

LOOK_TIMEOUT_S, ALL_LOOKS_S = 30.0, 40.0
WRITTEN_BYTES = 8 << 20
"""Of the trial how fast the run's folder is, by one rank of each host."""
_THREAD_LEVELS = {0: "SINGLE", 1: "FUNNELED", 2: "SERIALIZED", 3: "MULTIPLE"}
_LOCKS = ("*/lock", "*/*/lock")
"""Of torch's extensions, below the folder of all or of those of one version."""


def look_around(
    *,
    world_rank: int,
    looks: Mapping[str, Callable[[], Any]],
    timeout_s: float = LOOK_TIMEOUT_S,
    all_timeout_s: float = ALL_LOOKS_S,
) -> Facts:
    """Run every look, by the name of the part of Facts that it returns."""
    deadline = time.monotonic() + all_timeout_s
    found: dict[str, Any] = {}
    faults: dict[str, str] = {}
    for name, look in looks.items():
        thread = threading.Thread(target=partial(_into, found, faults, name, look), daemon=True)
        thread.start()
        given_s = min(timeout_s, max(deadline - time.monotonic(), 0.0))
        thread.join(given_s)
        if thread.is_alive():
            faults[name] = f"not done within {given_s:.0f} s"
    done = {name: part for name, part in found.items() if name not in faults}  # one may still come late
    return Facts(world_rank=world_rank, faults=dict(faults), **done)


def software(mpi: Any) -> Software:
    level = _THREAD_LEVELS.get(mpi.Query_thread(), "?") if mpi else ""
    return Software(mpi=library_name(mpi), thread_level=level, libraries=library_versions())


def network(*, world: World, environ: Mapping[str, str], port: int) -> Network:
    hostname = world.hostname
    found, fault = interfaces(), ""
    try:
        check_interfaces(environ, here=list(found), hostname=hostname)
    except ConfigError as error:
        fault = str(error)
    address = gloo_address(environ, found, hostname=hostname)
    store, trainer_hosts = "", [world.hosts[rank] for rank in world.trainer_ranks]
    if hostname == trainer_hosts[0] and len(set(trainer_hosts)) > 1:
        store = environ.get(ADDRESS_VARIABLE) or choose_address(trainer_hosts)
    return Network(interfaces=found, fault=fault, address=address, port=port, store=store)


def host(*, environ: Mapping[str, str]) -> Host:
    import psutil

    disk = tempfile.gettempdir()
    shm = shutil.disk_usage("/dev/shm") if Path("/dev/shm").is_dir() else None
    return Host(
        free_memory_bytes=psutil.virtual_memory().available,
        free_shm_bytes=shm.free if shm else 0,
        disk=disk,
        free_disk_bytes=shutil.disk_usage(disk).free,
        locks=compile_locks(extensions_folder(environ), now=time.time()),
    )


def extensions_folder(environ: Mapping[str, str]) -> Path:
    """Where torch compiles its extensions, DeepSpeed's among them."""
    return Path(environ.get("TORCH_EXTENSIONS_DIR") or Path.home() / ".cache" / "torch_extensions")


def compile_locks(folder: Path, *, now: float) -> dict[str, float]:
    """The locks below it, with their age in seconds."""
    ages = {}
    for path in sorted(path for pattern in _LOCKS for path in folder.glob(pattern)):
        with suppress(OSError):  # the build has just ended
            ages[str(path)] = max(now - path.stat().st_mtime, 0.0)
    return ages


def process(*, environ: Mapping[str, str]) -> Process:
    threads = environ.get("OMP_NUM_THREADS", "")
    return Process(
        cores=sorted(os.sched_getaffinity(0)),
        threads=int(threads) if threads.isdigit() else 0,
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
    )


def run_folder(token_file: Path, token: str, *, timeout_s: float) -> Run:
    folder = token_file.parent
    is_seen = sees_token(token_file, token, timeout_s=timeout_s)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            started_at = time.monotonic()
            file.write(bytes(WRITTEN_BYTES))
            file.flush()
            os.fsync(file.fileno())
            speed = WRITTEN_BYTES / max(time.monotonic() - started_at, 1e-6)
        free = shutil.disk_usage(folder).free
    except OSError:
        if is_seen:
            raise
        speed, free = 0.0, 0
    return Run(folder=str(folder), is_seen=is_seen, free_bytes=free, written_bytes_per_s=speed)


def devices(device_number: int, *, dev: Path = Path("/dev")) -> Devices:
    """Torch is loaded only where the kernel knows a GPU."""
    nodes = len([path for path in dev.glob("nvidia*") if path.name.removeprefix("nvidia").isdigit()])
    nodes = nodes or int((dev / "kfd").exists())
    if not nodes:
        return Devices(nodes=0, gpus=Gpus())
    from realm_ds.models.devices import visible_gpus

    return Devices(nodes=nodes, gpus=visible_gpus(device_number))


def data(config: RealmConfig, *, timeout_s: float) -> Data:
    """Whether this host reads what the run will, and the same."""
    from realm_ds.data.shards import Kind, open_shards
    from realm_ds.data.tokenizer import load_tokenizer
    from realm_ds.models.names import check_encoder_start, check_start

    digests: dict[str, str] = {}
    faults: list[str] = []
    fingerprint = None
    try:
        fingerprint = digests["data.tokenizer"] = load_tokenizer(config.data.tokenizer).fingerprint
    except RealmError as error:
        faults.append(str(error))
    places: dict[str, tuple[Path | str | None, Kind]] = {
        "data.corpus": (config.data.corpus, "corpus"),
        "data.pretrain": (config.data.pretrain, "pretrain"),
        "data.held_out": (config.data.held_out, "pretrain"),
    }
    for setting, (place, kind) in places.items():
        try:
            if place is not None:
                shards = open_shards(place, kind=kind, fingerprint=fingerprint, timeout_s=timeout_s)
                digests[setting] = shards.digest
        except RealmError as error:
            faults.append(f"{setting}: {error}")
    try:
        if config.model.start_from is not None:
            check_start(config.model.start_from)
        if config.model.encoder_from is not None:
            check_encoder_start(config.model.encoder_from)
    except RealmError as error:
        faults.append(str(error))
    if isinstance(config.model.encoder, Path) and not config.model.encoder.is_dir():
        faults.append(f"model.encoder={config.model.encoder} is no folder")
    return Data(digests=digests, faults=faults)


def _into(found: dict[str, Any], faults: dict[str, str], name: str, look: Callable[[], Any]) -> None:
    try:
        found[name] = look()
    except Exception as error:  # whatever it is: the other looks go on, and this is told
        faults[name] = f"{type(error).__name__}: {error}"
