"""Who am I: the one MPI world, its roles, this rank's place; alone reads rank variables from the environment.

How roles are dealt out is roles.py's business, what trainers reduce among themselves trainers.py's.
"""

import os
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from realm_ds.comm.cards import Card, check_code, check_settings, exchange_cards
from realm_ds.comm.code import code_name
from realm_ds.comm.loopback import LoopbackHub
from realm_ds.comm.mailbox import Mailbox, MpiMailbox
from realm_ds.comm.network import check_interfaces
from realm_ds.comm.roles import BUILDER, INDEX, ROLE_VARIABLE, TRAINER, Placement, Role, assign
from realm_ds.comm.shared_folder import SEEN_WITHIN_S, TOKEN_FILE, leave_token, sees_token
from realm_ds.comm.waiting import Clock, wait_until
from realm_ds.errors import ConfigError, LaunchError

SIZE_VARIABLES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "WORLD_SIZE")
"""What launchers call the number of processes they started: hydra and Slurm's pmi2, Open MPI, srun, torchrun."""
LAUNCHED_VARIABLES = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK")
"""What launchers set for every process they start: a Slurm batch script has none of them."""
_RANK_VARIABLES = (*LAUNCHED_VARIABLES, "SLURM_PROCID", "RANK")
HOW_TO_LAUNCH = (
    "mpiexec -n {n} python -m mpi4py -m realm_ds ...   or   srun -K1 --mpi=pmi2 -n {n} python -m mpi4py -m realm_ds ..."
)


@dataclass(frozen=True, kw_only=True)
class World:
    """All ranks of the job and this one's place among them."""

    world_rank: int
    hosts: tuple[str, ...]
    """By world rank."""
    roles: tuple[Role, ...]
    """By world rank."""
    comm: Any = field(default=None, repr=False, compare=False)
    """MPI communicator of all ranks; None in a world of one process without MPI."""
    trainer_comm: Any = field(default=None, repr=False, compare=False)
    """MPI communicator of the trainers, in world order; None on other ranks and without MPI."""

    @property
    def world_size(self) -> int:
        return len(self.roles)

    @property
    def role(self) -> Role:
        return self.roles[self.world_rank]

    @property
    def hostname(self) -> str:
        return self.hosts[self.world_rank]

    @property
    def trainer_ranks(self) -> tuple[int, ...]:
        """World ranks of the trainers; a trainer's place here is its trainer rank."""
        return tuple(rank for rank, role in enumerate(self.roles) if role == TRAINER)

    @property
    def index_ranks(self) -> tuple[int, ...]:
        """World ranks of the index; a rank's place here is its shard rank."""
        return tuple(rank for rank, role in enumerate(self.roles) if role == INDEX)

    @property
    def builder_ranks(self) -> tuple[int, ...]:
        """World ranks that only embed for the index; a rank's place here is its builder rank. Empty: shards embed."""
        return tuple(rank for rank, role in enumerate(self.roles) if role == BUILDER)

    @property
    def num_trainers(self) -> int:
        return len(self.trainer_ranks)

    @property
    def num_shards(self) -> int:
        return len(self.index_ranks)

    @property
    def num_builders(self) -> int:
        return len(self.builder_ranks)

    @property
    def trainer_rank(self) -> int | None:
        return self.trainer_ranks.index(self.world_rank) if self.role == TRAINER else None

    @property
    def shard_rank(self) -> int | None:
        return self.index_ranks.index(self.world_rank) if self.role == INDEX else None

    @property
    def builder_rank(self) -> int | None:
        return self.builder_ranks.index(self.world_rank) if self.role == BUILDER else None

    @property
    def role_rank(self) -> int:
        """This rank's place among those of its role: its trainer rank, shard rank or builder rank."""
        return [rank for rank, role in enumerate(self.roles) if role == self.role].index(self.world_rank)

    @property
    def ranks_here(self) -> tuple[int, ...]:
        """World ranks on this host, of every role."""
        return tuple(rank for rank, host in enumerate(self.hosts) if host == self.hostname)

    @property
    def peers_here(self) -> tuple[int, ...]:
        """World ranks on this host with this rank's role."""
        return tuple(rank for rank in self.ranks_here if self.roles[rank] == self.role)

    @property
    def local_rank(self) -> int:
        """Place among the ranks of this role on this host: for trainers, the number of the GPU."""
        return self.peers_here.index(self.world_rank)

    @property
    def local_size(self) -> int:
        return len(self.peers_here)

    @property
    def device_number(self) -> int:
        """This rank's GPU: trainers have a host's first, as DeepSpeed assumes, then come builders, then index ranks."""
        ahead: dict[Role, tuple[Role, ...]] = {TRAINER: (), BUILDER: (TRAINER,), INDEX: (TRAINER, BUILDER)}
        return sum(self.roles[rank] in ahead[self.role] for rank in self.ranks_here) + self.local_rank

    @property
    def name(self) -> str:
        """This rank as people know it: "trainer 1 (world rank 2 on node3)"."""
        return f"{self.role} {self.role_rank} (world rank {self.world_rank} on {self.hostname})"

    def mailbox(self, kinds: Sequence[type], *, timeout_s: float = 600.0) -> Mailbox:
        """This rank's mailbox for messages of `kinds`; every rank of the world must open its own."""
        if self.comm is None:
            return LoopbackHub(1, kinds).mailbox(0)
        return MpiMailbox(self.comm, kinds, timeout_s=timeout_s)

    def barrier(self, *, timeout_s: float, waiting_for: str, clock: Clock | None = None) -> None:
        """Returns once every rank of the world is here. Before the program ends: MPI's own end spins on a core."""
        polled_barrier(self.comm, timeout_s=timeout_s, waiting_for=waiting_for, clock=clock)

    def any(self, is_so: bool, *, timeout_s: float, waiting_for: str) -> bool:
        """Whether it is so for any rank, on every rank; a barrier, too."""
        return polled_any(self.comm, is_so, timeout_s=timeout_s, waiting_for=waiting_for)

    def leave(self) -> None:
        """MPI's own end. Only once nothing is under way between ranks."""
        if self.comm is not None:
            from mpi4py import MPI

            MPI.Finalize()


