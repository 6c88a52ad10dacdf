"""What the index of a shard is made of: FAISS factory strings, as far as they can be judged without FAISS.

Building is shard.py's business.
"""

import re
from dataclasses import dataclass
from typing import Literal

from realm_ds.config.index import IndexConfig

VectorType = Literal["fp32", "fp16"]
AUTO = "auto"
LARGEST_FLAT = 1_000_000
"""auto: up to so many passages every search looks at all of them."""
LARGEST_UNCOMPRESSED = 10_000_000
"""auto: up to so many, cells alone make search fast enough; beyond, their vectors take the room."""
_CELLS = re.compile(r"IVF(\d+)")
_CODES = re.compile(r"(?<!O)(?:PQ|RQ|LSQ)(\d+)(?:x(\d+))?")
_ROTATION = re.compile(r"OPQ|PCAR?W?(\d+)")
_CODE_BITS = 8
"""Of a code where the factory string does not say it, and of the codes that OPQ learns its rotation with."""
_SCALARS = re.compile(r"SQ(?:bf|fp)?(\d+)")
_REDUCED = re.compile(r"PCAR?W?(\d+)")
_GRAPH = re.compile(r"(?:^|,)(HNSW|NSG)(\d*)")
_DEFAULT_LINKS = 32
_EXACT = {("Flat", "fp32"), ("SQfp16", "fp16"), ("Flat", "fp16")}


@dataclass(frozen=True, kw_only=True)
class IndexSpec:
    """How the vectors of one shard become an index; the settings are explained in config/schema.py."""

    factory: str = "Flat"
    search_parameters: str = AUTO
    vectors: VectorType = "fp32"
    rerank: int = 4
    keeps_exact: bool = True
    """Whether exact vectors stay in memory beside an approximate index: to re-rank with, or to audit it."""
    train_passages: int = 262_144


def spec_of(index: IndexConfig) -> IndexSpec:
    """The part of the settings that says what an index is made of."""
    return IndexSpec(
        factory=index.factory,
        search_parameters=index.search_parameters,
        vectors=index.vectors,
        rerank=index.rerank,
        keeps_exact=index.rerank > 0 or index.audit_every > 0,
        train_passages=index.train_passages,
    )


def audits_of(index: IndexConfig, *, num_passages: int) -> int:
    """One search of how many is to be audited: 0 where every shard of such a corpus looks at all of its passages."""
    return 0 if looks_at_all(index, num_passages=num_passages) else index.audit_every


def looks_at_all(index: IndexConfig, *, num_passages: int) -> bool:
    """Whether every shard of such a corpus finds the very best of its passages."""
    factory = factory_of(index, shard_passages=-(-num_passages // index.num_shards), width=1)
    return is_exact(factory, index.vectors)


def factory_of(index: IndexConfig, *, shard_passages: int, width: int) -> str:
    """What index.factory comes to in a shard of so many passages."""
    if index.factory != AUTO:
        return index.factory
    return choose_factory(shard_passages, width=width, train_passages=index.train_passages)[0]


def choose_factory(num_passages: int, *, width: int, train_passages: int = 262_144) -> tuple[str, str]:
    """The factory string that `auto` stands for in a shard of so many passages, and the reason, for the log."""
    if num_passages <= LARGEST_FLAT:
        return "Flat", f"{num_passages:,} passages are few enough to look at all of them (up to {LARGEST_FLAT:,})"
    # FAISS's own advice: 4 to 16 times the root of the number of vectors, and 39 to train each of them with.
    cells = 1 << min(round(4 * num_passages**0.5).bit_length(), (train_passages // 39).bit_length() - 1)
    if num_passages <= LARGEST_UNCOMPRESSED:
        return f"IVF{cells},Flat", f"{num_passages:,} passages are too many to look at all of them"
    codes = max(1, width // 4)
    return (
        f"IVF{cells},PQ{codes}",
        f"{num_passages:,} passages are too many to scan even some cells of whole vectors: {codes} bytes each; "
        "index.rerank keeps the exact ones beside",
    )


def is_exact(factory: str, vectors: VectorType) -> bool:
    """Whether an index of this factory is nothing but the exact vectors as they are kept."""
    return (factory, vectors) in _EXACT


def code_bytes(factory: str, width: int) -> float:
    """Of a passage in an index of this factory: its code, in cells its number, in a graph its links."""
    reduced, codes, scalars = _REDUCED.search(factory), _CODES.search(factory), _SCALARS.search(factory)
    width = int(reduced[1]) if reduced else width
    bits = int(codes[1]) * int(codes[2] or _CODE_BITS) if codes else width * int(scalars[1] if scalars else 32)
    graph = _GRAPH.search(factory)
    links = int(graph[2] or _DEFAULT_LINKS) if graph else 0
    if graph and graph[1] == "HNSW":
        links = 2 * links + 4  # twice as many in its lowest layer; four more for where they are
    return bits / 8 + 8 * bool(_CELLS.search(factory)) + 4 * links


def least_passages(factory: str) -> int:
    """With fewer passages than this FAISS cannot train the factory's cells, codes or rotation."""
    needed = [1]
    needed += [int(found[1]) for found in _CELLS.finditer(factory)]
    needed += [2 ** int(found[2] or _CODE_BITS) for found in _CODES.finditer(factory)]
    needed += [int(found[1] or 2**_CODE_BITS) for found in _ROTATION.finditer(factory)]
    return max(needed)


def is_built_in_order(factory: str) -> bool:
    """Whether a graph is built, whose links depend on the order in which threads get to them."""
    return "HNSW" in factory or "NSG" in factory


def parameters_of(search_parameters: str, factory: str) -> str:
    """What FAISS's ParameterSpace is told, '' for nothing."""
    if search_parameters != AUTO:
        return search_parameters
    cells = _CELLS.search(factory)
    if cells:
        return f"nprobe={max(1, int(cells[1]) // 8)}"
    return "efSearch=64" if factory.startswith("HNSW") else ""
