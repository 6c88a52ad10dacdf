"""How long a machine takes: for a step, a search, a rebuild; and what travels meanwhile. A sum of few terms, each of
them a count of work.py's over a figure of a hardware profile.
"""

import math
from dataclasses import dataclass

from realm_ds.config.hardware import Figure, HardwareProfile
from realm_ds.config.schema import RealmConfig
from realm_ds.data.records import NUM_SPECIAL
from realm_ds.index.client import TWO_PHASE_BYTES
from realm_ds.index.factory import factory_of, is_exact
from realm_ds.models.sizes import EncoderSizes
from realm_ds.planning.cost import CostModel, Replies, predict
from realm_ds.planning.layout import Layout
from realm_ds.planning.lengths import Lengths
from realm_ds.planning.sharding import Sharding, Trained
from realm_ds.planning.work import FLOAT32, StepWork, Work, parameters_of, rebuild_work, step_work

FITTED_WIDTH = 128
"""Of the vectors that SearchFigures hold for."""
BACKWARD_SHARE = 2 / 3
"""Of a step's products; gradients that are combined meanwhile hide behind it."""
HIT_BYTES = 24
"""Of a reply beside the tokens: place, uid, score, two lengths."""
DTYPE_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}


@dataclass(frozen=True, kw_only=True)
class Device:
    """What one rank has: a GPU, or some cores."""

    profile: HardwareProfile
    number: float = 1.0
    """GPUs or cores; a fraction where ranks share them."""

    def seconds(self, work: Work) -> float:
        """For the work of one rank. A GPU's host starts operations ahead; where these are small, it is the slower."""
        profile = self.profile
        rates = [(work.flops_fp32, profile.matmul_fp32), (work.flops_16bit, profile.matmul_16bit)]
        computed_s = sum(flops / (rate.value * profile.product_share.value) for flops, rate in rates)
        busy_s = (computed_s + work.moved_bytes / profile.bandwidth.value) / self.number
        started_s = work.operations * profile.launch_s.value / min(1.0, self.number)
        return max(busy_s, started_s) if profile.kind == "gpu" else busy_s + started_s


@dataclass(frozen=True, kw_only=True)
class StepPace:
    """Seconds of a step, once the index answers in time."""

    network_s: float
    """Forward and backward passes."""
    update_s: float
    exchange_s: float
    """Gradients, and under ZeRO-3 weights, between trainers, as far as they do not hide."""
    sent_bytes: float
    """By each trainer for that."""
    work: StepWork

    @property
    def step_s(self) -> float:
        return self.network_s + self.update_s + self.exchange_s


@dataclass(frozen=True, kw_only=True)
class SearchPace:
    """One search of all trainers at once."""

    search_s: float
    """From asking to having the merged answer."""
    busy_s: float
    """What each index rank works for the queries of a step."""
    asked_bytes: float
    """By each trainer, to and from each index rank, in a step."""
    answered_bytes: float
    replies: Replies
    is_approximate: bool
    """Which the seconds above do not know of."""


@dataclass(frozen=True, kw_only=True)
class RefreshPace:
    """From launching an index version until all shards serve it."""

    snapshot_s: float
    embed_s: float
    vectors_s: float
    """Vectors on their way from builder ranks to shards."""
    snapshot_bytes: float

    @property
    def refresh_s(self) -> float:
        return self.snapshot_s + self.embed_s + self.vectors_s


def rank_device(profile: HardwareProfile, layout: Layout, *, threads: int = 0) -> Device:
    """What each rank of the layout has; `threads` is runtime.threads_per_rank."""
    share = profile.devices / layout.ranks_per_node
    if profile.kind == "gpu":
        return Device(profile=profile, number=min(1.0, share))
    return Device(profile=profile, number=min(threads, share) if threads else share)


def step_pace(
    config: RealmConfig, sizes: EncoderSizes, lengths: Lengths, *, sharding: Sharding, device: Device, layout: Layout
) -> StepPace:
    """Of pre-training."""
    work = step_work(config, sizes, lengths, sharding)
    network_s = device.seconds(work.network)
    towers, encoder = parameters_of(config, sizes)
    trained = Trained(
        towers=towers, encoder=encoder, micro_batches=work.micro_batches,
        tower_passes=work.queries.passes + work.passages.passes, encoder_passes=work.joint.passes,
    )  # fmt: skip
    sent = sharding.sent_bytes(trained)
    exchange_s = _exchange_s(sent, sharding.messages(trained), device.profile, layout)
    # Below stage 2 gradients are combined in the last micro-batch alone.
    exchanging = 1.0 if sharding.stage >= 2 else 1.0 / work.micro_batches
    hidden_s = BACKWARD_SHARE * exchanging * network_s if sharding.overlaps else 0.0
    return StepPace(
        network_s=network_s, update_s=device.seconds(work.update), exchange_s=max(0.0, exchange_s - hidden_s),
        sent_bytes=sent, work=work,
    )  # fmt: skip


