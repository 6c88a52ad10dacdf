"""A checkpoint's weights as tests look at them: all at once."""

from pathlib import Path

import torch
from torch import Tensor

from realm_ds.train.consolidate import consolidate_into, weight_shapes


def consolidate(folder: Path) -> dict[str, Tensor]:
    """By name, float32, in memory of their own."""
    weights = {name: torch.empty(shape) for name, shape in weight_shapes(folder).items()}
    consolidate_into(weights, folder)
    return weights
