"""Which rank trains and which holds a shard of the index: a pure function of the launch.

Who I am is world.py's business.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Literal

from realm_ds.errors import ConfigError

Role = Literal["trainer", "index"]
Placement = Literal["per_node", "tail"]

TRAINER: Role = "trainer"
INDEX: Role = "index"
ROLE_VARIABLE = "REALM_ROLE"
"""Set in the environment of every process, it replaces `placement` (Slurm heterogeneous jobs, --multi-prog)."""


def assign(
    hosts: Sequence[str], *, num_shards: int, placement: Placement, overrides: Sequence[str | None] | None = None
) -> tuple[Role, ...]:
    """The role of every world rank; `hosts` and `overrides` (the ranks' REALM_ROLE, None if unset) by world rank.

    Every rank computes the same, so an impossible split is the same error on all of them.
    """
    given = overrides if overrides is not None else [None] * len(hosts)
    if any(role is not None for role in given):
        return _from_overrides(given, num_shards)
    _check_size(len(hosts), num_shards)
    return _per_node(hosts, num_shards) if placement == "per_node" else _tail(len(hosts), num_shards)


def _check_size(world_size: int, num_shards: int) -> None:
    if num_shards >= world_size:
        raise ConfigError(
            f"index.num_shards={num_shards} leaves no trainer in a world of {world_size} process(es): "
            f"launch at least {num_shards + 1} processes, or lower index.num_shards"
            + (f" to {world_size - 1} or less" if world_size > 1 else "")
        )


def _tail(world_size: int, num_shards: int) -> tuple[Role, ...]:
    return (TRAINER,) * (world_size - num_shards) + (INDEX,) * num_shards


def _per_node(hosts: Sequence[str], num_shards: int) -> tuple[Role, ...]:
    processes = Counter(hosts)
    if num_shards % len(processes):
        raise ConfigError(
            f"index.num_shards={num_shards} is not a multiple of the {len(processes)} nodes of this launch "
            f"({_listed(processes)}), as index.placement=per_node needs: set index.num_shards="
            f"{-(-num_shards // len(processes)) * len(processes)}, or index.placement=tail"
        )
    per_node = num_shards // len(processes)
    for host, count in processes.items():
        if count < per_node:
            raise ConfigError(
                f"node {host} has {count} process(es) but index.num_shards={num_shards} over {len(processes)} nodes "
                f"puts {per_node} index ranks on each: launch more processes on {host}, lower index.num_shards, "
                "or set index.placement=tail"
            )
    roles: list[Role] = []
    seen: Counter[str] = Counter()
    for host in hosts:
        roles.append(TRAINER if seen[host] < processes[host] - per_node else INDEX)
        seen[host] += 1
    return tuple(roles)


def _from_overrides(overrides: Sequence[str | None], num_shards: int) -> tuple[Role, ...]:
    unset = [rank for rank, role in enumerate(overrides) if role is None]
    if unset:
        raise ConfigError(
            f"{ROLE_VARIABLE} is set in {len(overrides) - len(unset)} of {len(overrides)} processes, not in world "
            f"rank(s) {_ranks(unset)}: set it to trainer or index in every process, or in none"
        )
    roles: list[Role] = []
    for rank, role in enumerate(overrides):
        if role == TRAINER:
            roles.append(TRAINER)
        elif role == INDEX:
            roles.append(INDEX)
        else:
            raise ConfigError(f"{ROLE_VARIABLE}={role!r} in the environment of world rank {rank}: use trainer or index")
    num_index = roles.count(INDEX)
    if num_index == len(roles):
        raise ConfigError(
            f"all {len(roles)} processes have {ROLE_VARIABLE}=index and none trains: "
            f"start at least one with {ROLE_VARIABLE}=trainer"
        )
    if num_index != num_shards:
        raise ConfigError(
            f"index.num_shards={num_shards} but {num_index} process(es) have {ROLE_VARIABLE}=index "
            f"(world {len(roles)} = {len(roles) - num_index} trainers + {num_index} index): "
            f"set index.num_shards={num_index}, or start {num_shards} with {ROLE_VARIABLE}=index"
        )
    return tuple(roles)


def _listed(processes: Counter[str]) -> str:
    shown = [f"{host}: {count}" for host, count in list(processes.items())[:4]]
    return ", ".join(shown) + (", ..." if len(processes) > 4 else "")


def _ranks(ranks: Sequence[int]) -> str:
    return ", ".join(map(str, ranks[:8])) + (", ..." if len(ranks) > 8 else "")
