"""Factory strings: what they need, what `auto` picks, and every kind of index against exact search."""

import faiss
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from realm_ds.config.index import IndexConfig
from realm_ds.errors import ConfigError
from realm_ds.index.exclusion import exclude_nothing, exclude_passages
from realm_ds.index.factory import (
    IndexSpec,
    audits_of,
    choose_factory,
    code_bytes,
    is_exact,
    least_passages,
    parameters_of,
    spec_of,
)
from realm_ds.index.faiss_index import VectorTable
from realm_ds.index.messages import NO_HIT
from realm_ds.index.shard import BuiltShard, build_shard
from tests.support.index_cases import brute_force, make_passages, make_shards

FACTORIES = ["Flat", "SQfp16", "SQ8", "SQ4", "IVF8,Flat", "IVF8,SQ8", "IVF8,PQ4x4", "PQ4x4", "OPQ4,PQ4x4", "HNSW8",
             "IVF8_HNSW4,Flat", "PCA4,Flat"]  # fmt: skip
WIDTH = 8


def build(vectors: np.ndarray, /, **spec: object) -> BuiltShard:
    made = IndexSpec(**spec)  # type: ignore[arg-type]
    part = make_shards(make_passages(list(range(1, len(vectors) + 1))), [])[0]
    return build_shard(part, VectorTable.of(vectors, dtype=made.vectors), version=0, spec=made)


@pytest.mark.parametrize(
    ("factory", "least"),
    [("Flat", 1), ("SQ8", 1), ("HNSW32", 1), ("IVF64,Flat", 64), ("IVF16,PQ4", 256), ("IVF512,PQ4x4", 512),
     ("PQ4x5", 32), ("OPQ4,PQ4x4", 256), ("PCA4,Flat", 4), ("IVF8,PQ4x4fs", 16)],
)  # fmt: skip
def test_the_number_of_passages_that_an_error_names_would_do(factory: str, least: int):
    assert least_passages(factory) == least
    random = np.random.default_rng(0)
    build(random.standard_normal((max(least, 2), WIDTH)).astype("f4"), factory=factory)
    if least > 1:
        with pytest.raises(
            ConfigError, match=f"needs at least {least} passages to train it, but a shard has {least - 1}"
        ):
            build(random.standard_normal((least - 1, WIDTH)).astype("f4"), factory=factory)


@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize("vectors_type", ["fp32", "fp16"])
def test_every_factory_that_looks_everywhere_and_reranks_finds_what_exact_search_finds(factory, vectors_type):
    random = np.random.default_rng(1)
    vectors = random.standard_normal((400, WIDTH)).astype(np.float16).astype(np.float32)
    queries, exclude = random.standard_normal((30, WIDTH)).astype("f4"), random.integers(0, 400, size=30)
    wide = {"IVF": "nprobe=8", "HNSW": "efSearch=400"}
    parameters = next((text for name, text in wide.items() if factory.startswith(name)), "auto")
    built = build(
        vectors, factory=factory, vectors=vectors_type, rerank=100, search_parameters=parameters
    )  # all of them are re-ranked
    found = built.search(queries, num_hits=5, exclusion=exclude_passages(exclude))
    uids = list(range(1, 401))
    expected, scores = brute_force(queries, vectors, uids, num_hits=5, exclude=exclude.tolist())
    assert found.uids_BK.tolist() == expected
    np.testing.assert_allclose(found.scores_BK, scores, rtol=1e-5)
    audited = built.search(queries, num_hits=5, exclusion=exclude_passages(exclude), is_audit=True)
    assert audited.uids_BK.tolist() == expected


@pytest.mark.parametrize("factory", ["SQ4", "IVF8,PQ4x4", "PQ4x4"])
def test_reranking_finds_more_than_the_index_alone(factory: str):
    random = np.random.default_rng(2)
    vectors, queries = (random.standard_normal((rows, WIDTH)).astype("f4") for rows in (2000, 64))
    expected, _ = brute_force(queries, vectors, list(range(1, 2001)), num_hits=5, exclude=64 * [0])

    def recall(rerank: int) -> float:
        built = build(
            vectors, factory=factory, rerank=rerank, search_parameters="nprobe=8" if "IVF" in factory else "auto"
        )
        found = built.search(queries, num_hits=5, exclusion=exclude_nothing(64)).uids_BK
        return sum(len(set(row) & set(best)) for row, best in zip(found.tolist(), expected, strict=True)) / (5 * 64)

    assert recall(0) + 0.1 < recall(8) <= 1.0


