"""Addresses and interfaces by which ranks on several hosts reach each other. Groups over them are trainers.py's."""

import socket
from collections.abc import Callable, Mapping, Sequence

from realm_ds.errors import ConfigError

LOOPBACK = "127.0.0.1"
ADDRESS_VARIABLE = "REALM_MASTER_ADDR"
"""Address of trainer 0's host, where the one that is found does not work."""
GLOO_VARIABLE, NCCL_VARIABLE = "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"


def route_to(address: str) -> str:
    """The local address from which packets to `address` would leave; none is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((address, 9))
        return str(probe.getsockname()[0])


def choose_address(
    hosts: Sequence[str],
    *,
    resolve: Callable[[str], str] = socket.gethostbyname,
    route: Callable[[str], str] = route_to,
) -> str:
    """The address at which the trainers on `hosts` reach the first of them, which is this one."""
    others = [host for host in hosts if host != hosts[0]]
    if not others:
        return LOOPBACK
    # The interface on the way to another trainer comes first: many hosts resolve their own name to 127.0.1.1.
    try:
        return route(resolve(others[0]))
    except OSError:
        pass
    try:
        return resolve(hosts[0])
    except OSError:
        pass
    raise ConfigError(
        f"neither {hosts[0]} nor {others[0]} resolves to an address on {hosts[0]}, where trainer 0 is: "
        f"set {ADDRESS_VARIABLE} to an address of {hosts[0]} that all trainers reach"
    )


def interfaces() -> dict[str, list[str]]:
    """The IPv4 addresses of this host, by the name of the network interface."""
    import psutil

    return {
        name: [entry.address for entry in entries if entry.family == socket.AF_INET]
        for name, entries in psutil.net_if_addrs().items()
    }


def check_interfaces(environ: Mapping[str, str], *, here: Sequence[str], hostname: str) -> None:
    """Raise ConfigError if a variable names no network interface that is `here`: torch would say "unable to find
    address", or wait."""
    for variable, lacks in ((GLOO_VARIABLE, _lacking_for_gloo), (NCCL_VARIABLE, _lacking_for_nccl)):
        missing = lacks(environ.get(variable, ""), here)
        if missing:
            raise ConfigError(
                f"{variable}={environ[variable]}: {hostname} has no network interface {missing}, it has "
                f"{', '.join(here)}: set it to one of these that the other hosts are reached by, or unset it; "
                "where hosts differ, each has a value of its own (slurm/site.sh)"
            )


def gloo_address(
    environ: Mapping[str, str],
    found: Mapping[str, Sequence[str]],
    *,
    hostname: str,
    resolve: Callable[[str], str] = socket.gethostbyname,
) -> str:
    """The address that gloo tells other hosts to reach this one by: of the interface that is named, else what this
    host's own name resolves to; "" if there is none."""
    name = environ.get(GLOO_VARIABLE, "").split(",")[0]
    if name:
        return next(iter(found.get(name, ())), "")
    try:
        return resolve(hostname)
    except OSError:
        return LOOPBACK  # what gloo falls back to


def _lacking_for_gloo(value: str, here: Sequence[str]) -> str:
    """The first that is not here: gloo wants all of those that are named."""
    return next((name for name in value.split(",") if name and name not in here), "")


def _lacking_for_nccl(value: str, here: Sequence[str]) -> str:
    """What is named, if none of it is here. By NCCL's rules names are begins of names, behind = whole ones, and those
    behind ^ are not to be used."""
    names = [name for name in value.removeprefix("=").split(",") if name]
    is_exact = value.startswith("=")
    fits = any(own == name if is_exact else own.startswith(name) for name in names for own in here)
    return "" if not names or value.startswith("^") or fits else " or ".join(names)
