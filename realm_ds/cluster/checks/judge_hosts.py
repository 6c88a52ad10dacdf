"""What facts mean for hosts: cores, limits, memory, GPUs, disks, data. Pure; networks are judge_network.py's."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from realm_ds.cluster.checks.facts import Devices, Facts, Process
from realm_ds.cluster.checks.judge_launch import hosts_text
from realm_ds.comm.roles import TRAINER
from realm_ds.comm.world import World
from realm_ds.observe.checks import Check, CheckState

GIB = 1 << 30
LEAST_OPEN_FILES = 4096
LEAST_MEMORY_EACH = GIB
"""What Python, torch and MPI take before a model is loaded."""
LEAST_SHM = 256 << 20
"""A container has 64 MiB unless told otherwise, and MPI dies of that in the middle of a run."""
LEAST_DISK, LEAST_RUN = GIB, 10 * GIB
SLOW_RUN = 20e6
"""Bytes a second: at that rate a checkpoint of BERT-base takes minutes."""
STALE_AFTER_S = 600.0
"""No build takes longer, but that of async_io on a slow machine."""
FREE_SHARE = 0.9
"""Of a GPU's memory, before training."""
BLIND_FIX = "ask for GPUs (--gpus-per-node), look at CUDA_VISIBLE_DEVICES, install a torch built for this driver"


def judge_hosts(
    world: World,
    facts: Mapping[int, Facts],
    *,
    roles_are_known: bool,
    wants_run: bool,
    wants_data: bool,
    run_fault: Check | None = None,
) -> list[Check]:
    """Every check of this module. GPUs are dealt by roles, and without these only counted; `run_fault` is what kept the
    run's place from being looked at."""
    checks = [
        judge_cores(world, facts),
        judge_open_files(world, facts),
        *judge_memory(world, facts),
        judge_gpus(world, facts, roles_are_known=roles_are_known),
        judge_locks(world, facts),
    ]
    checks.append(run_fault or judge_run(world, facts) if wants_run else _skipped("run folder", "no --run"))
    checks.append(judge_data(world, facts) if wants_data else _skipped("data", "no --config"))
    return checks