def search_pace(config: RealmConfig, lengths: Lengths, *, passages: int, device: Device, layout: Layout) -> SearchPace:
    """Of all trainers' queries of one step, as if every passage were looked at."""
    width, hits, shards = config.model.projection_size, config.pretrain.num_retrieved, layout.index_ranks
    queries = config.pretrain.micro_batch_size * config.pretrain.gradient_accumulation_steps
    tokens = round(float(lengths.passages_N.mean())) - NUM_SPECIAL
    model = _cost_model(device.profile, width)
    replies = _replies(config, hits=queries * hits, tokens=tokens, shards=shards)
    threads = max(1, round(device.number)) if device.profile.kind == "cpu" else 1
    cores = max(1, round(shards * device.number))
    search_ms = predict(
        model, passages=passages, shards=shards, queries=queries, hits=hits, tokens=tokens, clients=layout.trainers,
        replies=replies, threads=threads, cores=cores,
    )  # fmt: skip
    busy_ms = model.per_scanned * layout.trainers * queries * passages / min(shards * threads, cores)
    sent_tokens = queries * hits * tokens / (1 if replies == "whole" else shards)
    factory = factory_of(config.index, shard_passages=-(-passages // shards), width=width)
    return SearchPace(
        search_s=search_ms / 1e3, busy_s=busy_ms / 1e3, asked_bytes=queries * width * FLOAT32,
        answered_bytes=queries * hits * HIT_BYTES + 2 * sent_tokens, replies=replies,
        is_approximate=not is_exact(factory, config.index.vectors),
    )  # fmt: skip


def refresh_pace(
    config: RealmConfig, sizes: EncoderSizes, lengths: Lengths, *, passages: int, device: Device, layout: Layout,
    busy_share: float = 0.0,
) -> RefreshPace:  # fmt: skip
    """Of one index version. `busy_share` of an index rank's time goes to searches meanwhile, where it embeds itself."""
    embedders = layout.builders or layout.index_ranks
    work = rebuild_work(config, sizes, lengths, passages=passages / embedders)
    free = 1.0 if layout.builders else max(1e-3, 1.0 - busy_share)
    snapshot = snapshot_bytes(config, sizes)
    vectors = passages * config.model.projection_size * DTYPE_BYTES[config.index.vectors] / layout.nodes
    return RefreshPace(
        # Passed on chunk by chunk: all hops of the tree are under way at once.
        snapshot_s=snapshot / _wire(device.profile, layout).value, embed_s=device.seconds(work) / free,
        vectors_s=vectors / _wire(device.profile, layout).value if layout.builders else 0.0,
        snapshot_bytes=snapshot,
    )  # fmt: skip


def snapshot_bytes(config: RealmConfig, sizes: EncoderSizes) -> int:
    """Of one passage tower as it travels."""
    return sizes.tower_parameters(config.model.projection_size) * DTYPE_BYTES[config.refresh.snapshot_dtype]


def _exchange_s(sent: float, messages: int, profile: HardwareProfile, layout: Layout) -> float:
    """As many bytes as around a ring of all trainers, within nodes over their links and through each node's network, in
    as many hops as a tree has, which is how large groups exchange what is small."""
    if layout.trainers == 1:
        return 0.0
    inside_s = sent / profile.link.value
    if layout.nodes == 1:
        return inside_s
    hops = math.ceil(math.log2(layout.trainers))
    return max(inside_s, sent / profile.network.value) + messages * hops * profile.latency_s.value


def _wire(profile: HardwareProfile, layout: Layout) -> Figure:
    return profile.network if layout.nodes > 1 else profile.link


def _cost_model(profile: HardwareProfile, width: int) -> CostModel:
    figures = profile.search
    return CostModel(
        fixed=figures.fixed, per_message=figures.per_message, per_scanned=figures.per_scanned * width / FITTED_WIDTH,
        per_hit=figures.per_hit, per_token=figures.per_token,
    )  # fmt: skip


def _replies(config: RealmConfig, *, hits: int, tokens: int, shards: int) -> Replies:
    """What index.replies comes to, as index/client.py decides it."""
    if config.index.replies != "auto":
        return config.index.replies
    return "two_phase" if 2 * tokens * hits * (shards - 1) > TWO_PHASE_BYTES * shards else "whole"
