"""The networks of an export, from a run's weights to folders that were opened again. At no time is there more in memory
than the model: all of it until it is written, then one network after the other. What those folders are is
export_layouts.py's business.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from realm_ds.config.schema import RealmConfig
from realm_ds.data.shards import Shards
from realm_ds.data.tokenizer import Tokenizer
from realm_ds.train.export import Dtype, Layout, round_to, unfilled
from realm_ds.train.export_check import outputs, take_samples, verified
from realm_ds.train.export_layouts import write_layout
from realm_ds.train.export_source import Source, read_source


@dataclass(frozen=True, kw_only=True)
class Written:
    """What a card tells of models that are no longer in memory."""

    num_parameters: int
    shares_towers: bool


def write_networks(
    source: Source, folder: Path, *, config: RealmConfig, corpus: Shards, tokenizer: Tokenizer, dtype: Dtype,
    layout: Layout, verify: bool, say: Callable[[str], None],
) -> Written:  # fmt: skip
    """Raises CheckpointError where the source is of another model, or what was written computes something else."""
    say(f"consolidating {source.folder}: {source.why}")
    realm = unfilled(config, vocab_size=tokenizer.vocab_size)
    read_source(realm, source)
    written = Written(num_parameters=sum(map(Tensor.numel, realm.parameters())), shares_towers=realm.shares_towers)
    samples = take_samples(corpus, tokenizer=tokenizer, config=config) if verify else None
    expected = outputs(realm, samples) if samples else {}
    round_to(realm, dtype)
    write_layout(realm, folder, layout=layout, config=config)
    del realm  # so that there is room for what was written
    if samples:
        for line in verified(folder, expected, samples, layout=layout, dtype=dtype):
            say(line)
    return written
