"""Real MPI worlds: roles, the trainers' process group, and how a world ends when one of its ranks does."""

import re

import pytest

from tests.support.worlds import MARKER, Outcome, marked, run_ranks

END_WITHIN_S = 30.0

TRAINERS = """
import os, sys
from realm_ds.comm.world import join_world
world = join_world(num_shards=2, placement="per_node", timeout_s=60)
if world.role == "trainer":
    from realm_ds.comm.trainers import init_trainers
    trainers = init_trainers(world, timeout_s=60)
    import numpy as np, torch, torch.distributed as dist
    assert (dist.get_rank(), dist.get_world_size()) == (world.trainer_rank, 2)
    assert [os.environ[k] for k in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_SIZE", "MASTER_ADDR")] == [
        str(world.trainer_rank), "2", str(world.trainer_rank), "2", "127.0.0.1"]
    assert int(os.environ["MASTER_PORT"]) > 0 and "OMPI_COMM_WORLD_LOCAL_RANK" not in os.environ
    tensor = torch.tensor([1.0 + world.trainer_rank])
    dist.all_reduce(tensor)
    assert tensor.item() == 3.0
    me = trainers.rank
    assert trainers.all_reduce_sum([me, 0.5]) == (1.0, 1.0)
    assert trainers.gather_ints([me, 2**62 + me]) == ((0, 2**62), (1, 2**62 + 1))
    assert trainers.broadcast_ints([me + 5], source=1) == (6,)
    assert trainers.broadcast_bytes(b"snapshot" if me == 1 else None, source=1) == b"snapshot"
    assert trainers.broadcast_bytes(b"" if me == 0 else None) == b""
    table = np.full((4, 3), me, dtype=np.float32)
    trainers.broadcast_array(table[1:3], source=1)
    assert table.tolist() == [[me] * 3, [1] * 3, [1] * 3, [me] * 3]
    trainers.barrier(timeout_s=60, waiting_for="the other trainer")
    trainers.close()
else:
    assert "torch" not in sys.modules
world.barrier(timeout_s=60, waiting_for="the others to finish")
print(f"{world.name} ok\\n", end="", flush=True)  # in one piece, or lines of two ranks may mix
"""


def test_two_trainers_form_a_group_that_two_index_ranks_never_join() -> None:
    outcome = run_ranks(TRAINERS, processes=4, env={"OMPI_COMM_WORLD_LOCAL_RANK": "7"}, timeout_s=120)
    assert outcome.code == 0, outcome.output
    names = sorted(line.split(" (")[0] for line in outcome.stdout.splitlines())
    assert names == ["index 0", "index 1", "trainer 0", "trainer 1"]


def test_the_group_is_the_one_that_torch_finds_already_formed() -> None:
    program = """
    from realm_ds.comm.world import join_world
    world = join_world(num_shards=0, placement="tail")
    from realm_ds.comm.trainers import init_trainers
    import torch.distributed as dist
    first = init_trainers(world, timeout_s=60)
    again = init_trainers(world, timeout_s=60)
    assert first.all_reduce_sum([1]) == again.all_reduce_sum([1]) == (2.0,)
    first.close()
    print("ok", flush=True)
    """
    outcome = run_ranks(program, processes=2, timeout_s=120)
    assert (outcome.code, outcome.stdout.count("ok")) == (0, 2), outcome.output


def test_waits_of_trainers_and_of_the_world_end_and_say_for_what() -> None:
    program = """
    import os
    from realm_ds.comm.world import join_world
    from realm_ds.errors import LaunchError
    world = join_world(num_shards=0, placement="tail")
    from realm_ds.comm.trainers import init_trainers
    os.environ["REALM_MASTER_ADDR"] = "127.0.0.1"
    trainers = init_trainers(world, timeout_s=2)
    if trainers.rank == 0:
        for wait in (lambda: trainers.barrier(timeout_s=0.5, waiting_for="the other trainer"),
                     lambda: world.barrier(timeout_s=0.5, waiting_for="the whole world"),
                     lambda: trainers.all_reduce_sum([1.0])):
            try:
                wait()
            except LaunchError as error:
                print(error, flush=True)
        world.comm.Abort(1)
    import time
    time.sleep(60)
    """
    outcome = run_ranks(program, processes=2, timeout_s=END_WITHIN_S)
    assert "waited 0.5 s for the other trainer\nwaited 0.5 s for the whole world\n" in outcome.stdout, outcome.output
    assert "the trainers' sum failed, a trainer has died or is more than 2 s late; its log says why" in outcome.stdout


def test_an_address_that_nobody_reaches_names_the_variable_to_set() -> None:
    program = """
    from realm_ds.comm.world import join_world
    world = join_world(num_shards=0, placement="tail")
    from realm_ds.comm.trainers import init_trainers
    init_trainers(world, timeout_s=2)
    """
    env = {"REALM_MASTER_ADDR": "nowhere.invalid"}
    outcome = run_ranks(program, processes=2, env=env, timeout_s=END_WITHIN_S)
    assert outcome.code != 0
    said = r"the 2 trainers cannot reach each other, with trainer 0 on .* set REALM_MASTER_ADDR to an address of"
    assert re.search(said, outcome.stderr), outcome.output


