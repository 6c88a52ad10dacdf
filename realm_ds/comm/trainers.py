"""The trainers' process group and their small collectives on Python numbers. Gradients are the engine's business.

Only trainers come here; index ranks never join torch.distributed. Numbers travel over a gloo group of their own, beside
whatever group and backend the engine uses, so that logging can never interleave with ZeRO's collectives.
"""

import os
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy as np

from realm_ds.comm.network import ADDRESS_VARIABLE, GLOO_VARIABLE, LOOPBACK, choose_address
from realm_ds.comm.waiting import Clock, wait_until
from realm_ds.comm.world import World, polled_any, polled_barrier
from realm_ds.errors import LaunchError
from realm_ds.observe.waiting import waiting_for as named


def init_trainers(world: World, *, timeout_s: float = 600.0, backend: str | None = None) -> "Trainers":
    """Sets the variables that DeepSpeed would else discover, wrongly, and forms the trainers' process group.

    Collective over the trainers. `backend` None is nccl where there is a GPU, else gloo. The group stands on a store
    that bound its own port, so no other program can take it between choosing and using;
    deepspeed.init_distributed finds the group and keeps it.
    """
    import torch
    import torch.distributed as dist

    if world.trainer_rank is None:
        raise LaunchError(f"{world.name} is no trainer and must not join the trainers' process group")
    timeout = timedelta(seconds=timeout_s)
    try:
        if not dist.is_initialized():
            store, address = _open_store(world, timeout_s=timeout_s)
            set_variables(os.environ, world, address=address, port=store.port)
            dist.init_process_group(
                backend or ("nccl" if torch.cuda.is_available() else "gloo"),
                store=store,
                rank=world.trainer_rank,
                world_size=world.num_trainers,
                timeout=timeout,
            )
        group = dist.new_group(backend="gloo", timeout=timeout)
    except RuntimeError as error:
        first = world.hosts[world.trainer_ranks[0]]
        raise LaunchError(
            f"{world.name}: the {world.num_trainers} trainers cannot reach each other, with trainer 0 on {first} "
            f"({str(error).splitlines()[0]}): set {ADDRESS_VARIABLE} to an address of {first} that all trainers reach, "
            f"and on hosts with several networks {GLOO_VARIABLE}"
        ) from error
    return Trainers(world, group=group, timeout_s=timeout_s)


def set_variables(environ: MutableMapping[str, str], world: World, *, address: str, port: int) -> None:
    """What DeepSpeed and torch.distributed read, for the trainers only (DeepSpeed would count the index ranks too)."""
    environ.update(
        RANK=str(world.trainer_rank),
        WORLD_SIZE=str(world.num_trainers),
        LOCAL_RANK=str(world.local_rank),
        LOCAL_SIZE=str(world.local_size),
        MASTER_ADDR=address,
        MASTER_PORT=str(port),
    )
    # DeepSpeed asserts that it equals LOCAL_RANK; Open MPI counts the index ranks of the node too.
    environ.pop("OMPI_COMM_WORLD_LOCAL_RANK", None)
    if address == LOOPBACK:
        environ.setdefault(GLOO_VARIABLE, "lo")