@settings(max_examples=60)
@given(st.integers(0, 2**20), st.integers(1, 70), st.integers(1, 40), st.sampled_from(["fp32", "fp16"]))
def test_an_exact_answer_does_not_depend_on_what_else_is_in_the_batch(seed, num_queries, num_hits, vectors_type):
    """The ground for searching waiting requests together: to the bit, whichever kernel faiss takes."""
    random = np.random.default_rng(seed)
    vectors = random.standard_normal((300, 24)).astype("f4")
    queries = random.standard_normal((num_queries, 24)).astype("f4")
    part = make_shards(make_passages(list(range(1, 301))), [])[0]
    built = build_shard(
        part, VectorTable.of(vectors, dtype=vectors_type), version=0, spec=IndexSpec(vectors=vectors_type)
    )
    exclude = random.integers(0, 301, size=num_queries)
    together = built.search(queries, num_hits=num_hits, exclusion=exclude_passages(exclude))
    cuts = sorted(random.integers(0, num_queries, size=3).tolist())
    for start, stop in zip([0, *cuts], [*cuts, num_queries], strict=True):
        alone = built.search(queries[start:stop], num_hits=num_hits, exclusion=exclude_passages(exclude[start:stop]))
        assert alone.uids_BK.tobytes() == together.uids_BK[start:stop].tobytes()
        assert alone.scores_BK.tobytes() == together.scores_BK[start:stop].tobytes()


def test_a_table_is_one_piece_of_memory_that_outlives_its_owner():
    table = VectorTable(5, 3, dtype="fp16")
    view = table.vectors_NP
    view[:] = np.arange(15).reshape(5, 3)
    assert table.scores(np.array([[1, 0, 0]], "f4"), np.array([[0, 4, -1]])).tolist() == [[0.0, 12.0, -np.inf]]
    del table
    assert view.sum() == 105


def test_samples_are_the_same_in_every_run_and_of_everything():
    table = VectorTable.of(np.arange(1000, dtype="f4")[:, None])
    sample = table.sample(100)[:, 0]
    assert sample.tolist() == VectorTable.of(np.arange(1000, dtype="f4")[:, None]).sample(100)[:, 0].tolist()
    assert (np.diff(sample) > 0).all()
    assert sample.min() < 100 < 900 < sample.max()
    assert len(table.sample(2000)) == 1000


@pytest.mark.parametrize(
    ("num_passages", "factory"),
    [(1, "Flat"), (1_000_000, "Flat"), (1_000_001, "IVF4096,Flat"), (20_000_000, "IVF4096,PQ32")],
)
def test_auto_goes_by_the_size_of_the_shard(num_passages: int, factory: str):
    chosen, reason = choose_factory(num_passages, width=128)
    assert chosen == factory
    assert f"{num_passages:,} passages" in reason
    assert least_passages(chosen) <= num_passages


def test_auto_is_logged_with_its_reason(caplog: pytest.LogCaptureFixture):
    with caplog.at_level("INFO"):
        assert build(np.ones((3, 2), "f4"), factory="auto").is_exact
    assert "index.factory auto is Flat: 3 passages are few enough to look at all of them" in caplog.text


def test_only_what_is_approximate_is_audited():
    assert audits_of(IndexConfig(audit_every=7), num_passages=10) == 0
    assert audits_of(IndexConfig(audit_every=7, factory="SQ8"), num_passages=10) == 7
    assert audits_of(IndexConfig(audit_every=7, factory="auto", num_shards=2), num_passages=2_000_000) == 0
    assert audits_of(IndexConfig(audit_every=7, factory="auto", num_shards=2), num_passages=2_000_001) == 7


