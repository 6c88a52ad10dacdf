"""What trials between ranks mean: connections, messages, clocks. Pure."""

import math
from collections.abc import Mapping

from realm_ds.cluster.checks.facts import Facts, Network
from realm_ds.cluster.checks.judge_launch import hosts_text
from realm_ds.cluster.checks.trial import TRIALS_TIMEOUT_S, Dial, Trials, trainer_firsts
from realm_ds.comm.network import ADDRESS_VARIABLE, GLOO_VARIABLE
from realm_ds.comm.roles import TRAINER
from realm_ds.comm.world import World
from realm_ds.observe.checks import Check

SLOW_LATENCY_S = 5e-3
SLOW_BYTES_PER_S = 100e6
"""A gigabit network; a snapshot of BERT-base then takes seconds for each shard."""
MOST_SKEW_S = 1.0
"""The earliest failure counts as the cause of the others, and ranks die within a second."""


def judge_network(world: World, facts: Mapping[int, Facts], trials: Trials) -> list[Check]:
    """Every check of this module."""
    return [
        *_skipped(trials),
        judge_interfaces(world, facts, trials),
        judge_links(world, trials),
        judge_clocks(world, trials),
    ]


def judge_interfaces(world: World, facts: Mapping[int, Facts], trials: Trials) -> Check:
    networks = {rank: theirs.network for rank, theirs in facts.items() if theirs.network is not None}
    for rank, network in networks.items():
        if network.fault and world.roles[rank] == TRAINER:  # no other rank opens a connection of its own
            return Check(name="network", state="fail", found=network.fault)
    lost = [one for one in trials.dials if one.fault]
    if lost:
        return _unreached(world, lost[0], networks[lost[0].to], num_lost=len(lost))
    if len(trainer_firsts(world)) == 1:
        return Check(name="network", state="ok", found="trainers on one host: they meet on loopback")
    if not trials.dials:
        return Check(name="network", state="skip", found="no two hosts were asked to connect")
    ring = dict.fromkeys(f"{world.hosts[one.to]} {_named(one.address, networks[one.to])}" for one in trials.dials)
    shown = ", ".join(list(ring)[:4]) + (", ..." if len(ring) > 4 else "")
    return Check(name="network", state="ok", found=f"each host is reached by another: {shown}")


def judge_links(world: World, trials: Trials) -> Check:
    lost = [link for link in trials.links if link.tried.fault][:1]  # one says it
    found = [f"{_way(world, link.source, link.to)}: {link.tried.fault}" for link in lost]
    if mute := [host for host, skew_s in trials.skews_s.items() if math.isnan(skew_s)]:
        found.append(f"world rank 0 on {world.hosts[0]} heard no answer from {hosts_text(mute)}")
    if found:
        return Check(
            name="messages", state="fail", found="; ".join(found),
            fix="MPI started on these hosts but its messages do not arrive: name the network for it (UCX_NET_DEVICES, "
            "FI_TCP_IFACE, or the like of your MPI) in slurm/site.sh",
        )  # fmt: skip
    if not trials.links:
        return Check(name="messages", state="skip", found="no other rank" if world.world_size == 1 else "none tried")
    words = "; ".join(
        f"{_way(world, link.source, link.to)}: {link.tried.latency_s * 1e3:.2f} ms, "
        f"{link.tried.bytes_per_s / 1e9:.2f} GB/s"
        for link in trials.links
    )
    is_slow = any(
        link.tried.latency_s > SLOW_LATENCY_S or link.tried.bytes_per_s < SLOW_BYTES_PER_S for link in trials.links
    )
    return Check(
        name="messages", state="warn" if is_slow else "ok", found=words,
        fix="a step waits for its answers this long: look whether MPI uses the fast network (UCX_NET_DEVICES, "
        "FI_TCP_IFACE), and whether the hosts are busy",
    )  # fmt: skip


def judge_clocks(world: World, trials: Trials) -> Check:
    skews_s = {host: skew_s for host, skew_s in trials.skews_s.items() if not math.isnan(skew_s)}
    if not skews_s:
        return Check(
            name="clocks", state="skip" if len(set(world.hosts)) > 1 else "ok", found="no other host was asked"
        )
    skews_s[world.hosts[0]] = 0.0
    ahead, behind = max(skews_s, key=lambda host: skews_s[host]), min(skews_s, key=lambda host: skews_s[host])
    apart_s = skews_s[ahead] - skews_s[behind]
    if apart_s <= MOST_SKEW_S:
        return Check(name="clocks", state="ok", found=f"at most {apart_s * 1e3:.0f} ms apart")
    return Check(
        name="clocks", state="warn", found=f"that of {ahead} is {apart_s:.1f} s ahead of that of {behind}",
        fix="let the hosts keep time (chrony, ntpd); until then `realm-ds why` may name another rank than the first "
        "that failed",
    )  # fmt: skip


def _skipped(trials: Trials) -> list[Check]:
    if not trials.num_skipped:
        return []
    return [
        Check(
            name="trials", state="warn",
            found=f"{trials.num_skipped} more were left out, those before took {TRIALS_TIMEOUT_S:g} s",
            fix="mend what is told of messages and network, and look again",
        )
    ]  # fmt: skip


def _unreached(world: World, lost: Dial, network: Network, *, num_lost: int) -> Check:
    more = f"; {num_lost - 1} more failed" if num_lost > 1 else ""
    there = world.hosts[lost.to]
    is_store = lost.address == network.store and lost.address != network.address
    variable = ADDRESS_VARIABLE if is_store else GLOO_VARIABLE
    what = f"an address of {there}" if is_store else "the interface"
    way = f"{world.hosts[lost.source]} does not reach {there} by {_named(lost.address, network)}"
    return Check(
        name="network", state="fail", found=f"{way}: {lost.fault}{more}",
        fix=f"set {variable} to {what} by which the hosts reach each other (slurm/site.sh), or open the firewall "
        "between them",
    )  # fmt: skip


def _named(address: str, network: Network) -> str:
    """An address with the interface that has it."""
    name = next((name for name, addresses in network.interfaces.items() if address in addresses), "")
    return f"{address} ({name})" if name else address or "no address"


def _way(world: World, source: int, to: int) -> str:
    names = [World(world_rank=rank, hosts=world.hosts, roles=world.roles) for rank in (source, to)]
    return " - ".join(f"{one.role} {one.role_rank} ({one.hostname})" for one in names)
