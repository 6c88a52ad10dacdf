"""What a trainer holds of a model under one ZeRO stage, counted and seen from outside. What the numbers must reach is
memory.py's business.

Shapes: B queries, C candidates (null first), U distinct passages, N joint sequences, L tokens, M masks.
"""

import gc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import torch

from realm_ds.bench.processes import Result, write_progress
from realm_ds.comm.trainers import init_trainers
from realm_ds.comm.world import World
from realm_ds.config.deepspeed import load_deepspeed
from realm_ds.config.schema import RealmConfig
from realm_ds.models.objectives import MarginalBatch, MaskedBatch
from realm_ds.models.realm import build_model
from realm_ds.models.towers import TokenBatch
from realm_ds.train.engine import Engine, join
from realm_ds.train.pretrain import objective_of

Options = Mapping[str, Any]
STEPS = 2
"""The first makes the optimizer's state, the second is as all later ones."""
TOKENS = 8


def resident(world: World, config: RealmConfig, options: Options, *, folder: Path) -> Result:
    """Bytes after some steps over short random sequences, of which activations are small."""
    trainers = init_trainers(world, timeout_s=config.runtime.wait_timeout_s)
    join(world.local_rank)
    vocabulary = options["vocabulary"]
    before = _resident_memory()
    model = build_model(config.model, vocab_size=vocabulary, max_tokens=config.data.joint_tokens, seed=0)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    engine = Engine(
        objective_of(model, config.pretrain), stage=config.pretrain, optimizer=config.optimizer,
        deepspeed_json=load_deepspeed(config.runtime.deepspeed), num_trainers=trainers.size,
    )  # fmt: skip
    for step in range(STEPS):
        engine.train_step([random_batch(vocabulary, seed=step)], step=step)
        write_progress(folder, done=step + 1, total=STEPS, now="training")
    held = engine.resident_bytes()._asdict()
    found = {**held, "process": _resident_memory() - before, "parameters": parameters}
    trainers.close()
    return found


def random_batch(vocabulary: int, *, seed: int, queries: int = 2, candidates: int = 2) -> MarginalBatch:
    """A step's batch of the smallest shape that has all of its parts."""
    generator = torch.Generator().manual_seed(seed)

    def tokens(rows: int) -> TokenBatch:
        ids_NL = torch.randint(5, vocabulary, (rows, TOKENS), generator=generator)
        return TokenBatch(ids_NL, torch.ones_like(ids_NL), torch.zeros_like(ids_NL))

    rows = queries * candidates
    places_NM = torch.full((rows, 1), 2)
    targets_NM = torch.randint(5, vocabulary, (rows, 1), generator=generator)
    return MarginalBatch(
        queries=tokens(queries), passages=(tokens(rows),),
        passage_rows_BC=torch.arange(rows).view(queries, candidates),
        joint=(MaskedBatch(tokens(rows), torch.arange(rows), places_NM, targets_NM),), masks_BM=torch.ones(queries, 1),
    )  # fmt: skip


def _resident_memory() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)
