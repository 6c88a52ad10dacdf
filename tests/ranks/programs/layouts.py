"""Trainers that save, or go on from what others saved, under every ZeRO stage; trainer 0 prints what it saw.

LAYOUTS_FOLDER names a folder for the runs; LAYOUTS_MODE says whether this world writes them or goes on from them.
"""

import json
import os
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch

from realm_ds.comm.gather import gather_with_gradient
from realm_ds.comm.trainers import Trainers, init_trainers
from realm_ds.comm.world import join_world
from realm_ds.config.schema import ModelConfig, OptimizerConfig
from realm_ds.config.stages import IctConfig, ModuleRates
from realm_ds.models.objectives import ClozeBatch, ClozeObjective, MaskedBatch
from realm_ds.models.realm import build_model
from realm_ds.models.towers import TokenBatch
from realm_ds.observe.sinks import Sinks
from realm_ds.train import checkpoint
from realm_ds.train import engine as engines
from realm_ds.train.checkpoint import TrainState
from realm_ds.train.resume import go_on
from realm_ds.train.writer import Writer
from tests.support.batches import plain_tokens

STEPS, SAVED_AT, GLOBAL_BATCH, VOCABULARY = 6, 3, 12, 50
RUNS = [
    (0, "adamw", "fp32"), (0, "adamw", "bf16"), (1, "adamw", "fp32"), (2, "adamw", "fp32"), (2, "bert", "fp32"),
    (3, "adamw", "fp32"), (3, "bert", "fp32"),
]  # fmt: skip
MODEL = ModelConfig(
    num_layers=1, hidden_size=16, num_heads=2, intermediate_size=32, projection_size=8, share_towers=False, dropout=0.0
)


def tokens(generator: torch.Generator, length: int, rows: slice) -> TokenBatch:
    ids = torch.randint(1, VOCABULARY, (GLOBAL_BATCH, length), generator=generator)[rows]
    return plain_tokens(ids)


def batch(step: int, part: int, rows: slice) -> ClozeBatch:
    """This trainer's rows of one of a step's two global micro-batches."""
    generator = torch.Generator().manual_seed(2 * step + part)
    queries, passages = tokens(generator, 6, rows), tokens(generator, 9, rows)
    joint = tokens(generator, 12, rows)
    count = len(joint.ids_NL)
    masked = MaskedBatch(joint, torch.arange(count), torch.full((count, 2), 3), torch.full((count, 2), 7))
    return ClozeBatch(queries, passages, masked, torch.ones(count, 2))


class Run:
    """One run: an engine with four groups of parameters, in this world's layout."""

    def __init__(self, name: str, zero: int, kind: Any, *, is_bf16: bool, folder: Path, trainers: Trainers) -> None:
        self.trainers, self.writer = trainers, Writer(timeout_s=60)
        self.folder = folder / name
        size = GLOBAL_BATCH // trainers.size
        self.settings = IctConfig(
            steps=2 * STEPS, micro_batch_size=size, gradient_accumulation_steps=2, learning_rate=1e-2, warmup_steps=2,
            rates=ModuleRates(encoder=3e-3), save_every_steps=SAVED_AT,
        )  # fmt: skip
        model = build_model(MODEL, vocab_size=VOCABULARY, max_tokens=16, seed=1)
        self.engine = engines.Engine(
            ClozeObjective(model, gather=gather_with_gradient),
            stage=self.settings, optimizer=OptimizerConfig(clip_norm=0.5, weight_decay=0.1, kind=kind),
            # So small a model would else stay whole on every rank under ZeRO-3.
            deepspeed_json={
                "zero_optimization": {"stage": zero, "stage3_param_persistence_threshold": 0},
                "bf16": {"enabled": is_bf16},
            },
            num_trainers=trainers.size,
        )  # fmt: skip
        self.rows = slice(trainers.rank * size, (trainers.rank + 1) * size)

    def train(self, first: int, last: int) -> list[float]:
        """The mean loss of all trainers in each step."""
        losses = []
        for step in range(first, last):
            measured = self.engine.train_step([batch(step, part, self.rows) for part in (0, 1)], step=step)
            total = sum(each.loss.item() for each in measured) / 2 / self.trainers.size
            losses.append(self.trainers.all_reduce_sum([total])[0])
        return losses

    def save(self, step: int) -> None:
        state = TrainState(
            stage="ict", step=step, num_trainers=self.trainers.size, zero_stage=self.engine.zero_stage,
            on_disk=self.engine.is_on_disk, global_batch=GLOBAL_BATCH, streams={}, groups=self.engine.groups(),
            fixed={},
        )  # fmt: skip
        checkpoint.save(
            self.engine, self.folder, state=state, trainers=self.trainers, writer=self.writer,
            keep=partial(checkpoint.kept_steps, last=2, every=None), timeout_s=60,
        )  # fmt: skip
        self.writer.drain()
        self.trainers.barrier(timeout_s=60, waiting_for="trainer 0 to publish")

    def go_on(self) -> int:
        role_rank = self.trainers.rank
        with Sinks(self.folder, role="trainer", role_rank=role_rank, stage="ict") as sinks:
            config = SimpleNamespace(runtime=SimpleNamespace(wait_timeout_s=60))
            stage: Any = SimpleNamespace(
                folder=self.folder, trainers=self.trainers, sinks=sinks, config=config, fixed_settings=lambda name: {}
            )
            return go_on(self.engine, stage, "ict").step

    def decays(self) -> list[float]:
        return [group["weight_decay"] for group in self.engine.groups()]

    def weights(self) -> dict[str, torch.Tensor]:
        return self.engine.copy_weights(self.engine.module)


def write(make: Any) -> dict[str, Any]:
    """Straight on, and again from the checkpoint, in the same layout."""
    straight = make()
    losses = straight.train(0, SAVED_AT)
    straight.save(SAVED_AT)
    losses += straight.train(SAVED_AT, STEPS)
    again = make()
    step = again.go_on()
    resumed = again.train(step, STEPS)
    weights, expected = again.weights(), straight.weights()
    is_same = all(torch.equal(weights[name], value) for name, value in expected.items())
    return {"losses": losses, "resumed": resumed, "is_same": is_same, "decays": straight.decays()}


def go_on_from(make: Any) -> dict[str, Any]:
    """From what another layout wrote; and once as DeepSpeed alone would load it."""
    with mock.patch.object(engines, "mend_groups"):
        unmended = make()
        step = unmended.go_on()
        as_loaded = {"decays": unmended.decays(), "losses": unmended.train(step, STEPS)}
    run = make()
    step = run.go_on()
    decays = run.decays()
    return {"losses": run.train(step, STEPS), "decays": decays, "as_loaded": as_loaded}


def main() -> None:
    torch.set_num_threads(1)
    world = join_world(num_shards=0, placement="tail")
    trainers = init_trainers(world, timeout_s=60)
    engines.join(world.local_rank)
    folder, mode = Path(os.environ["LAYOUTS_FOLDER"]), os.environ["LAYOUTS_MODE"]
    seen = {}
    for zero, kind, dtype in RUNS:
        name = f"zero{zero}-{kind}-{dtype}"
        make = partial(Run, name, zero, kind, is_bf16=dtype == "bf16", folder=folder, trainers=trainers)
        seen[name] = write(make) if mode == "write" else go_on_from(make)
    if trainers.rank == 0:
        print("SEEN", json.dumps(seen), flush=True)
    trainers.close()
    world.barrier(timeout_s=60, waiting_for="the other trainers")


if __name__ == "__main__":
    main()
