"""Two trainers train under every DeepSpeed shape and setting, and in plain PyTorch; trainer 0 prints all losses.

`shape` cases train the inverse cloze task, whose batch is one over all trainers. The others train masked prediction,
whose loss is a plain mean, so that parts of a batch add up.
"""

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from deepspeed.accelerator import get_accelerator
from torch import nn

from realm_ds.comm.gather import gather_with_gradient
from realm_ds.comm.trainers import Trainers, init_trainers
from realm_ds.comm.world import join_world
from realm_ds.config.deepspeed import load_deepspeed, packaged_names
from realm_ds.config.schema import ModelConfig, OptimizerConfig
from realm_ds.config.stages import IctConfig, ModuleRates
from realm_ds.errors import TrainingFault
from realm_ds.models.objectives import ClozeBatch, ClozeObjective, MaskedBatch, Measures
from realm_ds.models.realm import RealmModel, build_model
from realm_ds.models.towers import TokenBatch
from realm_ds.train import engine as engines
from realm_ds.train.stage import run_encoders
from tests.support.batches import plain_tokens
from tests.support.consolidated import consolidate

STEPS, TRAINERS, SIZE, VOCABULARY = 5, 2, 4, 50
STAGE = IctConfig(
    steps=STEPS, micro_batch_size=SIZE, learning_rate=1e-2, rates=ModuleRates(encoder=2e-3), warmup_steps=2,
    save_every_steps=STEPS,
)  # fmt: skip
IN_PARTS = STAGE.model_copy(update={"micro_batch_size": SIZE // 2, "gradient_accumulation_steps": 2})
CLIPPED = OptimizerConfig(clip_norm=0.5)
MODEL = ModelConfig(
    num_layers=1, hidden_size=16, num_heads=2, intermediate_size=32, projection_size=8, share_towers=False, dropout=0.0
)
WEIGHTS = (1.0, 20.0)
PARTS = {
    ("adamw", "global"): ("zero0", "zero1", "zero2", "zero3"),
    ("bert", "global"): ("zero1", "zero3"),
    ("adamw", "local"): ("zero0",),
    ("bert", "local"): ("zero1", "zero1-bf16"),
}
ON_DISK = {"zero3-bf16-nvme"}
"""Needs an operator that takes minutes to compile: test_nvme.py's."""


class MaskedObjective(nn.Module):
    """Masked prediction alone, its loss multiplied by `weight`."""

    def __init__(self) -> None:
        super().__init__()
        self.model, self.weight = new_model(), 1.0

    def forward(self, batch: MaskedBatch) -> Measures:
        log_p_NM, _ = self.model.encoder(batch.tokens, batch.positions_NM, batch.targets_NM)
        return Measures(-log_p_NM.mean() * self.weight, {})


def tokens(generator: torch.Generator, length: int, rows: slice) -> TokenBatch:
    ids = torch.randint(1, VOCABULARY, (TRAINERS * SIZE, length), generator=generator)[rows]
    return plain_tokens(ids)


def cloze_batch(step: int, rows: slice) -> ClozeBatch:
    generator = torch.Generator().manual_seed(step)
    queries, passages = tokens(generator, 6, rows), tokens(generator, 9, rows)
    masked = masked_batch(step, rows)
    return ClozeBatch(queries, passages, masked, torch.ones(len(masked.rows_N), 2))


def masked_batch(step: int, rows: slice) -> MaskedBatch:
    joint = tokens(torch.Generator().manual_seed(100 + step), 12, rows)
    count = len(joint.ids_NL)
    return MaskedBatch(joint, torch.arange(count), torch.full((count, 2), 3), torch.full((count, 2), 7))


def new_model(model: ModelConfig = MODEL) -> RealmModel:
    return build_model(model, vocab_size=VOCABULARY, max_tokens=16, seed=1)


def shape(name: str, **changes: Any) -> dict[str, Any]:
    """A packaged shape, made to bite on a model as small as this."""
    settings = load_deepspeed(Path(name))
    if settings["zero_optimization"]["stage"] == 3:
        settings["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    if settings["fp16"]["enabled"]:
        settings["fp16"]["initial_scale_power"] = 8  # of 16 the first steps would be skipped, to find one that fits
    return settings | changes


def new_engine(objective: nn.Module, settings: dict[str, Any], **options: Any) -> engines.Engine:
    options = {"stage": STAGE, "optimizer": CLIPPED, **options}
    return engines.Engine(objective, deepspeed_json=settings, num_trainers=TRAINERS, **options)


def under_shape(
    settings: dict[str, Any],
    trainers: Trainers,
    *,
    model: ModelConfig = MODEL,
    checkpointed: bool = False,
    resumed: bool = False,
) -> list[float]:
    """Losses of all steps; if `resumed` the last is made again by an engine that took up a checkpoint: the same."""
    engine = cloze_engine(settings, model=model, checkpointed=checkpointed)
    rows = slice(trainers.rank * SIZE, (trainers.rank + 1) * SIZE)
    losses = [trained(engine, [cloze_batch(step, rows)], step, trainers) for step in range(STEPS - 1)]
    check_facts(engine.facts(), step=STEPS - 2, is_fp16=settings["fp16"]["enabled"])
    check_measuring(engine, cloze_batch(STEPS, rows), is_sharded=settings["zero_optimization"]["stage"] == 3)
    folder = check_consolidated(engine, trainers)
    check_layer_by_layer(engine, trainers.rank)
    last = cloze_batch(STEPS - 1, rows)
    losses.append(trained(engine, [last], STEPS - 1, trainers))
    if resumed:
        del engine  # its files on a disk are the next one's
        fresh = cloze_engine(settings, model=model, checkpointed=checkpointed)
        fresh.load(folder)
        assert trained(fresh, [last], STEPS - 1, trainers) == losses[-1]
    return losses


def cloze_engine(settings: dict[str, Any], *, model: ModelConfig, checkpointed: bool) -> engines.Engine:
    objective = ClozeObjective(new_model(model), gather=gather_with_gradient)
    run_encoders(objective.model, checkpointed=checkpointed, compiled=False)
    return new_engine(objective, settings)


def in_parts(settings: dict[str, Any], trainers: Trainers, optimizer: OptimizerConfig) -> list[float]:
    """Masked prediction, two micro-batches to a step; trainer 1's gradient is much the larger."""
    engine = new_engine(MaskedObjective(), settings, stage=IN_PARTS, optimizer=optimizer)
    engine.module.weight = WEIGHTS[trainers.rank]
    half, start = SIZE // 2, trainers.rank * SIZE
    parts = [slice(start, start + half), slice(start + half, start + SIZE)]
    return [trained(engine, [masked_batch(step, part) for part in parts], step, trainers) for step in range(STEPS)]


def trained(engine: engines.Engine, batches: Sequence[Any], step: int, trainers: Trainers) -> float:
    """One step; the mean loss over its micro-batches and trainers."""
    measures = engine.train_step(batches, step=step)
    total = sum(measured.loss.item() for measured in measures)
    return trainers.all_reduce_sum([total])[0] / len(measures) / TRAINERS


def check_facts(facts: dict[str, float], *, step: int, is_fp16: bool) -> None:
    scaling = {"loss_scale", "skipped_steps"} if is_fp16 else set()
    assert facts.keys() == {"learning_rate", "grad_norm"} | scaling, facts
    assert abs(facts["learning_rate"] - 1e-2 * (1 - step / STEPS)) < 1e-9, facts
    assert facts["grad_norm"] > 0, facts
    assert not is_fp16 or (facts["loss_scale"], facts["skipped_steps"]) == (256, 0), facts


def check_measuring(engine: engines.Engine, held_out: ClozeBatch, *, is_sharded: bool) -> None:
    """A forward pass alone is without dropout and gradient, and leaves modules in their mode and weights in shards."""
    objective = engine.module
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


def check_consolidated(engine: engines.Engine, trainers: Trainers) -> Path:
    """What is gathered from the live engine, and what is read back from its shards, are the same weights."""
    live = engine.copy_weights(engine.module.model.passage_tower)
    made = tempfile.mkdtemp().encode() if trainers.rank == 0 else None
    folder = Path(trainers.broadcast_bytes(made).decode())
    engine.save(folder)
    read = consolidate(folder)
    dtype = next(engine.module.parameters()).dtype  # in 16 bits trainers compute with the rounded, and keep whole ones
    for name, value in live.items():
        assert torch.equal(value, read[f"model.passage_tower.{name}"].to(dtype).float()), name
    return folder


def check_layer_by_layer(engine: engines.Engine, rank: int) -> None:
    """Nobody gathers more than a layer at once, and who keeps nothing does not stand in the way of the others."""
    tower = engine.module.model.query_tower
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
    ours = ClozeObjective(new_model(), gather=gather_with_gradient, symmetric=True)
    whole = ClozeObjective(new_model(), gather=lambda block: (block, 0), symmetric=True)
    loss = ours(cloze_batch(0, slice(rank * SIZE, (rank + 1) * SIZE))).loss
    expected = whole(cloze_batch(0, slice(None))).loss
    loss.backward()
    expected.backward()
    sums = trainers.all_reduce_sum([loss.item(), *gradients(ours).tolist()])
    found = torch.tensor(sums) / TRAINERS
    torch.testing.assert_close(found, torch.cat([expected.detach()[None], gradients(whole)]), rtol=1e-4, atol=1e-6)


def gradients(objective: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in objective.parameters() if p.grad is not None])


def faults(settings: dict[str, Any], trainers: Trainers, *, weight: float) -> list[str]:
    """What each trainer says when trainer 1 multiplies its loss by `weight` from step 2 on."""
    engine = new_engine(MaskedObjective(), settings)
    rows, said = slice(trainers.rank * SIZE, (trainers.rank + 1) * SIZE), "nothing"
    try:
        for step in range(20):
            engine.module.weight = weight if step >= 1 and trainers.rank == 1 else 1.0
            engine.train_step([masked_batch(step, rows)], step=step)
        engine.facts()
    except TrainingFault as fault:
        said = str(fault)
    told = [trainers.broadcast_bytes(said.encode() if rank == trainers.rank else None, source=rank)
            for rank in range(TRAINERS)]  # fmt: skip
    return [text.decode() for text in told]


def plain(
    objective: nn.Module,
    losses_of: Callable[[int], Sequence[torch.Tensor]],
    *,
    optimizer: OptimizerConfig = CLIPPED,
) -> list[float]:
    """One process, nothing of DeepSpeed. `losses_of` a step: one for each part of the batch that clips alone."""
    parameters = list(objective.parameters())
    is_encoder = {id(p) for p in objective.model.encoder.parameters()}
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in parameters]
    told = []
    for step in range(STEPS):
        losses = losses_of(step)
        parts = [torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True) for loss in losses]
        parts = [[torch.zeros_like(p) if g is None else g for p, g in zip(parameters, part, strict=True)]
                 for part in parts]  # fmt: skip
        factor = step / 2 if step < 2 else 1 - step / STEPS
        for number, (parameter, (m, v)) in enumerate(zip(parameters, moments, strict=True)):
            g = sum(part[number] / max(1.0, norm(part) / optimizer.clip_norm) for part in parts) / len(parts)
            m.mul_(0.9).add_(0.1 * g)
            v.mul_(0.999).add_(0.001 * g * g)
            m_hat, v_hat = (m / (1 - 0.9 ** (step + 1)), v / (1 - 0.999 ** (step + 1)))
            if optimizer.kind == "bert":
                m_hat, v_hat = m, v
            decay = 0.01 if parameter.ndim > 1 else 0.0
            rate = factor * (2e-3 if id(parameter) in is_encoder else 1e-2)
            with torch.no_grad():
                parameter -= rate * (m_hat / (v_hat.sqrt() + 1e-6) + decay * parameter)
        told.append(sum(loss.item() for loss in losses) / len(losses))
    return told