@pytest.mark.parametrize("factory", [*FACTORIES, "PQ8x4", "RQ2x4", "NSG8", "HNSW8,SQ4", "PCA4,SQ8", "HNSW"])
def test_bytes_of_a_passage_are_those_that_faiss_adds(factory: str):
    vectors_NP = np.random.default_rng(0).standard_normal((400, 8)).astype("f4")
    sizes = []
    for number in (200, 400):
        index = faiss.index_factory(8, factory, faiss.METRIC_INNER_PRODUCT)
        index.train(vectors_NP)
        index.add(vectors_NP[:number])
        sizes.append(len(faiss.serialize_index(index)))
    assert (sizes[1] - sizes[0]) / 200 == pytest.approx(code_bytes(factory, 8), rel=0.06)


def test_what_is_exact_and_how_wide_auto_looks():
    assert is_exact("Flat", "fp32")
    assert is_exact("Flat", "fp16")
    assert is_exact("SQfp16", "fp16")
    assert not is_exact("SQfp16", "fp32")
    assert not is_exact("IVF8,Flat", "fp32")
    assert parameters_of("auto", "OPQ8,IVF64,PQ8") == "nprobe=8"
    assert parameters_of("auto", "IVF4,Flat") == "nprobe=1"
    assert parameters_of("auto", "HNSW32") == "efSearch=64"
    assert parameters_of("auto", "SQ8") == ""
    assert parameters_of("nprobe=3", "IVF4,Flat") == "nprobe=3"
    assert not spec_of(IndexConfig(rerank=0, audit_every=0)).keeps_exact
    assert spec_of(IndexConfig(rerank=0, audit_every=5)).keeps_exact


@pytest.mark.gpu
@pytest.mark.skipif(not hasattr(faiss, "StandardGpuResources"), reason="this faiss has no GPU part (faiss-gpu has)")
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("factory", ["Flat", "IVF8,Flat", "SQ8", "HNSW8"])
@pytest.mark.parametrize("vectors_type", ["fp32", "fp16"])
def test_an_index_on_a_gpu_finds_what_one_in_memory_finds(factory: str, vectors_type):
    random = np.random.default_rng(3)
    vectors, queries = (random.standard_normal((rows, WIDTH)).astype("f4") for rows in (2000, 64))
    part = make_shards(make_passages(list(range(1, 2001))), [])[0]
    parameters = "nprobe=8" if "IVF" in factory else "auto"
    spec = IndexSpec(factory=factory, search_parameters=parameters, rerank=8, vectors=vectors_type)
    here, there = (
        build_shard(part, VectorTable.of(vectors, dtype=vectors_type), version=0, spec=spec, device=device)
        for device in (None, 0)
    )
    answers = [index.search(queries, num_hits=5, exclusion=exclude_nothing(64)) for index in (here, there)]
    assert answers[0].uids_BK.tolist() == answers[1].uids_BK.tolist()
    assert answers[0].scores_BK.tobytes() == answers[1].scores_BK.tobytes()  # both are of the table in memory


def test_cells_that_hold_too_few_are_no_reason_to_answer_less():
    """One cell in 64 holds some 6 of 400 passages: for 20 hits all are looked at, since the exact vectors are there."""
    random = np.random.default_rng(4)
    vectors, queries = (random.standard_normal((rows, WIDTH)).astype("f4") for rows in (400, 9))
    built = build(vectors, factory="IVF64,Flat", search_parameters="nprobe=1")
    found = built.search(queries, num_hits=20, exclusion=exclude_nothing(9))
    expected, _ = brute_force(queries, vectors, list(range(1, 401)), num_hits=20, exclude=9 * [0])
    assert found.uids_BK.tolist() == expected
    alone = build(vectors, factory="IVF64,Flat", search_parameters="nprobe=1", rerank=0, keeps_exact=False)
    assert (alone.search(queries, num_hits=20, exclusion=exclude_nothing(9)).uids_BK[:, -1] == NO_HIT).all()


def test_too_few_passages_to_train_with_name_the_setting():
    vectors = np.random.default_rng(5).standard_normal((100, WIDTH)).astype("f4")
    with pytest.raises(
        ConfigError, match=r"needs at least 64 passages to train it, but index\.train_passages gives it 50"
    ):
        build(vectors, factory="IVF64,Flat", train_passages=50)
