"""What ranks hold, in bytes, by kind of rank and by what it is for; and what a run leaves on the disk."""

from dataclasses import dataclass, field

from realm_ds.config.hardware import HardwareProfile
from realm_ds.config.schema import RealmConfig
from realm_ds.data.records import NUM_SPECIAL
from realm_ds.index.factory import code_bytes, factory_of, is_exact, spec_of
from realm_ds.models.sizes import EncoderSizes
from realm_ds.planning.layout import Layout
from realm_ds.planning.lengths import Lengths
from realm_ds.planning.pace import DTYPE_BYTES, snapshot_bytes
from realm_ds.planning.sharding import Sharding
from realm_ds.planning.work import FLOAT32, StepWork, parameters_of

GIB = 2**30
LIVE_VERSIONS = 2
"""Of the index: the one in use and the one that is built or about to be used."""
HIDDEN_KEPT, INTERMEDIATE_KEPT = 8, 2
"""Numbers of a token that a layer keeps for its backward pass, in hidden and intermediate sizes: counted from what
torch saves (a test counts again)."""
HIDDEN_DROPPED = 4
"""And with dropout: its masks and results."""
LOGITS_KEPT = 3
"""Copies of the logits of every mask: logits, their softmax, its gradient; float32."""
HIDDEN_EMBEDDED, INTERMEDIATE_EMBEDDED = 6, 2
"""Of one layer without a backward pass, at its peak."""
ENTRY_BYTES = 40
"""Of a passage beside its tokens: uid, article, two lengths, their sum, where its tokens begin."""
TOKEN_BYTES = 2
RECORD_BYTES = 2_048
"""Of a sentence that waits to be shuffled."""


@dataclass(frozen=True, kw_only=True)
class Held:
    """Bytes of one rank by what they are for. On a cpu node all are in the node's memory."""

    device: dict[str, float] = field(default_factory=dict)
    host: dict[str, float] = field(default_factory=dict)

    @property
    def device_bytes(self) -> float:
        return sum(self.device.values())

    @property
    def host_bytes(self) -> float:
        return sum(self.host.values())


@dataclass(frozen=True, kw_only=True)
class Storage:
    """Bytes on the disk of a run folder."""

    checkpoint: float
    version: float
    """Of the index, its snapshot included."""
    kept: float
    """At most, at any time."""


def trainer_held(
    config: RealmConfig, sizes: EncoderSizes, *, sharding: Sharding, work: StepWork, profile: HardwareProfile
) -> Held:
    """What a trainer holds at the end of a forward pass."""
    towers, encoder = parameters_of(config, sizes)
    parameters = towers + encoder
    states, weights = sharding.state_bytes * parameters, sharding.weight_bytes * parameters
    device = {
        "gradients": sharding.gradient_bytes * parameters,
        "activations": activation_bytes(config, sizes, work, number_bytes=sharding.number_bytes),
        "collectives": sharding.buffer_bytes(parameters) + sharding.gathered_bytes(parameters),
        "query towers": float(LIVE_VERSIONS * sizes.tower_parameters(config.model.projection_size) * FLOAT32),
    }
    host = {"libraries": profile.process_gib.value * GIB, "shuffling": 2.0 * config.data.shuffle_records * RECORD_BYTES}
    for name, held, kept_on in (
        ("weights", weights, sharding.parameters_on),
        ("optimizer", states, sharding.optimizer_on),
    ):
        if kept_on != "nvme":
            (device if kept_on == "none" else host)[name] = held
    return Held(device=device, host=host)


