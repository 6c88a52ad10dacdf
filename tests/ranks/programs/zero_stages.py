"""Two trainers train the same objective under every ZeRO stage and in plain PyTorch; trainer 0 prints all losses."""

import json
import tempfile
from pathlib import Path
from unittest import mock

import torch

from realm_ds.comm.gather import gather_with_gradient
from realm_ds.comm.trainers import init_trainers
from realm_ds.comm.world import join_world
from realm_ds.config.schema import ModelConfig, OptimizerConfig
from realm_ds.config.stages import IctConfig
from realm_ds.models.objectives import ClozeBatch, ClozeObjective, MaskedBatch
from realm_ds.models.realm import build_model
from realm_ds.models.towers import TokenBatch
from realm_ds.train import engine as engines

STEPS, TRAINERS, SIZE, VOCABULARY = 5, 2, 4, 50
STAGE = IctConfig(steps=STEPS, micro_batch_size=SIZE, learning_rate=1e-2, warmup_steps=2, save_every_steps=STEPS)
OPTIMIZER = OptimizerConfig(clip_norm=0.5)
MODEL = ModelConfig(
    num_layers=1, hidden_size=16, num_heads=2, intermediate_size=32, projection_size=8, share_towers=False, dropout=0.0
)


def tokens(generator: torch.Generator, length: int, rows: slice) -> TokenBatch:
    ids = torch.randint(1, VOCABULARY, (TRAINERS * SIZE, length), generator=generator)[rows]
    return TokenBatch(ids, torch.ones_like(ids), torch.zeros_like(ids))


def batch(step: int, rows: slice) -> ClozeBatch:
    generator = torch.Generator().manual_seed(step)
    queries, passages = tokens(generator, 6, rows), tokens(generator, 9, rows)
    joint = tokens(generator, 12, rows)
    count = len(joint.ids_NL)
    masked = MaskedBatch(joint, torch.arange(count), torch.full((count, 2), 3), torch.full((count, 2), 7))
    return ClozeBatch(queries, passages, masked, torch.ones(count, 2))


def model() -> torch.nn.Module:
    return build_model(MODEL, vocab_size=VOCABULARY, max_tokens=16, seed=1)


