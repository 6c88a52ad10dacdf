"""DeepSpeed's universal checkpoint: shards of one layout of trainers, put together so that any number can load them.

Which checkpoint, whether it is whole and when it is converted is checkpoint.py's business.
"""

from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from deepspeed.checkpoint import ds_to_universal
from torch import Tensor

from realm_ds.errors import CheckpointError


def convert(shards: Path, converted: Path) -> None:
    """Write what the ZeRO shards in one folder hold, parameter by parameter, into another.

    It unpickles the shards: only files that our manifest vouches for may come this far. Raises CheckpointError if they
    cannot be put together.
    """
    settings = Namespace(
        input_folder=str(shards), output_folder=str(converted), keep_temp_folder=False, strict=True,
        num_extract_workers=1, num_merge_workers=1,  # in this process: MPI's do not bear to be forked
        inject_missing_state=True,  # of pipeline and tensor parallelism, which we have not
    )  # fmt: skip
    try:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):  # It tells and draws its progress.
            ds_to_universal.main(settings)
    except Exception as error:  # It raises many kinds; all mean the same to a person.
        raise CheckpointError(
            f"{shards} cannot be converted for another number of trainers ({type(error).__name__}: {error}): free "
            "space if the disk is full, else resume with the number of trainers that wrote it"
        ) from error


@contextmanager
def loads_universal(engine: Any) -> Iterator[None]:
    """In the block, a DeepSpeed engine takes what it loads for converted."""
    # Its setting is checkpoint.load_universal of its JSON, which we would have to know before the engine is made.
    engine._config.load_universal_checkpoint = True
    try:
        yield
    finally:
        engine._config.load_universal_checkpoint = False


def mend_groups(optimizer: Any, groups: Sequence[Mapping[str, Any]]) -> None:
    """Give a ZeRO optimizer, just loaded, what DeepSpeed 0.19.8 does not: each group's settings, each state's count.

    Under ZeRO-3 it gives every parameter group the settings of the first, weight decay included, and all states one and
    the same tensor as their number of steps, so that each step would count as many times as there are groups.
    """
    for group, saved in zip(optimizer.param_groups, groups, strict=True):
        for key, value in saved.items():
            group[key] = tuple(value) if isinstance(value, list) else value
    for state in optimizer.optimizer.state.values():
        if isinstance(state.get("step"), Tensor):
            state["step"] = state["step"].clone()
