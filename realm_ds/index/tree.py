"""The way of a snapshot: from trainer 0 to one rank, from each rank to two more, so that nobody sends it S times.

Ranks that embed come first: weights never pass through a rank that does not need them. Passing on is relay.py's.
"""

from dataclasses import dataclass

from realm_ds.comm.world import World

CHILDREN = 2


@dataclass(frozen=True, kw_only=True)
class SnapshotTree:
    """Who passes a snapshot on to whom; world ranks throughout."""

    trainer: int
    """Where snapshots come from."""
    embedders: tuple[int, ...]
    """Who needs the weights: builder ranks, or where there are none, index ranks."""
    others: tuple[int, ...] = ()
    """Who only needs to know that a version is launched: index ranks, where builder ranks embed for them."""

    @classmethod
    def of(cls, world: World) -> "SnapshotTree":
        """The one way of snapshots through a world."""
        embedders, others = (world.builder_ranks, world.index_ranks) if world.builder_ranks else (world.index_ranks, ())
        return cls(trainer=world.trainer_ranks[0], embedders=embedders, others=others)

    @property
    def ranks(self) -> tuple[int, ...]:
        """Everyone below the trainer, nearest first."""
        return self.embedders + self.others

    @property
    def root(self) -> int:
        """To whom the trainer sends."""
        return self.ranks[0]

    def parent(self, rank: int) -> int:
        """From whom `rank` hears."""
        place = self.ranks.index(rank)
        return self.ranks[(place - 1) // CHILDREN] if place else self.trainer

    def children(self, rank: int) -> tuple[int, ...]:
        """To whom `rank` passes the word on."""
        first = CHILDREN * self.ranks.index(rank) + 1
        return self.ranks[first : first + CHILDREN]

    def chunk_children(self, rank: int) -> tuple[int, ...]:
        """To whom `rank` passes the weights on."""
        return tuple(child for child in self.children(rank) if child in self.embedders)