def activation_bytes(config: RealmConfig, sizes: EncoderSizes, work: StepWork, *, number_bytes: int) -> float:
    """Of one micro-batch: what its three networks keep for the backward pass."""
    hidden = HIDDEN_KEPT + (HIDDEN_DROPPED if config.model.dropout else 0)
    of_layer = (hidden * sizes.hidden + INTERMEDIATE_KEPT * sizes.intermediate) * number_bytes
    tokens = work.queries.tokens + work.passages.tokens + work.joint.tokens
    logits = LOGITS_KEPT * work.joint.masks * sizes.vocabulary * FLOAT32
    if not config.runtime.activation_checkpointing:
        return tokens * sizes.layers * of_layer + logits
    # The inputs of all layers, and all of one layer of the largest pass.
    largest = work.joint.tokens / work.joint.passes
    return tokens * sizes.layers * sizes.hidden * number_bytes + largest * of_layer + logits


def index_held(
    config: RealmConfig,
    sizes: EncoderSizes,
    lengths: Lengths,
    *,
    passages: int,
    layout: Layout,
    profile: HardwareProfile,
) -> Held:
    """What an index rank holds at the end of a rebuild."""
    own, width = -(-passages // layout.index_ranks), config.model.projection_size
    vectors = float(own * width * DTYPE_BYTES[config.index.vectors])
    factory = factory_of(config.index, shard_passages=own, width=width)
    host = {**_passages(lengths, own), "libraries": profile.process_gib.value * GIB}
    if is_exact(factory, config.index.vectors):
        host["vectors"] = searched = LIVE_VERSIONS * vectors
    else:
        # Those of a version that is built are there in any case.
        host["vectors"] = vectors * (LIVE_VERSIONS if spec_of(config.index).keeps_exact else 1)
        host["codes"] = searched = LIVE_VERSIONS * own * code_bytes(factory, width)
    # FAISS searches a copy; what it was made from stays with the host.
    device = {"index": searched} if profile.kind == "gpu" else {}
    if not layout.builders:
        device |= _embedding(config, sizes)
        host["snapshot"] = float(snapshot_bytes(config, sizes))
    return Held(device=device, host=host)


def builder_held(
    config: RealmConfig,
    sizes: EncoderSizes,
    lengths: Lengths,
    *,
    passages: int,
    layout: Layout,
    profile: HardwareProfile,
) -> Held:
    """What a builder rank holds: its range of the corpus, the tower, one version's vectors."""
    own = -(-passages // layout.builders)
    vectors = own * config.model.projection_size * DTYPE_BYTES[config.index.vectors]
    host = {
        **_passages(lengths, own), "libraries": profile.process_gib.value * GIB, "vectors": float(vectors),
        "snapshot": float(snapshot_bytes(config, sizes)),
    }  # fmt: skip
    return Held(device=_embedding(config, sizes), host=host)


def storage(config: RealmConfig, sizes: EncoderSizes, *, sharding: Sharding, passages: int) -> Storage:
    """Newest checkpoints and the versions that they need, and one more of each while it is written."""
    checkpoint = sum(parameters_of(config, sizes)) * sharding.saved_bytes
    vectors = passages * config.model.projection_size * DTYPE_BYTES[config.index.vectors]
    version = float(vectors + snapshot_bytes(config, sizes) * (1 if config.model.share_towers else 2))
    checkpoints = config.runtime.keep_last
    kept = (checkpoints + 1) * checkpoint + (checkpoints + LIVE_VERSIONS) * version
    return Storage(checkpoint=checkpoint, version=version, kept=kept)


def _passages(lengths: Lengths, passages: int) -> dict[str, float]:
    tokens = float(lengths.passages_N.mean()) - NUM_SPECIAL
    return {"tokens": passages * TOKEN_BYTES * tokens, "passages": float(passages * ENTRY_BYTES)}


def _embedding(config: RealmConfig, sizes: EncoderSizes) -> dict[str, float]:
    of_token = HIDDEN_EMBEDDED * sizes.hidden + INTERMEDIATE_EMBEDDED * sizes.intermediate
    number_bytes = DTYPE_BYTES[config.index.embed_dtype]
    return {
        "tower": float(sizes.tower_parameters(config.model.projection_size) * number_bytes),
        "embedding": float(config.index.embed_batch_tokens * of_token * number_bytes),
    }