def is_launched(environ: Mapping[str, str]) -> bool:
    """Whether a launcher (mpiexec, srun, deepspeed over one of them) started this process as one of its ranks."""
    if "SLURM_STEP_ID" in environ:
        # An interactive shell (`srun --pty bash`) is a step too, of one task, and Slurm's PMI gives that a rank.
        sizes = [environ.get(variable, "") for variable in SIZE_VARIABLES]
        return any(size.isdigit() and int(size) > 1 for size in sizes)
    # DeepSpeed's own launcher and torchrun make no MPI world, as check_launch says; each of theirs must not start one.
    is_one_of_many = "LOCAL_RANK" in environ and environ.get("WORLD_SIZE", "1") != "1"
    return is_one_of_many or any(variable in environ for variable in LAUNCHED_VARIABLES)


def launched_rank(environ: Mapping[str, str]) -> int:
    """The number that the launcher gave this process, also where MPI did not understand it; 0 without a launcher."""
    numbers = [environ.get(variable, "") for variable in _RANK_VARIABLES]
    return next((int(number) for number in numbers if number.isdigit()), 0)


def singleton(hostname: str | None = None) -> World:
    """The world of one process that trains alone, without MPI."""
    return World(world_rank=0, hosts=(hostname or socket.gethostname(),), roles=(TRAINER,))


