"""How much is trained in how much time: wordpieces a second, model FLOPs utilisation, memory.

Counted are true wordpieces, not padding, and the operations that the model needs for them, not those that were done:
padding, recomputed activations and frozen towers lower the utilisation, as they should.

Shapes: N sequences, L tokens, M masks.
"""

import resource
import time
from typing import Any

import torch
from torch import Tensor, nn

from realm_ds.comm.trainers import Trainers
from realm_ds.models.flops import cost_of
from realm_ds.models.sizes import Cost
from realm_ds.models.towers import TokenBatch

RATES = ("tokens_per_s", "mfu")
"""What `Workload.drain` gives."""
PEAK_S = 0.3
"""How long the device's peak is measured."""
PEAK_SIZES = {"cpu": 1024, "cuda": 8192}
"""Rows and columns of the matrices for it: large enough that nothing but the product takes time."""
GIB = 2**30


class Workload:
    """Counts what passes through an objective's networks while they train. Adding never waits for a GPU."""

    def __init__(self, objective: nn.Module, *, device: torch.device, dtype: torch.dtype) -> None:
        """It computes on `device` in `dtype`; its weights may be kept elsewhere, in another."""
        self.peak_flops = peak_flops(device, dtype)
        """Of this trainer's device, a second, measured."""
        self._tokens: Any = 0.0
        self._flops: Any = 0.0
        for network in objective.modules():
            cost = cost_of(network)
            if cost is not None:
                network.register_forward_pre_hook(_counting(self, cost))

    def count(self, cost: Cost, tokens: TokenBatch, positions_NM: Tensor | None) -> None:
        """A batch that a network is about to see."""
        lengths_N = tokens.mask_NL.sum(dim=1).double()
        # No mask is at [CLS]: place 0 is an empty one.
        masks = torch.zeros_like(lengths_N[0]) if positions_NM is None else (positions_NM > 0).sum().double()
        num_tokens, squares = lengths_N.sum(), (lengths_N * lengths_N).sum()
        self._tokens = self._tokens + num_tokens
        self._flops = self._flops + cost.training(
            tokens=num_tokens, squares=squares, sequences=float(len(lengths_N)), masks=masks
        )

    def drain(self, seconds: float) -> dict[str, float]:
        """Of this trainer, since the last drain: wordpieces a second and the share of the device's peak."""
        tokens, flops = float(self._tokens), float(self._flops)
        self._tokens = self._flops = 0.0
        return {"tokens_per_s": tokens / seconds, "mfu": flops / seconds / self.peak_flops}


def _counting(workload: Workload, cost: Cost) -> Any:
    @torch._dynamo.disable  # type: ignore[attr-defined,untyped-decorator]
    def count(network: nn.Module, inputs: tuple[Any, ...]) -> None:
        if torch.is_grad_enabled():
            workload.count(cost, inputs[0], inputs[1] if len(inputs) > 1 else None)

    return count


def peak_flops(device: torch.device, dtype: torch.dtype, *, seconds: float = PEAK_S) -> float:
    """Operations a second of the best of some large matrix products, in about `seconds`."""
    size = PEAK_SIZES.get(device.type, 1024)
    left, right = torch.randn(2, size, size, device=device).to(dtype)
    best_s, deadline = float("inf"), time.perf_counter() + seconds
    torch.mm(left, right)
    while True:
        _finish(device)
        started_at = time.perf_counter()
        torch.mm(left, right)
        _finish(device)
        best_s = min(best_s, time.perf_counter() - started_at)
        if time.perf_counter() > deadline:
            return 2.0 * size**3 / best_s


def memory(device: torch.device, trainers: Trainers) -> dict[str, float]:
    """The most that any trainer has held since it started. Collective."""
    held = [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024]
    names = ["peak_rss_gib"]
    if device.type == "cuda":
        held += [torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)]
        names += ["peak_allocated_gib", "peak_reserved_gib"]
    most = map(max, zip(*trainers.gather_ints(held), strict=True))
    return {name: num_bytes / GIB for name, num_bytes in zip(names, most, strict=True)}


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
