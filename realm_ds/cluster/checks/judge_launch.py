"""What facts mean for a launch: one world, one MPI, one code, roles that add up. Pure; hosts are judge_hosts.py's."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from realm_ds.cluster.checks.facts import Facts
from realm_ds.comm.cards import ranks_text
from realm_ds.comm.roles import BUILDER, INDEX, TRAINER
from realm_ds.comm.world import World, library_name
from realm_ds.errors import RealmError
from realm_ds.observe.checks import Check

NAMED_HOSTS = 4


def judge_launch(world: World, facts: Mapping[int, Facts]) -> list[Check]:
    """All of this module but roles and code, on which ranks agree when they join."""
    return [_silent(world, facts), *_faults(world, facts), _mpi(world, facts), _libraries(world, facts)]


def tried(name: str, check: Callable[[], Any], ok: str) -> Check:
    """A check that raises what is wrong."""
    try:
        check()
    except RealmError as error:
        return Check(name=name, state="fail", found=str(error))
    return Check(name=name, state="ok", found=ok)


def roles_text(world: World) -> str:
    """How many of each on each host."""
    by_host: dict[str, Counter[str]] = defaultdict(Counter)
    for host, role in zip(world.hosts, world.roles, strict=True):
        by_host[host][role] += 1
    splits = Counter(
        " + ".join(f"{count[role]} {role}" for role in (TRAINER, BUILDER, INDEX) if count[role])
        for count in by_host.values()
    )
    total = f"{world.num_trainers} trainers, {world.num_shards} index ranks"
    total += f", {world.num_builders} builder ranks" if world.num_builders else ""
    return f"{total}: " + "; ".join(f"{split} on {_hosts_counted(count)}" for split, count in splits.items())


def hosts_text(hosts: Iterable[str]) -> str:
    """The hosts for people, the first of many."""
    names = list(dict.fromkeys(hosts))
    return ", ".join(names[:NAMED_HOSTS]) + (f" and {len(names) - NAMED_HOSTS} more" if names[NAMED_HOSTS:] else "")


def world_text(hosts: Sequence[str]) -> str:
    """How many ranks on which hosts."""
    counts = Counter(hosts)
    shown = ", ".join(f"{host}: {count}" for host, count in list(counts.items())[:NAMED_HOSTS])
    more = ", ..." if len(counts) > NAMED_HOSTS else ""
    return f"{len(hosts)} rank{'s' if len(hosts) > 1 else ''} on {_hosts_counted(len(counts))} ({shown}{more})"


def _hosts_counted(count: int) -> str:
    return f"{count} host{'s' if count > 1 else ''}"


def _silent(world: World, facts: Mapping[int, Facts]) -> Check:
    silent = [rank for rank in range(world.world_size) if rank not in facts]
    if not silent:
        return Check(name="one world", state="ok", found=world_text(world.hosts))
    return Check(
        name="one world",
        state="fail",
        found=f"world rank(s) {ranks_text(silent)} on {hosts_text(world.hosts[rank] for rank in silent)} joined, then "
        "said nothing more",
        fix="look at that host: a file system or device that hangs, a process that is stopped; leave it out "
        "(sbatch --exclude) and try again",
    )


def _faults(world: World, facts: Mapping[int, Facts]) -> list[Check]:
    """What could not be looked at: one check for each thing that went wrong, with those to whom it did."""
    whose: dict[tuple[str, str], list[int]] = defaultdict(list)
    for rank, theirs in facts.items():
        for part, fault in theirs.faults.items():
            whose[part, fault].append(rank)
    return [
        Check(
            name=part,
            state="fail",
            found=f"world rank(s) {ranks_text(ranks)} on {hosts_text(world.hosts[rank] for rank in ranks)}: {fault}",
        )
        for (part, fault), ranks in whose.items()
    ]


def _mpi(world: World, facts: Mapping[int, Facts]) -> Check:
    hosts: dict[str, list[str]] = defaultdict(list)
    for rank, theirs in facts.items():
        if theirs.software is not None:
            level = f", thread level {theirs.software.thread_level}" if theirs.software.thread_level else ""
            hosts[f"{theirs.software.mpi}{level}"].append(world.hosts[rank])
    if len(hosts) == 1:
        (found,) = hosts
        if found != library_name(None):
            return Check(name="MPI", state="ok", found=found)
        return Check(
            name="MPI",
            state="warn",
            found="no MPI library can be loaded: one process can train, without index ranks",
            fix="pip install mpich, or load the site's MPI module",
        )
    return Check(
        name="MPI",
        state="warn",
        found="; ".join(f"{library} on {hosts_text(where)}" for library, where in hosts.items()),
        fix="load the same MPI on every host (slurm/site.sh)",
    )


def _libraries(world: World, facts: Mapping[int, Facts]) -> Check:
    hosts: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for rank, theirs in facts.items():
        for name, version in theirs.software.libraries.items() if theirs.software is not None else ():
            # 2.8.0+cpu and 2.8.0+cu128 are one version, as hosts with and without GPUs have them.
            hosts[name][version.partition("+")[0]].append(world.hosts[rank])
    differing = {name: versions for name, versions in hosts.items() if len(versions) > 1}
    if differing:
        return Check(
            name="libraries",
            state="warn",
            found="; ".join(
                f"{name} is " + ", ".join(f"{version} on {hosts_text(where)}" for version, where in versions.items())
                for name, versions in differing.items()
            ),
            fix="install the same versions on every host: pip install -c constraints.txt",
        )
    mine = facts[world.world_rank].software
    words = ", ".join(f"{name} {version}" for name, version in mine.libraries.items()) if mine else "not known"
    return Check(name="libraries", state="ok", found=words)