def judge_cores(world: World, facts: Mapping[int, Facts]) -> Check:
    by_host: dict[str, list[Process]] = defaultdict(list)
    for rank, theirs in facts.items():
        if theirs.process is not None:
            by_host[world.hosts[rank]].append(theirs.process)
    bad: dict[str, list[str]] = defaultdict(list)
    words = set()
    for host, processes in by_host.items():
        cores = {core for process in processes for core in process.cores}
        share = max(1, len(cores) // len(processes))
        threads = sum(process.threads or share for process in processes)
        words.add(f"{len(processes)} ranks with {threads} threads on {len(cores)} cores")
        pinned = [process for process in processes if process.threads > len(process.cores)]
        if pinned:
            bad[f"a rank has OMP_NUM_THREADS={pinned[0].threads} but may use {len(pinned[0].cores)} core(s)"].append(
                host
            )
        elif threads > len(cores):
            bad[f"{len(processes)} ranks with {threads} threads share {len(cores)} core(s)"].append(host)
    fix = (
        "give each task its cores (--cpus-per-task and SRUN_CPUS_PER_TASK; mpiexec -bind-to none) and set "
        "OMP_NUM_THREADS to them, or start fewer ranks"
    )
    return _check("cores", bad, ok="; ".join(sorted(words)), fix=fix)


def judge_open_files(world: World, facts: Mapping[int, Facts]) -> Check:
    limits = {rank: theirs.process.open_files for rank, theirs in facts.items() if theirs.process is not None}
    limits = {rank: limit for rank, limit in limits.items() if limit >= 0}  # -1: no limit
    bad = {
        f"a rank may open {limit} files": [world.hosts[rank] for rank in limits if limits[rank] == limit]
        for limit in sorted({limit for limit in limits.values() if limit < LEAST_OPEN_FILES})
    }
    least = min(limits.values(), default=None)
    ok = "no limit" if least is None else f"a rank may open {least}"
    return _check("open files", bad, ok=ok, fix="ulimit -n 65536 in slurm/site.sh, or before the launcher")


def judge_memory(world: World, facts: Mapping[int, Facts]) -> list[Check]:
    """Of a host, /dev/shm, and the disk for temporary files."""
    hosts = {world.hosts[rank]: theirs.host for rank, theirs in facts.items() if theirs.host is not None}
    ranks = {host: world.hosts.count(host) for host in hosts}
    tight: dict[str, list[str]] = defaultdict(list)
    shm: dict[str, list[str]] = defaultdict(list)
    disks: dict[str, list[str]] = defaultdict(list)
    for name, host in hosts.items():
        if host.free_memory_bytes < LEAST_MEMORY_EACH * ranks[name]:
            tight[f"{gib(host.free_memory_bytes)} are free for {ranks[name]} ranks"].append(name)
        if host.free_shm_bytes < LEAST_SHM:
            shm[f"/dev/shm has {gib(host.free_shm_bytes)} free"].append(name)
        if host.free_disk_bytes < LEAST_DISK:
            disks[f"{host.disk} has {gib(host.free_disk_bytes)} free"].append(name)
    return [
        _check("memory", tight, ok=_least(hosts, "free_memory_bytes"),
               fix="end what else runs there, ask for the whole node (--exclusive, --mem=0), or start fewer ranks"),
        _check("/dev/shm", shm, ok=_least(hosts, "free_shm_bytes"),
               fix="remove what killed jobs left there; in a container raise --shm-size"),
        _check("local disk", disks, ok=_least(hosts, "free_disk_bytes"),
               fix="free some, or set TMPDIR to a larger local disk"),
    ]  # fmt: skip


def judge_gpus(world: World, facts: Mapping[int, Facts], *, roles_are_known: bool) -> Check:
    devices = {rank: theirs.devices for rank, theirs in facts.items() if theirs.devices is not None}
    trainers = {rank: found for rank, found in devices.items() if world.roles[rank] == TRAINER}
    others = {rank: found for rank, found in devices.items() if rank not in trainers}
    if blind := _blind(world, trainers):
        return Check(name="GPUs", state="fail", found=blind, fix=BLIND_FIX)
    if not any(found.nodes for found in trainers.values()):
        check = Check(name="GPUs", state="ok", found="none on a trainer's host: training is on CPUs, over gloo")
    elif roles_are_known:
        check = _dealt_gpus(world, devices)
    else:
        check = Check(name="GPUs", state="ok", found=_gpus_text(world, devices))
    if check.state == "ok" and (blind := _blind(world, others)):
        found = f"{blind}, where index and builder ranks run on CPUs then"
        return Check(name="GPUs", state="warn", found=found, fix=f"if they are to have some: {BLIND_FIX}")
    return check


def judge_locks(world: World, facts: Mapping[int, Facts]) -> Check:
    ages: dict[str, float] = {}
    for theirs in facts.values():
        for path, age_s in theirs.host.locks.items() if theirs.host is not None else ():
            ages[path] = max(age_s, ages.get(path, 0.0))
    if not ages:
        return Check(name="compile locks", state="ok", found="none")
    stale = [path for path, age_s in ages.items() if age_s > STALE_AFTER_S]
    if stale:
        return Check(
            name="compile locks", state="fail",
            found=f"{', '.join(stale)}: left {max(ages.values()) / 60:.0f} minutes ago, as by a job that was "
            "killed while it compiled; DeepSpeed would wait for it for ever",
            fix=f"if nothing compiles there now: rm {' '.join(stale)}",
        )  # fmt: skip
    return Check(
        name="compile locks", state="warn", found=f"{', '.join(ages)}: less than {STALE_AFTER_S / 60:.0f} minutes old",
        fix="wait until what compiles there has ended; if nothing does, remove it",
    )  # fmt: skip


def judge_run(world: World, facts: Mapping[int, Facts]) -> Check:
    runs = {world.hosts[rank]: theirs.run for rank, theirs in facts.items() if theirs.run is not None}
    if not runs:
        return _skipped("run folder", "no host could look at it")
    blind = [host for host, run in runs.items() if not run.is_seen]
    folder = next(iter(runs.values())).folder
    if blind:
        return Check(
            name="run folder", state="fail",
            found=f"{hosts_text(blind)} does not see what world rank 0 on {world.hosts[0]} wrote in {folder}",
            fix="name a folder on a file system that all hosts mount, by the same path",
        )  # fmt: skip
    free, speed = min(run.free_bytes for run in runs.values()), min(run.written_bytes_per_s for run in runs.values())
    found = f"{folder} is seen by all, {gib(free)} free, written at {speed / 1e6:.0f} MB/s by each host"
    state: CheckState = "warn" if free < LEAST_RUN or speed < SLOW_RUN else "ok"
    return Check(
        name="run folder", state=state, found=found, fix="free some space, or name a faster file system for --run"
    )


def judge_data(world: World, facts: Mapping[int, Facts]) -> Check:
    looked = {world.hosts[rank]: theirs.data for rank, theirs in facts.items() if theirs.data is not None}
    faults: dict[str, list[str]] = defaultdict(list)
    seen: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for host, data in looked.items():
        for fault in data.faults:
            faults[fault].append(host)
        for setting, digest in data.digests.items():
            seen[setting][digest].append(host)
    if faults:
        return _check("data", faults, ok="", state="fail")
    differing: dict[str, list[str]] = {
        f"{setting} is not the same everywhere: "
        + "; ".join(f"{digest[:12]} on {hosts_text(hosts)}" for digest, hosts in digests.items()): []
        for setting, digests in seen.items()
        if len(digests) > 1
    }
    fix = "copy the shards again to the hosts that differ, or read them from one shared folder"
    ok = ", ".join(f"{setting} {next(iter(digests))[:12]}" for setting, digests in seen.items())
    return _check("data", differing, ok=f"the same on every host: {ok}", state="fail", fix=fix)


def gib(num_bytes: int) -> str:
    return f"{num_bytes / GIB:.1f} GiB"


def _blind(world: World, devices: Mapping[int, Devices]) -> str:
    """Where the kernel knows GPUs and torch does not; "" if nowhere."""
    blind = [rank for rank, found in devices.items() if found.nodes and not found.gpus.names]
    if not blind:
        return ""
    return f"torch sees none of the {devices[blind[0]].nodes} on {hosts_text(world.hosts[rank] for rank in blind)}"


def _dealt_gpus(world: World, devices: Mapping[int, Devices]) -> Check:
    """Each trainer needs one of its own, by the number that DeepSpeed takes."""
    for rank, found in devices.items():
        theirs = World(world_rank=rank, hosts=world.hosts, roles=world.roles)
        if theirs.trainer_rank is not None and theirs.device_number >= len(found.gpus.names):
            return Check(
                name="GPUs", state="fail",
                found=f"{theirs.name} is the trainer number {theirs.device_number} of its host, from 0, and sees "
                f"{len(found.gpus.names)} GPU(s)",
                fix="let every task see all GPUs of its node (--gpus-per-node; not --gpus-per-task or --gpu-bind), or "
                "start fewer trainers on a host",
            )  # fmt: skip
    used: dict[str, list[str]] = defaultdict(list)
    for rank, found in devices.items():
        if found.gpus.free_bytes < FREE_SHARE * found.gpus.total_bytes:
            free = f"a GPU has {gib(found.gpus.free_bytes)} of {gib(found.gpus.total_bytes)} free"
            used[free].append(world.hosts[rank])
    return _check(
        "GPUs",
        used,
        ok=_gpus_text(world, devices),
        fix="end what else uses it (nvidia-smi names it), or ask for others",
    )


def _gpus_text(world: World, devices: Mapping[int, Devices]) -> str:
    hosts: dict[str, list[str]] = defaultdict(list)
    for rank, found in devices.items():
        names = sorted({f"{found.gpus.names.count(name)} x {name}" for name in found.gpus.names}) or ["none"]
        memory = f" of {gib(found.gpus.total_bytes)}" if found.gpus.total_bytes else ""
        hosts[", ".join(names) + memory].append(world.hosts[rank])
    return "; ".join(f"{words} on {hosts_text(where)}" for words, where in hosts.items())


def _least(hosts: Mapping[str, Any], member: str) -> str:
    if not hosts:
        return "not known"
    host = min(hosts, key=lambda name: getattr(hosts[name], member))
    return f"{gib(getattr(hosts[host], member))} free" + (f" on {host}, which has least" if len(hosts) > 1 else "")


def _check(name: str, bad: Mapping[str, Iterable[str]], *, ok: str, fix: str = "", state: CheckState = "warn") -> Check:
    """Not ok if anything is bad; `bad` has the hosts of each thing."""
    if not bad:
        return Check(name=name, state="ok", found=ok)
    words = [f"{hosts_text(hosts)}: {what}" if (hosts := list(where)) else what for what, where in bad.items()]
    return Check(name=name, state=state, found="; ".join(words), fix=fix)


def _skipped(name: str, why: str) -> Check:
    return Check(name=name, state="skip", found=why)