def start_mpi() -> Any:
    """The module mpi4py.MPI, or None if no MPI library can be loaded. Raises ConfigError for an MPI without threads, or
    one that took each process of a launch for a world of its own.

    Every rank must call this before anything that can fail: `python -m mpi4py` turns an uncaught exception into an
    Abort only once MPI is loaded; before, the other ranks wait for the dead one in MPI_Init for ever, spinning.
    """
    import mpi4py

    mpi4py.rc.threads = True
    mpi4py.rc.thread_level = "funneled"
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError):  # RuntimeError: the wheel of mpi4py found no libmpi.
        check_launch(os.environ, world_size=1, num_shards=0, library=library_name(None))
        return None
    if MPI.Query_thread() < MPI.THREAD_FUNNELED:
        raise ConfigError(
            f"{library_name(MPI)} offers no thread support (level {MPI.Query_thread()}, needed "
            f"{MPI.THREAD_FUNNELED}, FUNNELED): use the mpich wheel, or an MPI built with threads, and let nothing "
            "start MPI before realm_ds does"
        )
    check_launch(os.environ, world_size=size_of(MPI), num_shards=0, library=library_name(MPI))
    return MPI


def size_of(mpi: Any) -> int:
    """Ranks in the world of what start_mpi returned."""
    return int(mpi.COMM_WORLD.Get_size()) if mpi else 1


def library_name(mpi: Any) -> str:
    """The MPI library, as it calls itself."""
    return " ".join(mpi.Get_library_version().splitlines()[0].split()) if mpi else "no MPI library"


def abort_under_srun(code: int) -> None:
    """End all ranks now, if srun has started this one; does not return then.

    At the exit of one rank `srun -K1` sends the others SIGTERM, which they take for a notice, and kills them half a
    minute later (Slurm's KillWait). Other launchers kill at once.
    """
    mpi = sys.modules.get("mpi4py.MPI")
    if "SLURM_STEP_ID" in os.environ and mpi is not None and mpi.Is_initialized() and not mpi.Is_finalized():
        mpi.COMM_WORLD.Abort(code)


def abort_under_hydra(code: int) -> None:
    """Have the mpiexec of MPICH or Intel end all ranks now, if it has started this one: for a process that does not
    speak MPI itself, after the one that did has died.

    Hydra takes no notice of a rank that dies on another host than mpiexec's, nor does it see how one ends that
    DeepSpeed's helper of `--launcher mpich` has started: that always ends with 0.
    """
    socket_of_rank = os.environ.get("PMI_FD", "")
    if "MPI_LOCALRANKID" in os.environ and socket_of_rank.isdigit():  # Slurm has such a socket, but another protocol
        with suppress(OSError):
            os.write(int(socket_of_rank), f"cmd=abort exitcode={code}\n".encode())


def join_world(
    *,
    num_shards: int,
    num_builders: int = 0,
    placement: Placement,
    folder: Path | None = None,
    timeout_s: float = 600.0,
    clock: Clock | None = None,
) -> World:
    """Collective over all processes of the launch; a process started alone is a world of one if num_shards is 0.

    All must run the same code and, with `folder`, see the same one there.
    """
    mpi = start_mpi()
    size = size_of(mpi)
    check_launch(
        os.environ, world_size=size, num_shards=num_shards, num_builders=num_builders, library=library_name(mpi)
    )
    comm = mpi.COMM_WORLD if size > 1 else None
    settings = settings_text(num_shards, num_builders, placement)
    leads = comm is None or comm.Get_rank() == 0
    token = leave_token(folder / TOKEN_FILE) if leads and folder is not None else ""
    card = own_card(mpi, settings=settings, token=token)
    cards = exchange_cards(comm, card, timeout_s=timeout_s, clock=clock) if comm else [card]
    check_settings(cards)
    check_code(cards)
    deal = partial(assign, num_shards=num_shards, num_builders=num_builders, placement=placement)
    world = world_of(cards, deal([card.host for card in cards], overrides=[card.role or None for card in cards]), mpi)
    if world.role == TRAINER:
        check_interfaces(os.environ, here=[name for _, name in socket.if_nameindex()], hostname=world.hostname)
    if folder is not None and not sees_token(folder / TOKEN_FILE, cards[0].token, clock=clock):
        raise LaunchError(
            f"{world.name} does not see the run folder {folder} of world rank 0 on {world.hosts[0]}: nothing of what "
            f"that wrote was there within {SEEN_WITHIN_S:g} s. Name a folder on a file system that all hosts mount, by "
            "the same path"
        )
    return world


