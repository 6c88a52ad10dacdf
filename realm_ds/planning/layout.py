"""How many ranks of each kind stand on how many nodes."""

from dataclasses import dataclass

from realm_ds.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Every node alike."""

    nodes: int
    trainers_per_node: int
    index_per_node: int
    builders_per_node: int = 0

    def __post_init__(self) -> None:
        least = {
            "--nodes": self.nodes,
            "--trainers-per-node": self.trainers_per_node,
            "--index-per-node": self.index_per_node,
        }
        for option, number in least.items():
            if number < 1:
                raise ConfigError(f"{option} {number}: a run needs at least 1")
        if self.builders_per_node < 0:
            raise ConfigError(f"--builders-per-node {self.builders_per_node}: 0 lets index ranks embed for themselves")

    @property
    def trainers(self) -> int:
        return self.nodes * self.trainers_per_node

    @property
    def index_ranks(self) -> int:
        return self.nodes * self.index_per_node

    @property
    def builders(self) -> int:
        return self.nodes * self.builders_per_node

    @property
    def ranks_per_node(self) -> int:
        return self.trainers_per_node + self.index_per_node + self.builders_per_node