def under_zero(stage: int, rank: int, trainers) -> list[float]:
    objective = ClozeObjective(model(), gather=gather_with_gradient)
    # So small a model would else stay whole on every rank under ZeRO-3.
    settings = {"zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 0}}
    engine = engines.Engine(objective, stage=STAGE, optimizer=OPTIMIZER, deepspeed_json=settings, num_trainers=TRAINERS)
    rows = slice(rank * SIZE, (rank + 1) * SIZE)
    losses = []
    for step in range(STEPS):
        (measured,) = engine.train_step([batch(step, rows)], step=step)
        losses.append(trainers.all_reduce_sum([measured.loss.item() / TRAINERS])[0])
    check_measuring(engine, objective, batch(STEPS, rows), is_sharded=stage == 3)
    check_consolidated(engine, objective, rank, trainers)
    check_layer_by_layer(engine, objective, rank)
    return losses


def check_measuring(
    engine: engines.Engine, objective: ClozeObjective, held_out: ClozeBatch, *, is_sharded: bool
) -> None:
    """A forward pass alone is without dropout and gradient, and leaves modules in their mode and weights in shards."""
    objective.model.encoder.eval()
    with engine.measuring() as measure:
        loss = measure(held_out).loss
        assert not objective.training
        assert not loss.requires_grad
        assert torch.equal(measure(held_out).loss, loss)
    assert objective.training
    assert not objective.model.encoder.mlm.training
    objective.train()
    if is_sharded:
        assert all(parameter.numel() == 0 for parameter in objective.parameters())


def check_consolidated(engine: engines.Engine, objective: ClozeObjective, rank: int, trainers) -> None:
    """What is gathered from the live engine, and what is read back from its shards, are the same weights."""
    live = engine.copy_weights(objective.model.passage_tower)
    shared = [tempfile.mkdtemp() if rank == 0 else ""]
    folder = Path(trainers.broadcast_bytes(shared[0].encode() if rank == 0 else None).decode())
    engine.save(folder)
    read = engines.consolidate(folder)
    for name, value in live.items():
        assert torch.equal(value, read[f"model.passage_tower.{name}"]), name


def check_layer_by_layer(engine: engines.Engine, objective: ClozeObjective, rank: int) -> None:
    """Nobody gathers more than a layer at once, and who keeps nothing does not stand in the way of the others."""
    tower = objective.model.query_tower
    whole, gathered = engine.copy_weights(tower), []

    class Watched(engines.deepspeed.zero.GatheredParameters):
        def __enter__(self) -> None:
            super().__enter__()
            gathered.append(sum(parameter.numel() for parameter in tower.parameters()))  # 0 of what is away in shards

    with mock.patch.object(engines.deepspeed.zero, "GatheredParameters", Watched):
        copies = engine.copy_weights(tower, dtype=torch.bfloat16, keeps=rank == 0)
    assert copies.keys() == (whole.keys() if rank == 0 else set())
    assert all(torch.equal(value, whole[name].bfloat16()) for name, value in copies.items())
    is_sharded = hasattr(next(tower.parameters()), "ds_numel")
    sizes = [sum(p.ds_numel if is_sharded else p.numel() for p in layer.parameters(recurse=False))
             for layer in tower.modules()]  # fmt: skip
    assert max(gathered) == (max(sizes) if is_sharded else sum(sizes))


def check_symmetric(rank: int, trainers) -> None:
    """Both directions of inverse cloze over the trainers: loss and gradients are those of one process with it all."""
    ours = ClozeObjective(model(), gather=gather_with_gradient, symmetric=True)
    whole = ClozeObjective(model(), gather=lambda block: (block, 0), symmetric=True)
    loss = ours(batch(0, slice(rank * SIZE, (rank + 1) * SIZE))).loss
    expected = whole(batch(0, slice(None))).loss
    loss.backward()
    expected.backward()
    sums = trainers.all_reduce_sum([loss.item(), *gradients(ours).tolist()])
    found = torch.tensor(sums) / TRAINERS
    torch.testing.assert_close(found, torch.cat([expected.detach()[None], gradients(whole)]), rtol=1e-4, atol=1e-6)


def gradients(objective: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in objective.parameters() if p.grad is not None])


def in_plain_pytorch() -> list[float]:
    """One process, the whole batch, nothing of DeepSpeed."""
    objective = ClozeObjective(model(), gather=lambda block: (block, 0))
    groups = [{"params": [p], "weight_decay": 0.01 if p.ndim > 1 else 0.0} for p in objective.parameters()]
    adamw = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.999), eps=1e-6)
    losses = []
    for step in range(STEPS):
        for group in adamw.param_groups:
            group["lr"] = 1e-2 * ((step + 1) / 2 if step < 2 else 1 - step / STEPS)
        loss = objective(batch(step, slice(None))).loss
        adamw.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(objective.parameters(), 0.5)
        adamw.step()
        losses.append(loss.item())
    return losses


def main() -> None:
    torch.set_num_threads(1)
    world = join_world(num_shards=0, placement="tail")
    trainers = init_trainers(world, timeout_s=60)
    engines.join(world.local_rank)
    check_symmetric(trainers.rank, trainers)
    losses = {f"zero{stage}": under_zero(stage, trainers.rank, trainers) for stage in (0, 1, 2, 3)}
    if trainers.rank == 0:
        print("LOSSES", json.dumps({"plain": in_plain_pytorch(), **losses}), flush=True)
    trainers.close()
    world.barrier(timeout_s=60, waiting_for="the other trainer")


if __name__ == "__main__":
    main()