def settings_text(num_shards: int, num_builders: int, placement: Placement) -> str:
    """What ranks must agree on."""
    return f"index.num_shards={num_shards}, index.builders={num_builders}, {placement}"


def own_card(mpi: Any, *, settings: str, token: str = "") -> Card:
    """This rank's card; the first rank must have left its token before."""
    return Card(
        host=mpi.Get_processor_name() if mpi else socket.gethostname(),
        role=os.environ.get(ROLE_VARIABLE, ""),
        settings=settings,
        code=code_name(),
        token=token,
    )


def world_of(cards: Sequence[Card], roles: tuple[Role, ...], mpi: Any) -> World:
    """The world of ranks with these cards and roles. Collective over all ranks, if there are several."""
    hosts = tuple(card.host for card in cards)
    if len(cards) == 1:
        return World(world_rank=0, hosts=hosts, roles=roles)
    comm = mpi.COMM_WORLD
    world_rank = comm.Get_rank()
    is_trainer = roles[world_rank] == TRAINER
    trainer_comm = comm.Split(0 if is_trainer else mpi.UNDEFINED, world_rank)
    return World(
        world_rank=world_rank,
        hosts=hosts,
        roles=roles,
        comm=comm,
        trainer_comm=trainer_comm if is_trainer else None,
    )


def check_launch(
    environ: Mapping[str, str], *, world_size: int, num_shards: int, num_builders: int = 0, library: str
) -> None:
    """Tells apart, for a process alone in its world, a launcher that MPI did not understand from no launcher at all."""
    if world_size > 1:
        return
    for variable in SIZE_VARIABLES + (("SLURM_NTASKS",) if num_shards else ()):
        # A script inside a Slurm allocation sees SLURM_NTASKS without srun: only wrong if it needs more than itself.
        launched = environ.get(variable, "")
        if launched.isdigit() and int(launched) > 1:
            raise ConfigError(
                f"{variable}={launched}: the launcher started {launched} processes, but each is an MPI world of its "
                f"own (size 1, {library}), because launcher and MPI do not understand each other: under Slurm use "
                "`srun --mpi=pmi2` (Open MPI: --mpi=pmix), else the mpiexec that belongs to this MPI, with deepspeed "
                "`--launcher openmpi|mpich|impi|slurm`"
            )
    if num_shards:
        least = num_shards + num_builders + 1
        settings = f"index.num_shards={num_shards} needs"
        if num_builders:
            settings = f"index.num_shards={num_shards} and index.builders={num_builders} need"
        raise ConfigError(
            f"{settings} at least {least} processes in one MPI world, this one was started alone ({library}): launch "
            f"with {HOW_TO_LAUNCH.format(n=least)}"
        )


def polled_barrier(comm: Any, *, timeout_s: float, waiting_for: str, clock: Clock | None = None) -> None:
    """A barrier over `comm` (None: one process) that neither spins nor waits for ever."""
    if comm is not None:
        arrived = comm.Ibarrier().Test
        wait_until(arrived, timeout_s=timeout_s, waiting_for=waiting_for, clock=clock or Clock(), fault=LaunchError)


def polled_any(comm: Any, is_so: bool, *, timeout_s: float, waiting_for: str) -> bool:
    """Whether it is so for any rank of `comm` (None: one process), without spinning. Collective."""
    if comm is None:
        return is_so
    claims = np.array([is_so], np.int32)
    largest = np.zeros(1, np.int32)
    from mpi4py import MPI

    request = comm.Iallreduce(claims, largest, op=MPI.MAX)
    wait_until(request.Test, timeout_s=timeout_s, waiting_for=waiting_for, clock=Clock(), fault=LaunchError)
    return bool(largest[0])
