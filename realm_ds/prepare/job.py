"""Records made from chunks of work by several processes, and written as tar shards in order; resumable after a kill."""

from collections.abc import Sequence
from dataclasses import dataclass

from realm_ds.prepare.documents import Tally


@dataclass(frozen=True, kw_only=True)
class Made:
    """What a worker made of one chunk."""

    records: Sequence[bytes]
    """Each as the JSON of a tar member, in order."""
    keys: Sequence[int]
    """One 63-bit number for each: a record whose key an earlier one had is left out and counted."""
    tally: Tally
