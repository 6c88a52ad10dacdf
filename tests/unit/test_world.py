"""Places in the world, launches that MPI did not understand, and the world of one process."""

import json
import socket
import subprocess
import sys
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import mpi4py
import numpy as np
import pytest

from realm_ds.comm.cards import Card, check_code, exchange_cards
from realm_ds.comm.network import LOOPBACK, choose_address
from realm_ds.comm.trainers import Trainers, init_trainers, set_variables
from realm_ds.comm.world import (
    World,
    abort_under_hydra,
    abort_under_srun,
    check_launch,
    is_launched,
    join_world,
    singleton,
    start_mpi,
)
from realm_ds.errors import ConfigError, LaunchError
from realm_ds.index.messages import MESSAGES, Stop

TWO_NODES = {"hosts": ("a", "a", "a", "b", "b", "b"), "roles": ("trainer", "trainer", "index") * 2}


def world(world_rank: int) -> World:
    return World(world_rank=world_rank, **TWO_NODES)  # type: ignore[arg-type]


def test_places_of_trainers_and_shards() -> None:
    worlds = [world(rank) for rank in range(6)]
    assert [(w.trainer_rank, w.shard_rank, w.local_rank, w.local_size) for w in worlds] == [
        (0, None, 0, 2),
        (1, None, 1, 2),
        (None, 0, 0, 1),
        (2, None, 0, 2),
        (3, None, 1, 2),
        (None, 1, 0, 1),
    ]
    assert [w.device_number for w in worlds] == [0, 1, 2, 0, 1, 2]
    first = worlds[0]
    assert (first.world_size, first.num_trainers, first.num_shards) == (6, 4, 2)
    assert (first.trainer_ranks, first.index_ranks, worlds[4].ranks_here) == ((0, 1, 3, 4), (2, 5), (3, 4, 5))
    assert worlds[5].name == "index 1 (world rank 5 on b)"


def test_places_of_builders() -> None:
    roles = ("trainer", "builder", "builder", "index", "trainer", "builder", "index")
    worlds = [World(world_rank=rank, hosts=("a",) * 4 + ("b",) * 3, roles=roles) for rank in range(7)]
    assert [(w.role_rank, w.builder_rank, w.local_rank, w.device_number) for w in worlds] == [
        (0, None, 0, 0),
        (0, 0, 0, 1),
        (1, 1, 1, 2),
        (0, None, 0, 3),
        (1, None, 0, 0),
        (2, 2, 0, 1),
        (1, None, 0, 2),
    ]
    assert [(w.trainer_rank, w.shard_rank) for w in worlds if w.role == "builder"] == [(None, None)] * 3
    assert (worlds[0].builder_ranks, worlds[0].num_builders, worlds[0].num_trainers) == ((1, 2, 5), 3, 2)
    assert worlds[5].name == "builder 2 (world rank 5 on b)"


def test_variables_for_deepspeed_count_trainers_only() -> None:
    environ = {"OMPI_COMM_WORLD_LOCAL_RANK": "4", "WORLD_SIZE": "6", "KEPT": "1"}
    set_variables(environ, world(4), address="10.0.0.7", port=4321)
    assert environ == {
        "KEPT": "1",
        "RANK": "3",
        "WORLD_SIZE": "4",
        "LOCAL_RANK": "1",
        "LOCAL_SIZE": "2",
        "MASTER_ADDR": "10.0.0.7",
        "MASTER_PORT": "4321",
    }


def test_gloo_talks_over_loopback_on_one_host_unless_told_otherwise() -> None:
    environ: dict[str, str] = {}
    set_variables(environ, singleton("a"), address=LOOPBACK, port=1)
    assert environ["GLOO_SOCKET_IFNAME"] == "lo"
    told = {"GLOO_SOCKET_IFNAME": "eth1"}
    set_variables(told, singleton("a"), address=LOOPBACK, port=1)
    assert told["GLOO_SOCKET_IFNAME"] == "eth1"


def unknown(name: str) -> str:
    raise socket.gaierror(f"{name} unknown")


def test_address_of_trainer_0() -> None:
    names = {"a": "127.0.1.1", "b": "10.0.0.2"}.__getitem__
    assert choose_address(["a", "a"], resolve=unknown) == LOOPBACK
    assert choose_address(["a", "b"], resolve=names, route={"10.0.0.2": "10.0.0.1"}.__getitem__) == "10.0.0.1"
    assert choose_address(["a", "b"], resolve=names, route=unknown) == "127.0.1.1"
    with pytest.raises(ConfigError, match="neither a nor b resolves .* set REALM_MASTER_ADDR to an address of a"):
        choose_address(["a", "b"], resolve=unknown)