def norm(gradients: Sequence[torch.Tensor]) -> float:
    return sum(g.double().pow(2).sum().item() for g in gradients) ** 0.5


def plain_cloze(model: ModelConfig = MODEL) -> list[float]:
    objective = ClozeObjective(new_model(model), gather=lambda block: (block, 0))
    return plain(objective, lambda step: [objective(cloze_batch(step, slice(None))).loss])


def plain_masked(optimizer: OptimizerConfig) -> list[float]:
    objective = MaskedObjective()
    halves = [slice(0, SIZE), slice(SIZE, None)]

    def losses_of(step: int) -> list[torch.Tensor]:
        losses = [
            objective(masked_batch(step, half)).loss * weight for half, weight in zip(halves, WEIGHTS, strict=True)
        ]
        return losses if optimizer.clip == "local" else [sum(losses) / len(losses)]

    return plain(objective, losses_of, optimizer=optimizer)


def main() -> None:
    torch.set_num_threads(1)
    world = join_world(num_shards=0, placement="tail")
    trainers = init_trainers(world, timeout_s=60)
    engines.join(world.local_rank)
    check_symmetric(trainers.rank, trainers)
    told: dict[str, Any] = {"cloze": plain_cloze()}
    told["knows fp16"] = bool(get_accelerator().is_fp16_supported())
    for name in packaged_names():
        if name not in ON_DISK and (told["knows fp16"] or not shape(name)["fp16"]["enabled"]):
            told[f"shape {name}"] = under_shape(shape(name), trainers, resumed="-" in name)
    told["shape zero3 checkpointed"] = under_shape(shape("zero3"), trainers, checkpointed=True)
    told["shape zero3-bf16-offload in fp32"] = under_shape(
        shape("zero3-bf16-offload", bf16={"enabled": False}), trainers
    )
    for kind, clip in (("adamw", "global"), ("bert", "global"), ("adamw", "local"), ("bert", "local")):
        optimizer = OptimizerConfig(kind=kind, clip=clip, clip_norm=0.5)
        told[f"{kind} {clip}"] = plain_masked(optimizer)
        for name in PARTS[kind, clip]:
            told[f"{kind} {clip} {name}"] = in_parts(shape(name), trainers, optimizer)
    for name in ("zero0", "zero1", "zero3"):
        told[f"nan {name}"] = faults(shape(name), trainers, weight=float("nan"))
    if told["knows fp16"]:
        told["overflow zero2-fp16"] = faults(shape("zero2-fp16"), trainers, weight=1e30)
    if trainers.rank == 0:
        print("TOLD", json.dumps(told), flush=True)
    trainers.close()
    world.barrier(timeout_s=60, waiting_for="the other trainer")


if __name__ == "__main__":
    main()
