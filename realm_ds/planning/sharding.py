"""What DeepSpeed's settings make of a trainer: bytes of each parameter that it holds, and what trainers send each
other.

As DeepSpeed 0.19.8 was found to do it (docs/experiments.md), not as its papers have it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from realm_ds.config.deepspeed import is_on, offload_device, zero_stage

MASTER, MOMENTS = 4, 8
"""Bytes of a parameter's float32 master weight, and of AdamW's two moments."""
STAGE3_BUFFERS = 4
"""Bytes that a trainer holds under ZeRO-3 for each of the JSON's reduce_bucket_size, in 16 bits as in 32."""
DEFAULT_BUCKET = 500_000_000
"""DeepSpeed's own reduce_bucket_size, in numbers."""
DEFAULT_KEPT = 1_000_000_000
"""DeepSpeed's own stage3_max_live_parameters and stage3_max_reuse_distance, in numbers."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """Parameters of what is trained, and how a step goes through them."""

    towers: int
    encoder: int
    micro_batches: int
    tower_passes: int
    """Forward passes of a micro-batch."""
    encoder_passes: int


@dataclass(frozen=True, kw_only=True)
class Sharding:
    """ZeRO over so many trainers."""

    stage: int
    trainers: int
    is_16bit: bool
    """Weights and gradients; masters and moments are float32 always."""
    bucket: int
    """Numbers that are combined at a time."""
    overlaps: bool
    """Whether gradients are combined while others are still computed."""
    live: int = DEFAULT_KEPT
    """Numbers of gathered weights up to which ZeRO-3 fetches ahead; what it comes across meanwhile, it keeps."""
    reuse: int = DEFAULT_KEPT
    """It also keeps those that are needed again before so many numbers of others are."""
    optimizer_on: str = "none"
    parameters_on: str = "none"
    """Where states and weights are kept instead: none, cpu or nvme."""

    @classmethod
    def of(cls, deepspeed_json: Mapping[str, Any], *, trainers: int) -> "Sharding":
        """What checked settings ask for."""
        zero, stage = deepspeed_json.get("zero_optimization", {}), zero_stage(deepspeed_json)
        overlaps = zero.get("overlap_comm")
        return cls(
            stage=stage, trainers=trainers,
            is_16bit=any(is_on(deepspeed_json, section) for section in ("bf16", "fp16")),
            bucket=int(zero.get("reduce_bucket_size", DEFAULT_BUCKET)),
            overlaps=stage == 3 if overlaps is None else bool(overlaps),
            live=int(zero.get("stage3_max_live_parameters", DEFAULT_KEPT)),
            reuse=int(zero.get("stage3_max_reuse_distance", DEFAULT_KEPT)),
            optimizer_on=offload_device(deepspeed_json, "optimizer"),
            parameters_on=offload_device(deepspeed_json, "param"),
        )  # fmt: skip

    @property
    def number_bytes(self) -> int:
        """Of a weight, and of a gradient that travels."""
        return 2 if self.is_16bit else 4

    @property
    def weight_bytes(self) -> float:
        """Of each parameter, on this trainer; likewise below."""
        return self.number_bytes / (self.trainers if self.stage == 3 else 1)

    @property
    def gradient_bytes(self) -> float:
        # In 16-bit ZeRO 0 gradients are also added up in float32.
        whole = self.number_bytes + (4 if self.is_16bit and self.stage == 0 else 0)
        return whole / (self.trainers if self.stage >= 2 else 1)

    @property
    def state_bytes(self) -> float:
        """Master weights, where they are a copy of their own, and moments."""
        return (MOMENTS + self._has_masters * MASTER) / (self.trainers if self.stage else 1)

    @property
    def saved_bytes(self) -> float:
        """In a checkpoint, all trainers' files together."""
        return self.number_bytes + MOMENTS + self._has_masters * MASTER

    @property
    def _has_masters(self) -> bool:
        """ZeRO 1 and 2 keep a copy even of float32 weights."""
        return self.is_16bit or self.stage in (1, 2)

    def buffer_bytes(self, parameters: int) -> int:
        """What combining gradients, and gathering weights, holds beside."""
        bucket = min(self.bucket, parameters)
        if self.stage == 3:
            return STAGE3_BUFFERS * bucket
        return self.number_bytes * bucket if self.trainers > 1 and self.stage else 0

    def gathered_bytes(self, parameters: int) -> float:
        """Of other trainers' weights, at most, that are here at a time."""
        return (
            min(max(self.live, self.reuse), parameters) * self.number_bytes * self._others if self.stage == 3 else 0.0
        )

    def sent_bytes(self, trained: Trained) -> float:
        """By each trainer in an optimizer step."""
        return sum(times * parameters for parameters, times in self._rounds(trained)) * self.number_bytes * self._others

    def messages(self, trained: Trained) -> int:
        """Rounds through all trainers in an optimizer step, at least: one to gather or to scatter, two to combine."""
        if self.trainers == 1:
            return 0
        return sum(times * -(-parameters // max(1, self.bucket)) for parameters, times in self._rounds(trained))

    @property
    def _others(self) -> float:
        """Of a tensor that is divided, the share that other trainers have."""
        return (self.trainers - 1) / self.trainers

    def _rounds(self, trained: Trained) -> Iterator[tuple[int, int]]:
        """Parameters, and how often a step sends them around."""
        both, micro_batches = trained.towers + trained.encoder, trained.micro_batches
        if self.stage < 3:
            # Stages 1 and 2 combine all gradients everywhere too, though a trainer keeps its own part only; stage 2 has
            # no room to add up the others', so it does so for every micro-batch.
            yield both, 2 * (micro_batches if self.stage == 2 else 1)
            yield both, 1 if self.stage else 0
            return
        yield both, micro_batches
        passed = 2 * (trained.towers * trained.tower_passes + trained.encoder * trained.encoder_passes)
        are_kept = both <= self.live or passed <= self.reuse
        for parameters, passes in (
            (trained.towers, trained.tower_passes), (trained.encoder, trained.encoder_passes),
        ):  # fmt: skip
            if are_kept:
                yield parameters, micro_batches
            elif parameters <= self.reuse:  # kept from pass to pass, but not until the backward pass
                yield parameters, micro_batches * 2
            else:  # given back layer by layer
                yield parameters, micro_batches * 2 * passes
