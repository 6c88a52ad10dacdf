"""Two trainers train with weights and optimizer states on disk; trainer 0 prints the losses beside plain PyTorch's."""

import json
import os
from pathlib import Path

import torch

from realm_ds.comm.trainers import init_trainers
from realm_ds.comm.world import join_world
from realm_ds.train import engine as engines
from tests.ranks.programs import zero_stages

WIDE = 4096
"""DeepSpeed leaves in memory what has less than 1 MiB."""


def main() -> None:
    torch.set_num_threads(1)
    zero_stages.MODEL = zero_stages.MODEL.model_copy(update={"hidden_size": 64, "intermediate_size": WIDE})
    world = join_world(num_shards=0, placement="tail")
    trainers = init_trainers(world, timeout_s=60)
    engines.join(world.local_rank)
    settings = zero_stages.shape("zero3-bf16-nvme", bf16={"enabled": False})
    settings["zero_optimization"]["offload_param"]["buffer_size"] = 300_000
    losses = zero_stages.under_shape(settings, trainers, resumed=True)
    files = [path.stat().st_size for path in Path(os.environ["REALM_NVME"]).rglob("*") if path.is_file()]
    trainers.all_reduce_sum([0.0])  # neither ends, and takes its files along, before the other has counted
    if trainers.rank == 0:
        plain = zero_stages.plain_cloze()
        print("TOLD", json.dumps({"plain": plain, "nvme": losses, "bytes": sum(files)}), flush=True)
    trainers.close()
    world.barrier(timeout_s=60, waiting_for="the other trainer")


if __name__ == "__main__":
    main()