@pytest.mark.parametrize("variable", ["PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "WORLD_SIZE"])
def test_many_worlds_of_one_are_told_from_one_world(variable: str) -> None:
    with pytest.raises(ConfigError, match=f"{variable}=4: the launcher started 4 processes.*size 1, MPICH.*--mpi=pmi2"):
        check_launch({variable: "4"}, world_size=1, num_shards=0, library="MPICH")
    check_launch({variable: "4"}, world_size=4, num_shards=1, library="MPICH")
    check_launch({variable: "1"}, world_size=1, num_shards=0, library="MPICH")


def test_a_script_in_an_allocation_may_train_alone_but_not_with_shards() -> None:
    check_launch({"SLURM_NTASKS": "4"}, world_size=1, num_shards=0, library="MPICH")
    with pytest.raises(ConfigError, match="SLURM_NTASKS=4: the launcher started 4 processes"):
        check_launch({"SLURM_NTASKS": "4"}, world_size=1, num_shards=1, library="MPICH")


@pytest.mark.parametrize(
    ("environ", "launched"),
    [
        ({}, False),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"}, False),  # a batch script
        ({"PMI_RANK": "0", "PMI_SIZE": "1"}, True),  # mpiexec -n 1
        ({"OMPI_COMM_WORLD_RANK": "3"}, True),
        ({"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "4"}, True),  # deepspeed by itself, or over pdsh: to be refused
        ({"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}, False),
        ({"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4"}, True),
        ({"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "1"}, False),  # srun --pty bash, srun -n1
        ({"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "1", "PMI_RANK": "0", "PMI_SIZE": "1"}, False),  # MpiDefault
        ({"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "1", "PMI_RANK": "0", "PMI_SIZE": "4"}, True),  # mpiexec in it
    ],
)
def test_a_rank_is_told_from_a_shell(environ: dict[str, str], launched: bool) -> None:
    assert is_launched(environ) == launched


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"MPI_LOCALRANKID": "0"}, b"cmd=abort exitcode=137\n"),
        ({"MPI_LOCALRANKID": "0", "PMI_FD": "1000000"}, b""),  # it is not open
        ({}, b""),  # Slurm's pmi2, which speaks otherwise
    ],
)
def test_hydra_is_told_of_a_death(monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], said: bytes) -> None:
    ours, ranks = socket.socketpair()
    monkeypatch.delenv("MPI_LOCALRANKID", raising=False)
    for name, value in ({"PMI_FD": str(ranks.fileno())} | environ).items():
        monkeypatch.setenv(name, value)
    with ours, ranks:
        abort_under_hydra(137)
        ranks.shutdown(socket.SHUT_WR)
        assert ours.recv(100) == said


def test_shards_without_a_launcher_say_how_to_launch() -> None:
    with pytest.raises(ConfigError, match="num_shards=2 needs at least 3 processes.*mpiexec -n 3 python -m mpi4py"):
        check_launch({}, world_size=1, num_shards=2, library="MPICH")
    with pytest.raises(ConfigError, match="num_shards=2 and index.builders=1 need at least 4 .*mpiexec -n 4 python"):
        check_launch({}, world_size=1, num_shards=2, num_builders=1, library="MPICH")


def test_the_world_of_one() -> None:
    alone = singleton("here")
    assert (alone.role, alone.trainer_rank, alone.num_trainers, alone.num_shards) == ("trainer", 0, 1, 0)
    mailbox = alone.mailbox(MESSAGES)
    mailbox.send(Stop(), to=0)
    assert mailbox.poll() == (0, Stop())
    alone.barrier(timeout_s=1, waiting_for="nobody")
    trainers = Trainers(alone)
    assert trainers.all_reduce_sum([1.5, 2]) == (1.5, 2.0)
    assert trainers.broadcast_ints([3, 4]) == (3, 4)
    assert trainers.gather_ints([5]) == ((5,),)
    assert trainers.broadcast_bytes(b"x") == b"x"
    trainers.broadcast_array(numbers := np.arange(3))
    assert numbers.tolist() == [0, 1, 2]
    trainers.barrier(timeout_s=1, waiting_for="nobody")
    trainers.close()


def test_trainers_without_a_group_and_sums_of_tables_are_our_mistakes() -> None:
    with pytest.raises(LaunchError, match="4 trainers need a process group: call init_trainers"):
        Trainers(world(0))
    with pytest.raises(TypeError, match="a sum over trainers takes a list of numbers"):
        Trainers(singleton("a")).all_reduce_sum([[1.0]])  # type: ignore[list-item]


def test_an_index_rank_must_not_join_the_trainers() -> None:
    with pytest.raises(LaunchError, match=r"index 0 \(world rank 2 on a\) is no trainer and must not join"):
        init_trainers(world(2))


def test_without_an_mpi_library_one_process_works_and_shards_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(mpi4py, "MPI", raising=False)
    monkeypatch.setitem(sys.modules, "mpi4py.MPI", None)
    assert start_mpi() is None
    assert join_world(num_shards=0, placement="per_node").hosts == (socket.gethostname(),)
    with pytest.raises(
        ConfigError, match=r"num_shards=1 needs .* started alone \(no MPI library\): launch with mpiexec"
    ):
        join_world(num_shards=1, placement="per_node")
    monkeypatch.setenv("REALM_ROLE", "index")
    with pytest.raises(ConfigError, match="all 1 processes have REALM_ROLE=index and none trains"):
        join_world(num_shards=0, placement="per_node")


def test_an_mpi_without_threads_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    old = SimpleNamespace(Query_thread=lambda: 0, THREAD_FUNNELED=1, Get_library_version=lambda: "Old MPI 1\nbuilt ...")
    monkeypatch.setattr(mpi4py, "MPI", old, raising=False)
    monkeypatch.setitem(sys.modules, "mpi4py.MPI", old)
    with pytest.raises(
        ConfigError, match=r"^Old MPI 1 offers no thread support \(level 0, needed 1, FUNNELED\): use the"
    ):
        start_mpi()


def test_a_host_name_beyond_all_bounds_is_refused() -> None:
    with pytest.raises(ConfigError, match="host name, REALM_ROLE and settings of this rank are longer than 1024 bytes"):
        exchange_cards(SimpleNamespace(Get_size=lambda: 1, Get_rank=lambda: 0), Card(host="n" * 1025), timeout_s=1)


@pytest.mark.parametrize("others", [{"added_later": [1, 2]}, {"role": None, "token": None}])
def test_a_rank_of_another_version_says_other_things_and_is_named(others: dict[str, Any]) -> None:
    """More than this version knows, or less (None)."""
    said = asdict(Card(host="b", code="realm_ds 9")) | others
    raw = json.dumps({name: value for name, value in said.items() if value is not None}).encode()
    done = SimpleNamespace(Test=lambda: True)

    def receive(buffer: Any, *, source: int, tag: int) -> Any:
        buffer[: len(raw)] = np.frombuffer(raw, np.uint8)
        return done

    comm = SimpleNamespace(
        Get_size=lambda: 2, Get_rank=lambda: 0, Irecv=receive, Ibcast=lambda buffer, *, root: done
    )  # fmt: skip
    cards = exchange_cards(comm, Card(host="a", code="realm_ds 8"), timeout_s=1)
    assert cards == [Card(host="a", code="realm_ds 8"), Card(host="b", code="realm_ds 9")]
    with pytest.raises(ConfigError, match="world rank 1 on b runs realm_ds 9, but rank 0 on a runs realm_ds 8"):
        check_code(cards)


def test_describing_a_world_needs_neither_mpi_nor_torch() -> None:
    program = "import sys, realm_ds.comm.trainers; print([m for m in ('mpi4py', 'torch') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(("step", "is_initialized"), [("0", True), ("0", False), (None, True)])
def test_under_srun_a_rank_that_fails_ends_all_at_once(
    monkeypatch: pytest.MonkeyPatch, step: str | None, is_initialized: bool
) -> None:
    codes: list[int] = []
    mpi = SimpleNamespace(
        Is_initialized=lambda: is_initialized,
        Is_finalized=lambda: False,
        COMM_WORLD=SimpleNamespace(Abort=codes.append),
    )
    monkeypatch.setitem(sys.modules, "mpi4py.MPI", mpi)  # type: ignore[arg-type]
    monkeypatch.delenv("SLURM_STEP_ID", raising=False)
    if step is not None:
        monkeypatch.setenv("SLURM_STEP_ID", step)
    abort_under_srun(3)
    assert codes == ([3] if step is not None and is_initialized else [])