class Trainers:
    """All trainers together: small collectives that every trainer must reach, in the same order."""

    def __init__(self, world: World, *, group: Any = None, timeout_s: float = 600.0) -> None:
        if group is None and world.num_trainers > 1:
            raise LaunchError(f"{world.num_trainers} trainers need a process group: call init_trainers")
        self._world = world
        self._group = group
        self._timeout_s = timeout_s

    @property
    def rank(self) -> int:
        return self._world.trainer_rank or 0

    @property
    def size(self) -> int:
        return self._world.num_trainers

    def all_reduce_sum(self, values: Sequence[float]) -> tuple[float, ...]:
        """Sums over trainers, in float64 and in trainer order: the same bits on every trainer and in every run."""
        return tuple(sum(column) for column in zip(*self._gather(values, np.float64, "sum"), strict=True))

    def gather_ints(self, values: Sequence[int]) -> tuple[tuple[int, ...], ...]:
        """Every trainer's values, by trainer rank, on every trainer; all give equally many."""
        return tuple(tuple(row) for row in self._gather(values, np.int64, "gather"))

    def broadcast_ints(self, values: Sequence[int], *, source: int = 0) -> tuple[int, ...]:
        """The values of trainer `source`; the others give equally many, which are ignored."""
        return self.gather_ints(values)[source]

    def broadcast_bytes(self, data: bytes | None, *, source: int = 0) -> bytes:
        """The bytes of trainer `source`; the others give None."""
        if self.size == 1:
            return data or b""
        import torch
        import torch.distributed as dist

        (num_bytes,) = self.broadcast_ints([len(data or b"")], source=source)
        tensor = torch.zeros(num_bytes, dtype=torch.uint8)
        if self.rank == source and data:
            tensor.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        with self._named("broadcast of bytes"):
            dist.broadcast(tensor, src=dist.get_global_rank(self._group, source), group=self._group)
        return bytes(tensor.numpy().tobytes())

    def broadcast_array(self, array: np.ndarray, *, source: int = 0) -> None:
        """Fill the array with that of trainer `source`, of the same shape and dtype, without a copy of it anywhere."""
        if self.size > 1:
            import torch
            import torch.distributed as dist

            with self._named("broadcast of an array"):
                root = dist.get_global_rank(self._group, source)
                dist.broadcast(torch.from_numpy(array), src=root, group=self._group)

    def any(self, is_so: bool, *, waiting_for: str) -> bool:
        """Whether it is so for any trainer; the same on all. Over MPI, whose answer takes microseconds."""
        return polled_any(self._world.trainer_comm, is_so, timeout_s=self._timeout_s, waiting_for=waiting_for)

    def barrier(self, *, timeout_s: float, waiting_for: str, clock: Clock | None = None) -> None:
        """Returns once every trainer is here; sleeps meanwhile, and says what it waited for at its deadline."""
        polled_barrier(self._world.trainer_comm, timeout_s=timeout_s, waiting_for=waiting_for, clock=clock)

    def close(self) -> None:
        """Leave the process group, so that ending the program prints no warnings."""
        if self._group is not None:
            import torch.distributed as dist

            dist.destroy_process_group()
            self._group = None

    def _gather(self, values: Sequence[float], dtype: Any, what: str) -> list[list[Any]]:
        row = np.asarray(values, dtype=dtype)
        if row.ndim != 1:
            raise TypeError(f"a {what} over trainers takes a list of numbers, not {values!r}")
        if self.size == 1:
            return [row.tolist()]
        import torch
        import torch.distributed as dist

        rows = [torch.from_numpy(np.empty_like(row)) for _ in range(self.size)]
        with self._named(what):
            dist.all_gather(rows, torch.from_numpy(row.copy()), group=self._group)
        return [gathered.tolist() for gathered in rows]

    @contextmanager
    def _named(self, what: str) -> Iterator[None]:
        try:
            with named(f"the other trainers' part in a {what}"):
                yield
        except RuntimeError as error:
            raise LaunchError(
                f"{self._world.name}: the trainers' {what} failed, a trainer has died or is more than "
                f"{self._timeout_s:g} s late; its log says why ({str(error).splitlines()[0]})"
            ) from error


def _open_store(world: World, *, timeout_s: float) -> tuple[Any, str]:
    """Trainer 0 serves a store on a port that the system picks and tells the others where."""
    import torch.distributed as dist

    timeout = timedelta(seconds=timeout_s)
    told = np.zeros(256, np.uint8)
    store = None
    if world.trainer_rank == 0:
        address = os.environ.get(ADDRESS_VARIABLE) or choose_address(
            [world.hosts[rank] for rank in world.trainer_ranks]
        )
        # It listens on every interface. Itself it goes by loopback, so that an address that does not work fails at
        # those who need it.
        store = dist.TCPStore(LOOPBACK, 0, world.num_trainers, True, timeout, wait_for_workers=False)
        raw = f"{store.port} {address}".encode()
        told[: len(raw)] = np.frombuffer(raw, np.uint8)
    if world.trainer_comm is not None:
        request = world.trainer_comm.Ibcast(told, root=0)
        waiting_for = "trainer 0 to open the trainers' store"
        wait_until(request.Test, timeout_s=timeout_s, waiting_for=waiting_for, clock=Clock(), fault=LaunchError)
    port, address = told.tobytes().rstrip(b"\0").decode().split(" ")
    if store is None:
        store = dist.TCPStore(address, int(port), world.num_trainers, False, timeout, wait_for_workers=False)
    return store, address
