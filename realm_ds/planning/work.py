"""What a training step and a rebuild have to compute: products, what they move through memory, operations to start.
How long a machine takes for it is pace.py's business.

Shapes: N sampled sequences, D drawn batches, B queries, K retrieved passages.
"""

from dataclasses import dataclass, replace

import numpy as np

from realm_ds.config.schema import RealmConfig
from realm_ds.data.batches import JOINT_BUCKETS, PASSAGE_BUCKETS
from realm_ds.models.sizes import TRAINING, Cost, EncoderSizes
from realm_ds.planning.lengths import Lengths, Padded, draw, in_buckets, in_length_order
from realm_ds.planning.sharding import Sharding

FLOAT32 = 4
HIDDEN_MOVED, INTERMEDIATE_MOVED = 26, 4
"""Numbers of a token that a layer's forward pass reads or writes, in hidden and intermediate sizes: counted operation
by operation as PyTorch runs a BERT without compiling it (a test counts again)."""
OPERATIONS_OF_A_LAYER = 40
"""Of its forward pass, likewise."""
HOST_OPERATIONS = 4_000
"""A micro-batch's reading, masking, collating and asking, and what surrounds a step: as long as starting so many."""
HOST_OPERATIONS_OF_A_PASSAGE = 12
"""Likewise its batching while it is embedded."""
LOGITS_MOVED = 6
"""How often the logits of a mask are read or written in a forward pass: product, softmax, loss, arg-max."""
BYTES_OF_AN_UPDATE = 44
"""Of a parameter: AdamW reads weight, gradient and two moments and writes three; the gradient is zeroed, normed,
clipped."""
BYTES_OF_A_FLAT_COPY = 16
"""Of a parameter under ZeRO 1 to 3: its gradient into the flat buffer, its master weight back."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """Of one rank."""

    flops_fp32: float = 0.0
    flops_16bit: float = 0.0
    moved_bytes: float = 0.0
    operations: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(
            flops_fp32=self.flops_fp32 + other.flops_fp32, flops_16bit=self.flops_16bit + other.flops_16bit,
            moved_bytes=self.moved_bytes + other.moved_bytes, operations=self.operations + other.operations,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class StepWork:
    """What one trainer computes in an optimizer step."""

    micro_batches: int
    queries: Padded
    """Of one micro-batch, like the two below."""
    passages: Padded
    joint: Padded
    network: Work
    """Forward and backward passes of all micro-batches, and the frozen tower's over the queries."""
    update: Work


def step_work(config: RealmConfig, sizes: EncoderSizes, lengths: Lengths, sharding: Sharding) -> StepWork:
    """Of a step of pre-training."""
    settings, width = config.pretrain, config.model.projection_size
    queries, passages, joint = _sequences(config, lengths)
    tower, encoder = sizes.tower_cost(width), sizes.encoder_cost
    trained = [(tower, queries), (tower, passages), (encoder, joint)]
    network = Work()
    for cost, padded in trained:
        network += _pass(cost, padded, sizes, is_16bit=sharding.is_16bit, times=TRAINING)
        if config.runtime.activation_checkpointing:  # the layers once more, without what stands on them
            layers, hidden = replace(cost, per_sequence=0.0, per_mask=0.0), replace(padded, masks=0.0)
            network += _pass(layers, hidden, sizes, is_16bit=sharding.is_16bit, times=1)
    # The snapshot's own tower embeds the queries to search with; its weights are float32.
    network += _pass(tower, queries, sizes, is_16bit=False, times=1)
    network += Work(operations=HOST_OPERATIONS)
    towers, encoder_parameters = parameters_of(config, sizes)
    update_bytes = (towers + encoder_parameters) * (
        BYTES_OF_AN_UPDATE / (sharding.trainers if sharding.stage else 1) + BYTES_OF_A_FLAT_COPY * (sharding.stage > 0)
    )
    return StepWork(
        micro_batches=settings.gradient_accumulation_steps, queries=queries, passages=passages, joint=joint,
        network=_times(network, settings.gradient_accumulation_steps), update=Work(moved_bytes=update_bytes),
    )  # fmt: skip


def rebuild_work(config: RealmConfig, sizes: EncoderSizes, lengths: Lengths, *, passages: float) -> Work:
    """To embed so many passages on one rank."""
    padded = in_length_order(lengths.passages_N, rows=round(passages), batch_tokens=config.index.embed_batch_tokens)
    is_16bit = config.index.embed_dtype != "fp32"
    batching = Work(operations=HOST_OPERATIONS_OF_A_PASSAGE * passages)
    return batching + _pass(sizes.tower_cost(config.model.projection_size), padded, sizes, is_16bit=is_16bit, times=1)


def parameters_of(config: RealmConfig, sizes: EncoderSizes) -> tuple[int, int]:
    """Of the towers that are trained, and of the encoder."""
    tower = sizes.tower_parameters(config.model.projection_size)
    return tower * (1 if config.model.share_towers else 2), sizes.encoder_parameters


def _sequences(config: RealmConfig, lengths: Lengths) -> tuple[Padded, Padded, Padded]:
    """Queries, passages and joint sequences of a micro-batch."""
    rows, settings = config.pretrain.micro_batch_size, config.pretrain
    hits = rows * settings.num_retrieved
    queries_DB = draw(lengths.queries_N, rows=rows, seed=0)
    # The same seed: a passage and its body are of one draw.
    passages_DK, bodies_DK = (draw(sample, rows=hits, seed=1) for sample in (lengths.passages_N, lengths.bodies_N))
    joint_DN = np.repeat(queries_DB, settings.num_retrieved, axis=1) + bodies_DK + 1
    if settings.null_passage:
        joint_DN = np.concatenate([joint_DN, queries_DB + 1], axis=1)
    masks = float(draw(lengths.masks_N, rows=rows, seed=2).max(axis=1).mean())
    return (
        in_buckets(queries_DB, buckets=1),
        in_buckets(passages_DK[:, : max(1, round(hits * lengths.distinct_share))], buckets=PASSAGE_BUCKETS),
        in_buckets(joint_DN, buckets=JOINT_BUCKETS, masks=masks),
    )


def _pass(cost: Cost, padded: Padded, sizes: EncoderSizes, *, is_16bit: bool, times: int) -> Work:
    """Of one network over padded sequences; `times` a forward pass."""
    flops = times * cost.forward(
        tokens=padded.tokens, squares=padded.squares, sequences=padded.rows, masks=padded.masks
    )
    numbers = padded.tokens * sizes.layers * (HIDDEN_MOVED * sizes.hidden + INTERMEDIATE_MOVED * sizes.intermediate)
    moved = numbers * (2 if is_16bit else FLOAT32) + LOGITS_MOVED * padded.masks * sizes.vocabulary * FLOAT32
    return Work(
        flops_16bit=flops if is_16bit else 0.0,
        flops_fp32=0.0 if is_16bit else flops,
        moved_bytes=times * moved,
        operations=times * padded.passes * sizes.layers * OPERATIONS_OF_A_LAYER,
    )


def _times(work: Work, number: int) -> Work:
    return Work(
        flops_fp32=work.flops_fp32 * number, flops_16bit=work.flops_16bit * number,
        moved_bytes=work.moved_bytes * number, operations=work.operations * number,
    )  # fmt: skip
