"""A file of weights into tensors that are there already, a piece at a time: so that they are in memory once.

What weights are called in other people's files is hf_realm.py's and tf_realm.py's business.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from realm_ds.errors import CheckpointError

WEIGHTS_FILE = "model.safetensors"
"""What transformers calls it in a model's folder."""
PIECE_BYTES = 16 * 2**20
"""Files are mapped, and the pages that were touched count as memory until a file is let go."""


@torch.no_grad()
def read_into(weights: Mapping[str, Tensor], path: Path) -> None:
    """Overwrite tensors with those of a safetensors file that have their names.

    Tensors that share memory are there once, under the name of one of them. Raises CheckpointError if some are missing,
    unknown, or of another shape; others may be overwritten by then.
    """
    try:
        shapes = _shapes(path)
        lacking = _lacking(weights, shapes)
        if wrong := sorted(shapes.keys() - weights.keys()) or lacking:
            what = "lacks" if wrong is lacking else "has"
            raise CheckpointError(
                f"{path} was made with other model sizes: it {what} {wrong[0]} and {len(wrong) - 1} more"
            )
        for name, shape in shapes.items():
            if shape != (here := tuple(weights[name].shape)):
                raise CheckpointError(
                    f"{path} was made with other model sizes: {name} is {shape} there and {here} here"
                )
            for piece in _pieces(weights[name]):
                with safe_open(path, framework="pt") as file:
                    weights[name][piece].copy_(file.get_slice(name)[piece])
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read ({error})") from error


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    with safe_open(path, framework="pt") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (no dict)


def _lacking(weights: Mapping[str, Tensor], found: Mapping[str, object]) -> list[str]:
    filled = {weights[name].data_ptr() for name in weights.keys() & found}
    return [name for name, value in weights.items() if value.data_ptr() not in filled]


def _pieces(weight: Tensor) -> Iterator[slice]:
    """Of its rows."""
    num_rows = max(1, PIECE_BYTES * len(weight) // weight.nbytes)
    return (slice(start, start + num_rows) for start in range(0, len(weight), num_rows))
