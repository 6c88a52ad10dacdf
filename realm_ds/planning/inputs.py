"""What a plan is made from: settings, data that may be there, a layout and a hardware profile, as the command line has
them.
"""

from pathlib import Path

from realm_ds.config.hardware import HardwareProfile
from realm_ds.config.load import NOT_GIVEN
from realm_ds.config.schema import RealmConfig
from realm_ds.data.places import MANIFEST
from realm_ds.data.shards import open_shards
from realm_ds.errors import ConfigError
from realm_ds.models.sizes import encoder_sizes
from realm_ds.planning.layout import Layout
from realm_ds.planning.lengths import Lengths
from realm_ds.planning.plan import Run

VOCABULARY = 30_522
"""BERT's, where there is no tokenizer yet."""


def inputs_of(config: RealmConfig, layout: Layout, hardware: HardwareProfile, *, passages: int | None) -> Run:
    """Passages are those of data.corpus unless given, lengths those of its shards where they are on this host.

    Raises ConfigError if neither tells how many passages there are.
    """
    if passages is None and not _is_here(config.data.corpus):
        given = config.data.corpus != NOT_GIVEN
        corpus = f"data.corpus={config.data.corpus} is not here" if given else "there is no data.corpus"
        raise ConfigError(
            f"{corpus} to count its passages: name it with data.corpus=FOLDER, or give their number: --passages "
            "13353718"
        )
    has_shards = _is_here(config.data.corpus) and config.data.pretrain is not None and _is_here(config.data.pretrain)
    return Run(
        config=config, layout=layout, hardware=hardware,
        sizes=encoder_sizes(config.model, vocabulary=_vocabulary(config), max_tokens=config.data.joint_tokens),
        lengths=Lengths.sample(config.data) if has_shards else Lengths.longest(config.data),
        passages=passages or open_shards(config.data.corpus, kind="corpus", fingerprint=None).count,
    )  # fmt: skip


def layout_of(
    config: RealmConfig,
    *,
    nodes: int,
    trainers_per_node: int,
    index_per_node: int | None,
    builders_per_node: int | None,
) -> Layout:
    """Index and builder ranks are those of the settings unless given. Raises ConfigError if nodes cannot share them."""
    wanted = {
        "index": (index_per_node, config.index.num_shards, "index.num_shards"),
        "builders": (builders_per_node, config.index.builders, "index.builders"),
    }
    for kind, (given, number, setting) in wanted.items():
        if given is None and nodes > 0 and number % nodes:
            raise ConfigError(
                f"{setting}={number} cannot be shared evenly by {nodes} nodes: say how many stand on each with "
                f"--{kind}-per-node, or set {setting}={-(-number // nodes) * nodes}"
            )
    index, builders = (given if given is not None else number // max(1, nodes) for given, number, _ in wanted.values())
    return Layout(nodes=nodes, trainers_per_node=trainers_per_node, index_per_node=index, builders_per_node=builders)


def _vocabulary(config: RealmConfig) -> int:
    if not (config.data.tokenizer / "tokenizer.json").is_file():
        return VOCABULARY
    from realm_ds.data.tokenizer import load_tokenizer

    return load_tokenizer(config.data.tokenizer).vocab_size


def _is_here(place: Path | str) -> bool:
    return isinstance(place, Path) and (place / MANIFEST).is_file()
