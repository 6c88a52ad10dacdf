"""faiss: the memory that exact vectors lie in, approximate indexes of them, GPUs. Its only door, benchmarks aside.

How a shard is searched is shard.py's business, and exact search exact.py's.

Shapes: N passages of the shard, B queries, F hits fetched, P embedding.
"""

import functools
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from realm_ds.errors import ConfigError
from realm_ds.index import exact
from realm_ds.index.exact import NOWHERE
from realm_ds.index.factory import (
    AUTO,
    IndexSpec,
    VectorType,
    choose_factory,
    is_built_in_order,
    is_exact,
    least_passages,
    parameters_of,
)
from realm_ds.index.store import NUMPY_DTYPES

log = logging.getLogger(__name__)

ADDED_AT_ONCE = 65_536
"""Passages turned into codes at a time."""


def use_threads(num_threads: int) -> None:
    """Search and build with this many threads, in the calling thread only (faiss, too, keeps the number per thread)."""
    faiss.omp_set_num_threads(num_threads)
    exact.use_threads(num_threads)


class VectorTable:
    """The exact vectors of a shard in one piece of memory, which faiss searches and numpy reads and fills."""

    def __init__(self, num_passages: int, width: int, *, dtype: VectorType = "fp32") -> None:
        if dtype == "fp32":
            self.index = faiss.IndexFlatIP(width)
        else:
            self.index = faiss.IndexScalarQuantizer(width, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
        self.index.codes.resize(num_passages * width * NUMPY_DTYPES[dtype].itemsize)
        self.index.ntotal = num_passages
        self.vectors_NP: np.ndarray = np.asarray(_Memory(self.index, (num_passages, width), NUMPY_DTYPES[dtype]))
        """float32 or float16, zero until filled."""

    @classmethod
    def of(cls, vectors_NP: np.ndarray, *, dtype: VectorType = "fp32") -> "VectorTable":
        """A table with a copy of these vectors."""
        table = cls(*vectors_NP.shape, dtype=dtype)
        table.vectors_NP[:] = vectors_NP
        return table

    def __len__(self) -> int:
        return len(self.vectors_NP)

    @property
    def width(self) -> int:
        return int(self.vectors_NP.shape[1])

    def longest(self) -> float:
        """The greatest norm of a vector."""
        squares = [float(np.einsum("np,np->n", part, part).max()) for part in self.parts()]
        return float(max(squares, default=0.0) ** 0.5)

    def sample(self, most: int) -> np.ndarray:
        """At most so many vectors, float32, always the same ones of a table of this size."""
        if len(self) <= most:
            return self.rows(slice(None))
        return self.rows(np.sort(np.random.default_rng(0).choice(len(self), most, replace=False)))

    def parts(self) -> Iterator[np.ndarray]:
        """All vectors in order, float32, a part at a time."""
        for start in range(0, len(self), ADDED_AT_ONCE):
            yield self.rows(slice(start, start + ADDED_AT_ONCE))

    def scores(self, queries_BP: np.ndarray, places_BF: np.ndarray) -> np.ndarray:
        """Inner products of each query with the vectors at its places, -inf below 0: each pair by itself."""
        index, labels_BF = self.index, places_BF
        if self.vectors_NP.dtype != np.float32:
            # The few that are asked for as float32, since faiss computes single pairs of these only.
            distinct_U, labels_BF = np.unique(places_BF, return_inverse=True)
            index = faiss.IndexFlatIP(self.width)
            index.add(self.rows(distinct_U))
            labels_BF = np.where(places_BF < 0, NOWHERE, labels_BF.reshape(places_BF.shape))
        scores_BF = np.empty(places_BF.shape, dtype=np.float32)
        labels_BF = np.ascontiguousarray(labels_BF, dtype=np.int64)
        index.compute_distance_subset(
            len(queries_BP), faiss.swig_ptr(queries_BP), places_BF.shape[1], faiss.swig_ptr(scores_BF),
            faiss.swig_ptr(labels_BF),
        )  # fmt: skip
        scores_BF[places_BF < 0] = -np.inf
        return scores_BF

    def rows(self, rows: Any) -> np.ndarray:
        """Some of the vectors, float32."""
        return np.ascontiguousarray(self.vectors_NP[rows], dtype=np.float32)


class _Memory:
    """What numpy takes for an array: memory of a faiss index, which lives as long as the array does."""

    def __init__(self, index: Any, shape: tuple[int, int], dtype: "np.dtype[Any]") -> None:
        self.index = index
        num_bytes = shape[0] * shape[1] * dtype.itemsize
        address = faiss.rev_swig_ptr(index.codes.data(), num_bytes).ctypes.data if num_bytes else 0
        self.__array_interface__ = {"data": (address, False), "shape": shape, "typestr": dtype.str, "version": 3}


def write_flat(pieces_RP: Iterable[np.ndarray], path: Path, *, width: int) -> None:
    """Vectors as a file that faiss alone opens: exact inner products, the number of a vector is its place. All are in
    memory, as faiss writes no other way. Raises OSError."""
    index = faiss.IndexFlatIP(width)
    for piece_RP in pieces_RP:
        index.add(np.ascontiguousarray(piece_RP, dtype=np.float32))
    try:
        faiss.write_index(index, str(path))
    except RuntimeError as error:
        raise OSError(f"{path}: {error}") from error


def check_factory(spec: IndexSpec, *, num_passages: int, width: int) -> None:
    """Raises ConfigError, before anything is embedded, for a spec that cannot index a shard of so many passages."""
    factory = spec.factory
    if factory == AUTO:
        factory, _ = choose_factory(num_passages, width=width, train_passages=spec.train_passages)
    if not is_exact(factory, spec.vectors):
        _empty_index(factory, spec=spec, num_passages=num_passages, width=width)


def _empty_index(factory: str, *, spec: IndexSpec, num_passages: int, width: int) -> Any:
    least, given = least_passages(factory), min(num_passages, spec.train_passages)
    if given < least:
        where = f"a shard has {given}" if given == num_passages else f"index.train_passages gives it {given}"
        raise ConfigError(
            f"index.factory={factory!r} needs at least {least} passages to train it, but {where}: use fewer cells or "
            "shorter codes, fewer shards or more train_passages, or Flat"
        )
    try:
        index = faiss.index_factory(width, factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise ConfigError(
            f"index.factory={factory!r} is nothing that FAISS can make for vectors {width} wide and inner product "
            f"({_reason(error)}): see `realm-ds config explain index.factory`"
        ) from error
    if parameters := parameters_of(spec.search_parameters, factory):
        try:
            faiss.ParameterSpace().set_index_parameters(index, parameters)
        except RuntimeError as error:
            raise ConfigError(
                f"index.search_parameters={spec.search_parameters!r} is nothing that an index of "
                f"index.factory={factory!r} has ({_reason(error)}): give nprobe=16 for cells, efSearch=64 for HNSW, or "
                "auto"
            ) from error
    return index


def approximate(table: VectorTable, *, factory: str, spec: IndexSpec) -> Any:
    index = _empty_index(factory, spec=spec, num_passages=len(table), width=table.width)
    num_threads = faiss.omp_get_max_threads()
    try:
        if is_built_in_order(factory):
            faiss.omp_set_num_threads(1)  # The price of an index that is the same in every run.
        if not index.is_trained:
            index.train(table.sample(spec.train_passages))
        for part in table.parts():
            index.add(part)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"index.factory={factory!r} cannot index {len(table)} passages of width {table.width} ({_reason(error)}): "
            "use another, or Flat"
        ) from error
    finally:
        faiss.omp_set_num_threads(num_threads)
    return index


def _reason(error: Exception) -> str:
    """The end of faiss's message, which begins with its source line."""
    return str(error).strip().splitlines()[-1].rpartition("Error: ")[2] or str(error)


def on_gpu(index: Any, device: int | None, *, beside: Any) -> "_GpuFetcher | None":
    """A copy of the index on a GPU, and `beside` for what it cannot search; None where none is wanted, or faiss has
    none or not this kind of index on it."""
    if device is None or not hasattr(faiss, "StandardGpuResources") or not faiss.get_num_gpus():
        return None
    try:
        return _GpuFetcher(faiss.index_cpu_to_gpu(_gpu_resources(), device, index), beside=beside)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        log.info("this index is searched on the CPU: faiss has no such one for GPUs (%s)", reason)
        return None


class _GpuFetcher:
    """An index on a GPU, where faiss returns at most 2048 hits; for more, as `qa.retrieve` may want and many ties need,
    one in memory is asked."""

    MOST_HITS = 2048

    def __init__(self, index: Any, *, beside: Any) -> None:
        self._index, self._beside = index, beside

    def search(self, queries_BP: np.ndarray, num_hits: int) -> tuple[np.ndarray, np.ndarray]:
        is_on_gpu = num_hits <= self.MOST_HITS
        if not is_on_gpu:
            _tell_of_cpu(self.MOST_HITS)
        found: tuple[np.ndarray, np.ndarray] = (self._index if is_on_gpu else self._beside).search(queries_BP, num_hits)
        return found


@functools.cache
def _tell_of_cpu(most_hits: int) -> None:
    """Once in a process."""
    log.warning("searches for more than %d hits are made on the CPU: faiss returns no more on a GPU", most_hits)


@functools.cache
def _gpu_resources() -> Any:
    """One for the process: each sets more than a gigabyte of the GPU aside."""
    return faiss.StandardGpuResources()
