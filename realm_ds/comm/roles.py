"""Which rank trains, which embeds for the index and which holds a shard of it: a pure function of the launch.

Who I am is world.py's business.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Literal, get_args

from realm_ds.errors import ConfigError

Role = Literal["trainer", "index", "builder"]
Placement = Literal["per_node", "tail"]

TRAINER: Role = "trainer"
INDEX: Role = "index"
BUILDER: Role = "builder"
ROLE_VARIABLE = "REALM_ROLE"
"""Set in the environment of every process, it replaces `placement` (Slurm heterogeneous jobs, --multi-prog)."""
SETTINGS: dict[Role, str] = {INDEX: "index.num_shards", BUILDER: "index.builders"}
"""Where the number of ranks of a role is set; what is left over trains."""


def assign(
    hosts: Sequence[str],
    *,
    num_shards: int,
    num_builders: int = 0,
    placement: Placement,
    overrides: Sequence[str | None] | None = None,
) -> tuple[Role, ...]:
    """The role of every world rank; `hosts` and `overrides` (the ranks' REALM_ROLE, None if unset) by world rank.

    Every rank computes the same, so an impossible split is the same error on all of them.
    """
    wanted = {INDEX: num_shards, BUILDER: num_builders}
    if num_builders and not num_shards:
        raise ConfigError(
            f"index.builders={num_builders} embed for shards, but index.num_shards=0: set index.builders=0, or "
            "index.num_shards to at least 1"
        )
    given = overrides if overrides is not None else [None] * len(hosts)
    if any(role is not None for role in given):
        return _from_overrides(given, wanted)
    _check_size(len(hosts), wanted)
    return _per_node(hosts, wanted) if placement == "per_node" else _tail(len(hosts), wanted)


def _check_size(world_size: int, wanted: dict[Role, int]) -> None:
    needed = sum(wanted.values())
    if needed < world_size:
        return
    processes = f"in a world of {world_size} process(es): launch at least {needed + 1} processes"
    if not wanted[BUILDER]:
        raise ConfigError(
            f"index.num_shards={needed} leaves no trainer {processes}, or lower index.num_shards"
            + (f" to {world_size - 1} or less" if world_size > 1 else "")
        )
    raise ConfigError(
        f"index.num_shards={wanted[INDEX]} and index.builders={wanted[BUILDER]} leave no trainer {processes}, or set "
        "index.builders=0, with which shards embed for themselves"
        + (f", and index.num_shards to {world_size - 1} or less" if world_size > 1 else "")
    )


def _tail(world_size: int, wanted: dict[Role, int]) -> tuple[Role, ...]:
    num_trainers = world_size - sum(wanted.values())
    return (TRAINER,) * num_trainers + (BUILDER,) * wanted[BUILDER] + (INDEX,) * wanted[INDEX]


def _per_node(hosts: Sequence[str], wanted: dict[Role, int]) -> tuple[Role, ...]:
    processes = Counter(hosts)
    for role, count in wanted.items():
        if count % len(processes):
            raise ConfigError(
                f"{SETTINGS[role]}={count} is not a multiple of the {len(processes)} nodes of this launch "
                f"({_listed(processes)}), as index.placement=per_node needs: set {SETTINGS[role]}="
                f"{-(-count // len(processes)) * len(processes)}, or index.placement=tail"
            )
    builders, shards = wanted[BUILDER] // len(processes), wanted[INDEX] // len(processes)
    settings = " and ".join(f"{SETTINGS[role]}={count}" for role, count in wanted.items() if count)
    ranks = f"{builders} builder ranks and {shards} index ranks" if builders else f"{shards} index ranks"
    for host, count in processes.items():
        if count < builders + shards:
            raise ConfigError(
                f"node {host} has {count} process(es) but {settings} over {len(processes)} nodes puts {ranks} on each: "
                f"launch more processes on {host}, lower {settings.replace(' and ', ' or ')}, or set "
                "index.placement=tail"
            )
    roles: list[Role] = []
    seen: Counter[str] = Counter()
    for host in hosts:
        from_the_end = processes[host] - seen[host]
        roles.append(INDEX if from_the_end <= shards else BUILDER if from_the_end <= shards + builders else TRAINER)
        seen[host] += 1
    return tuple(roles)


def _from_overrides(overrides: Sequence[str | None], wanted: dict[Role, int]) -> tuple[Role, ...]:
    unset = [rank for rank, role in enumerate(overrides) if role is None]
    if unset:
        raise ConfigError(
            f"{ROLE_VARIABLE} is set in {len(overrides) - len(unset)} of {len(overrides)} processes, not in world "
            f"rank(s) {_ranks(unset)}: set it to trainer, index or builder in every process, or in none"
        )
    roles: list[Role] = []
    for rank, name in enumerate(overrides):
        found = [role for role in get_args(Role) if role == name]
        if not found:
            raise ConfigError(
                f"{ROLE_VARIABLE}={name!r} in the environment of world rank {rank}: use trainer, index or builder"
            )
        roles += found
    if TRAINER not in roles:
        others = " or ".join(role for role in (INDEX, BUILDER) if role in roles)
        raise ConfigError(
            f"all {len(roles)} processes have {ROLE_VARIABLE}={others} and none trains: "
            f"start at least one with {ROLE_VARIABLE}=trainer"
        )
    for role, count in wanted.items():
        if roles.count(role) != count:
            raise ConfigError(
                f"{SETTINGS[role]}={count} but {roles.count(role)} process(es) have {ROLE_VARIABLE}={role} "
                f"(world {_counted(roles)}): set {SETTINGS[role]}={roles.count(role)}, or start {count} with "
                f"{ROLE_VARIABLE}={role}"
            )
    return tuple(roles)


def _counted(roles: Sequence[Role]) -> str:
    """The split in numbers: 6 = 3 trainers + 1 builder + 2 index."""
    counts = [f"{roles.count(TRAINER)} trainers"]
    if BUILDER in roles:
        counts.append(f"{roles.count(BUILDER)} builder")
    return f"{len(roles)} = {' + '.join([*counts, f'{roles.count(INDEX)} index'])}"


def _listed(processes: Counter[str]) -> str:
    shown = [f"{host}: {count}" for host, count in list(processes.items())[:4]]
    return ", ".join(shown) + (", ..." if len(processes) > 4 else "")


def _ranks(ranks: Sequence[int]) -> str:
    return ", ".join(map(str, ranks[:8])) + (", ..." if len(ranks) > 8 else "")
