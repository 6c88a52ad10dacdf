"""What the ranks of a small launch tell the doctor when all is well. What is wrong is the tests' business."""

from realm_ds.cluster.checks.facts import Data, Devices, Facts, Host, Network, Process, Run, Software
from realm_ds.comm.world import World
from realm_ds.models.devices import Gpus

GIB = 1 << 30
WORLD = World(world_rank=0, hosts=("a", "a", "b", "b"), roles=("trainer", "index") * 2)
HOST = Host(
    free_memory_bytes=60 * GIB, free_shm_bytes=32 * GIB, disk="/tmp", free_disk_bytes=99 * GIB, locks={},
)  # fmt: skip
GPU = Gpus(names=("H100", "H100"), free_bytes=79 * GIB, total_bytes=80 * GIB)


def facts_of(world_rank: int) -> Facts:
    """Of a rank of WORLD with which all is well; the first of each host tells of the host."""
    is_first = world_rank % 2 == 0
    host = WORLD.hosts[world_rank]
    return Facts(
        world_rank=world_rank,
        software=Software(mpi="MPICH 5", thread_level="FUNNELED", libraries={"torch": "2.8.0+cpu"}),
        network=Network(
            interfaces={"lo": ["127.0.0.1"], "eth0": [f"10.0.0.{host}"]}, fault="", address=f"10.0.0.{host}",
            port=7 + world_rank, store="10.0.0.a" if world_rank == 0 else "",
        ),
        process=Process(cores=(0, 1, 2, 3), threads=2, open_files=65536),
        devices=Devices(nodes=2, gpus=GPU),
        host=HOST if is_first else None,
        run=Run(folder="/r", is_seen=True, free_bytes=99 * GIB, written_bytes_per_s=5e8) if is_first else None,
        data=Data(digests={"data.corpus": "c" * 64}, faults=()) if is_first else None,
    )  # fmt: skip