def test_roles_by_environment_and_a_launch_that_disagrees_with_itself() -> None:
    program = """
    import os
    import mpi4py.MPI as MPI
    from realm_ds.comm.world import join_world
    from realm_ds.errors import ConfigError
    rank = MPI.COMM_WORLD.Get_rank()
    os.environ["REALM_ROLE"] = "index" if rank == 0 else "trainer"
    world = join_world(num_shards=1, placement="tail")
    print(f"rank {rank}: {world.role} {world.trainer_rank} {world.shard_rank}", flush=True)
    if rank == 1:
        del os.environ["REALM_ROLE"]
    for shards in (1, rank):
        try:
            join_world(num_shards=shards, placement="tail")
        except ConfigError as error:
            print(error, flush=True)
    """
    outcome = run_ranks(program, processes=2, timeout_s=60)
    assert outcome.code == 0, outcome.output
    assert "rank 0: index None 0" in outcome.stdout
    assert "rank 1: trainer 0 None" in outcome.stdout
    assert outcome.stdout.count("REALM_ROLE is set in 1 of 2 processes, not in world rank(s) 1") == 2
    settings = "index.num_shards=1, index.builders=0, tail"
    assert outcome.stdout.count(f"world rank 1 was started with {settings} but rank 0 with") == 2


def test_a_builder_is_no_trainer_and_no_shard() -> None:
    program = """
    from realm_ds.comm.world import join_world
    world = join_world(num_shards=1, num_builders=1, placement="per_node")
    print(f"<{world.role} {world.role_rank} {world.trainer_comm is not None} {world.device_number}>", flush=True)
    world.barrier(timeout_s=60, waiting_for="the others to finish")
    """
    outcome = run_ranks(program, processes=3, timeout_s=60)
    assert outcome.code == 0, outcome.output
    said = sorted(re.findall("<(.*?)>", outcome.stdout))  # not by lines: launchers may join those of two ranks
    assert said == ["builder 0 False 1", "index 0 False 2", "trainer 0 True 0"]


def test_a_world_too_small_is_one_line_on_every_rank() -> None:
    program = """
    from realm_ds.comm.world import join_world
    join_world(num_shards=2, placement="tail")
    """
    outcome = run_ranks(program, processes=2, timeout_s=60)
    assert outcome.code != 0
    assert "index.num_shards=2 leaves no trainer in a world of 2 process(es)" in outcome.stderr


def test_a_process_alone_has_a_world_through_mpi_too() -> None:
    program = """
    from realm_ds.comm.trainers import init_trainers
    from realm_ds.comm.world import join_world
    world = join_world(num_shards=0, placement="per_node")
    trainers = init_trainers(world, timeout_s=60)
    assert trainers.all_reduce_sum([2]) == (2.0,)
    trainers.close()
    print(world.name, flush=True)
    """
    outcome = run_ranks(program, processes=1, timeout_s=60)
    assert outcome.code == 0, outcome.output
    assert outcome.stdout.startswith("trainer 0 (world rank 0")


DYING = """
import os, signal, sys, time
from realm_ds.comm.world import join_world
from realm_ds.index.messages import MESSAGES, Stop
world = join_world(num_shards=1, placement="tail", timeout_s=60)
mailbox = world.mailbox(MESSAGES, timeout_s=60)
world.barrier(timeout_s=60, waiting_for="all ranks")
if world.world_rank == 1:
    HOW
mailbox.receive(Stop, source=None, timeout_s=300, waiting_for="a stop that never comes")
"""


def die(how: str) -> Outcome:
    outcome = run_ranks(DYING.replace("HOW", how), processes=3, timeout_s=END_WITHIN_S)
    assert outcome.code != 0, outcome.output
    assert "a stop that never comes" not in outcome.stderr
    return outcome


def test_an_uncaught_error_of_one_rank_ends_the_world_and_is_printed() -> None:
    outcome = die("1 / 0")
    assert "ZeroDivisionError: division by zero" in outcome.stderr


@pytest.mark.parametrize("how", ["os.kill(os.getpid(), signal.SIGKILL)", "os._exit(5)"])
def test_a_killed_rank_ends_the_world(how: str) -> None:
    die(how)


def test_an_error_before_joining_ends_the_world_if_mpi_was_started_first() -> None:
    program = """
    import os
    from realm_ds.comm.world import join_world, start_mpi
    start_mpi()
    if os.environ.get("PMI_RANK", os.environ.get("OMPI_COMM_WORLD_RANK")) == "1":
        raise RuntimeError("no config here")
    join_world(num_shards=0, placement="tail")
    """
    outcome = run_ranks(program, processes=2, timeout_s=END_WITHIN_S)
    assert outcome.code != 0
    assert "RuntimeError: no config here" in outcome.stderr


def test_a_process_that_outlives_its_world_is_found_and_killed() -> None:
    program = """
    import os, subprocess, sys
    print(os.environ["REALM_TEST_WORLD"], flush=True)
    nothing = subprocess.DEVNULL  # hydra would wait for whoever holds its pipes
    sleeper = [sys.executable, "-c", "import time; time.sleep(60)"]
    subprocess.Popen(sleeper, stdin=nothing, stdout=nothing, stderr=nothing, start_new_session=True)
    """
    with pytest.raises(AssertionError, match=r"left behind: \('.*time.sleep\(60\)") as caught:
        run_ranks(program, processes=1, timeout_s=60)
    assert MARKER == "REALM_TEST_WORLD"
    marker = str(caught.value).split("\n")[1].strip()
    assert len(marker) == 32
    assert not marked(marker)


def test_a_world_that_hangs_is_ended_at_the_time_limit() -> None:
    with pytest.raises(AssertionError, match="still running after 3 s"):
        run_ranks("import time; time.sleep(100)", processes=2, timeout_s=3)
