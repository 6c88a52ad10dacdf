"""What DeepSpeed's settings make of a trainer: bytes of each parameter that it holds, and what trainers send each
other.

As DeepSpeed 0.19.8 was found to do it (docs/experiments.md), not as its papers have it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from realm_ds.config.deepspeed import is_on, offload_device, zero_stage

MASTER, MOMENTS = 4, 8
"""Bytes of a parameter's float32 master weight, and of AdamW's two moments."""
STAGE3_BUFFERS = 4
"""Bytes that a trainer holds under ZeRO-3 for each of the JSON's reduce_bucket_size, in 16 bits as in 32."""
DEFAULT_BUCKET = 500_000_000
"""DeepSpeed's own reduce_bucket_size, in numbers."""


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
    optimizer_on: str = "none"
    parameters_on: str = "none"
    """Where states and weights are kept instead: none, cpu or nvme."""

    @classmethod
    def of(cls, deepspeed_json: Mapping[str, Any], *, trainers: int) -> "Sharding":
        """What checked settings ask for."""
        zero = deepspeed_json.get("zero_optimization", {})
        return cls(
            stage=zero_stage(deepspeed_json), trainers=trainers,
            is_16bit=any(is_on(deepspeed_json, section) for section in ("bf16", "fp16")),
            bucket=int(zero.get("reduce_bucket_size", DEFAULT_BUCKET)), overlaps=bool(zero.get("overlap_comm", False)),
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

    def sent_bytes(self, *, towers: int, encoder: int, tower_passes: int, encoder_passes: int) -> float:
        """By each trainer in an optimizer step; parameters and forward passes of both kinds of network."""
        if self.trainers == 1:
            return 0.0
        others = (self.trainers - 1) / self.trainers
        combined = (towers + encoder) * self.number_bytes
        if self.stage < 3:
            return 2 * combined * others  # gradients are scattered and added, then results gathered
        # ZeRO-3 gathers the weights of every pass, forward and backward.
        gathered = 2 * (towers * tower_passes + encoder * encoder_passes) * self.number_bytes
        return (combined + gathered) * others

    def messages(self, parameters: int) -> int:
        """Collectives of one optimizer step, at least."""
        return 0 if self.trainers == 1 else 2 * -(-parameters // max(1, min(self.bucket, parameters)))
