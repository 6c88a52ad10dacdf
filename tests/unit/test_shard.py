"""One shard, and shards merged, against brute force: ties, exclusion, too few passages, factories, faults."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realm_ds.data.records import NO_UID
from realm_ds.data.shard_writer import write_shards
from realm_ds.data.shards import open_shards
from realm_ds.errors import ConfigError, DataError, IndexFault
from realm_ds.index import faiss_index
from realm_ds.index import shard as shard_module
from realm_ds.index.exact import ExactSearch
from realm_ds.index.exclusion import exclude_nothing, exclude_passages
from realm_ds.index.factory import IndexSpec
from realm_ds.index.faiss_index import VectorTable
from realm_ds.index.merge import Candidates, merge, with_sent_tokens
from realm_ds.index.messages import NO_HIT, Reply
from realm_ds.index.passages import PassageShard, load_shard, take_ranges
from realm_ds.index.shard import BuiltShard, build_shard
from tests.support.index_cases import brute_force, make_passages, make_shards


def reply_of(passages: PassageShard, built: BuiltShard, queries: np.ndarray, *, num_hits: int, exclude: list[int]):
    hits = built.search(queries, num_hits=num_hits, exclusion=exclude_passages(np.array(exclude, dtype=np.int64)))
    titles, bodies, tokens = passages.gather(hits.places_BK)
    return Reply(
        request=0, step=0, version=0, search_ms=0.0, parked_ms=0.0, places_BK=hits.places_BK.astype(np.int32),
        uids_BK=hits.uids_BK, scores_BK=hits.scores_BK, title_lengths_BK=titles, body_lengths_BK=bodies, tokens=tokens,
    )  # fmt: skip


def build(passages: PassageShard, vectors: np.ndarray, *, version: int = 0, **spec: object) -> BuiltShard:
    made = IndexSpec(**spec)  # type: ignore[arg-type]
    return build_shard(passages, VectorTable.of(vectors, dtype=made.vectors), version=version, spec=made)


def search_all(shards, vectors: np.ndarray, queries: np.ndarray, *, num_hits: int, exclude: list[int]) -> Candidates:
    replies = []
    for passages in shards:
        built = build(passages, vectors[passages.start : passages.stop])
        replies.append(reply_of(passages, built, queries, num_hits=num_hits, exclude=exclude))
    return with_sent_tokens(merge(replies), replies, wait_s=0.0)


@st.composite
def cases(draw: st.DrawFn):
    num_passages = draw(st.integers(1, 60))
    uids = draw(st.lists(st.integers(1, 2**40), min_size=num_passages, max_size=num_passages, unique=True))
    seed, largest = draw(st.integers(0, 2**20)), draw(st.sampled_from([0, 1, 2, 50]))
    num_queries = draw(st.sampled_from([0, 1, 3, 24]))  # faiss takes another kernel from 20 queries on
    cuts = sorted(draw(st.sets(st.integers(1, max(1, num_passages - 1)), max_size=3))) if num_passages > 1 else []
    random = np.random.default_rng(seed)
    vectors = random.integers(-largest, largest + 1, size=(num_passages, 3)).astype(np.float32)
    queries = random.integers(-largest, largest + 1, size=(num_queries, 3)).astype(np.float32)
    exclude = [int(random.choice([NO_UID, 7, *uids])) for _ in range(num_queries)]
    return uids, cuts, vectors, queries, exclude, draw(st.integers(1, 70))


@settings(max_examples=150)
@given(cases())
def test_merged_shards_give_what_exact_search_over_the_union_gives(case):
    uids, cuts, vectors, queries, exclude, num_hits = case
    passages = make_passages(uids)
    found = search_all(make_shards(passages, cuts), vectors, queries, num_hits=num_hits, exclude=exclude)
    expected_uids, expected_scores = brute_force(queries, vectors, uids, num_hits=num_hits, exclude=exclude)
    assert found.uids_BK.tolist() == expected_uids
    assert found.scores_BK.tolist() == expected_scores
    by_uid = {passage.uid: passage for passage in passages}
    for query, row in enumerate(expected_uids):
        hits = found.hits(query)
        assert [hit.uid for hit in hits] == [uid for uid in row if uid != NO_HIT]
        assert [tuple(hit.title_ids) for hit in hits] == [by_uid[hit.uid].title_ids for hit in hits]
        assert [tuple(hit.body_ids) for hit in hits] == [by_uid[hit.uid].body_ids for hit in hits]


def test_the_order_of_replies_does_not_matter():
    uids = [5, 3, 9, 1, 7, 2]
    shards, vectors, queries = make_shards(make_passages(uids), [2, 3]), np.ones((6, 2), "f4"), np.ones((2, 2), "f4")
    replies = [
        reply_of(part, build(part, vectors[part.start : part.stop]), queries, num_hits=4, exclude=[0, 3])
        for part in shards
    ]  # fmt: skip
    assert merge(replies).uids_BK.tolist() == merge(replies[::-1]).uids_BK.tolist() == [[1, 2, 3, 5], [1, 2, 5, 7]]


def test_collapsed_vectors_are_settled_in_bounded_pieces(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shard_module, "FETCHED_AT_ONCE", 100)
    uids = list(range(400, 0, -1))
    built = build(make_shards(make_passages(uids), [])[0], np.ones((400, 4), "f4"))
    hits = built.search(np.ones((30, 4), "f4"), num_hits=3, exclusion=exclude_passages(np.full(30, 2)))
    assert hits.uids_BK.tolist() == 30 * [[1, 3, 4]]


@pytest.mark.parametrize("rerank", [0, 3])
@pytest.mark.parametrize("factory", ["IVF4,Flat", "SQ8", "PQ4x4", "HNSW8"])
def test_approximate_indexes_obey_exclusion_and_order(factory: str, rerank: int):
    random = np.random.default_rng(0)
    uids = random.permutation(500).tolist()
    uids[uids.index(0)] = 1000
    vectors = random.standard_normal((500, 8)).astype("f4")
    queries, part = vectors[:40], make_shards(make_passages(uids), [])[0]
    built = build(part, vectors, factory=factory, rerank=rerank)
    free = built.search(queries, num_hits=5, exclusion=exclude_nothing(40))
    barred = built.search(queries, num_hits=5, exclusion=exclude_passages(free.uids_BK[:, 0]))
    assert (barred.uids_BK != free.uids_BK[:, :1]).all()
    for uid_row, score_row in zip(free.uids_BK, free.scores_BK, strict=True):
        pairs = [(-score, uid) for uid, score in zip(uid_row, score_row, strict=True) if uid != NO_HIT]
        assert pairs == sorted(pairs)
    again = build(part, vectors, factory=factory, rerank=rerank).search(
        queries, num_hits=5, exclusion=exclude_nothing(40)
    )
    assert (again.uids_BK == free.uids_BK).all()
    assert (again.scores_BK == free.scores_BK).all()


def test_ranges_are_taken_in_order_empty_ones_included():
    flat = np.arange(20, dtype=np.uint16)
    taken = take_ranges(flat, np.array([7, 15, 3, 0, 3, 9]), np.array([0, 2, 0, 3, 2, 0]))
    assert taken.tolist() == [15, 16, 0, 1, 2, 3, 4]
    assert taken.dtype == np.uint16
    assert take_ranges(flat, np.array([], dtype=int), np.array([], dtype=int)).tolist() == []


def test_pairs_give_the_passages_back():
    passages = make_passages([4, 8, 15])
    part = make_shards(passages, [])[0]
    pairs = [(tuple(title), tuple(body)) for title, body in part.pairs(np.array([2, 0]))]
    assert pairs == [(p.title_ids, p.body_ids) for p in (passages[2], passages[0])]


def test_wrong_query_width_names_both_numbers():
    built = build(make_shards(make_passages([1]), [])[0], np.ones((1, 4), "f4"), version=6)
    with pytest.raises(IndexFault, match=r"queries are of shape \(2, 8\), .* index version 6 are 4 wide"):
        built.search(np.ones((2, 8), "f4"), num_hits=1, exclusion=exclude_nothing(2))
    with pytest.raises(IndexFault, match="2 queries came with 1 exclusions and num_hits=1"):
        built.search(np.ones((2, 4), "f4"), num_hits=1, exclusion=exclude_nothing(1))


def test_factory_that_cannot_work_is_a_config_error():
    part = make_shards(make_passages([1, 2, 3]), [])[0]
    with pytest.raises(ConfigError, match=r"index.factory='IVF64,Flat' needs at least 64 passages .* a shard has 3"):
        build(part, np.ones((3, 4), "f4"), factory="IVF64,Flat")
    with pytest.raises(
        ConfigError,
        match=r"index.factory='Nonsense' is nothing that FAISS can make for vectors 4 wide .*could not parse",
    ):
        build(part, np.ones((3, 4), "f4"), factory="Nonsense")
    with pytest.raises(
        ConfigError, match=r"index.search_parameters='nprobs=3' is nothing that an index of .* give nprobe=16"
    ):
        build(part, np.ones((3, 4), "f4"), factory="IVF2,Flat", search_parameters="nprobs=3")


def test_wrong_number_of_vectors():
    part = make_shards(make_passages([1, 2, 3]), [])[0]
    with pytest.raises(IndexFault, match="2 vectors for 3 passages"):
        build(part, np.ones((2, 4), "f4"))


def test_passages_the_shard_cannot_hold():
    with pytest.raises(DataError, match="no passage for the shard that starts at passage 5"):
        PassageShard.from_passages([], start=5)
    huge = [p.__class__(**{**p.__dict__, "body_ids": (70000,)}) for p in make_passages([3])]
    with pytest.raises(DataError, match="passage 3 .* outside 0..65535"):
        PassageShard.from_passages(huge, start=0)


def test_shards_are_loaded_from_the_corpus_and_too_many_are_refused(tmp_path: Path):
    passages = make_passages([5, 6, 7])
    write_shards(passages, tmp_path, kind="corpus", per_shard=2, tokenizer_fingerprint="f", source="s", settings={})
    corpus = open_shards(tmp_path, kind="corpus", fingerprint="f")
    parts = [load_shard(corpus, shard_rank=rank, num_shards=2) for rank in range(2)]
    assert [part.uids_N.tolist() for part in parts] == [[5], [6, 7]]
    assert [(part.start, part.stop) for part in parts] == [(0, 1), (1, 3)]
    with pytest.raises(ConfigError, match="index.num_shards=4 .* 3 passages"):
        load_shard(corpus, shard_rank=0, num_shards=4)
    longest = max(3 + len(passage.title_ids) + len(passage.body_ids) for passage in passages)
    assert len(load_shard(corpus, shard_rank=0, num_shards=1, max_tokens=longest)) == 3
    with pytest.raises(DataError, match=f"more than data.passage_tokens={longest - 1}; raise that, or"):
        load_shard(corpus, shard_rank=0, num_shards=1, max_tokens=longest - 1)


class Gpu:
    """faiss's index on a GPU, which refuses what faiss refuses there."""

    def __init__(self, vectors: np.ndarray) -> None:
        self.vectors, self.asked_for = vectors, list[int]()

    def search(self, queries: np.ndarray, num_hits: int) -> tuple[np.ndarray, np.ndarray]:
        assert num_hits <= 2048
        self.asked_for.append(num_hits)
        return ExactSearch(self.vectors).search(queries, num_hits)


def test_what_is_too_much_for_a_gpu_is_searched_exactly_on_the_cpu_and_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    passages = make_shards(make_passages(list(range(1, 3001))), [])[0]
    vectors, queries = (np.random.default_rng(0).standard_normal((num, 4)).astype("f4") for num in (3000, 3))
    table, gpu = VectorTable.of(vectors), Gpu(vectors)
    monkeypatch.setattr(faiss_index.faiss, "StandardGpuResources", object, raising=False)
    monkeypatch.setattr(faiss_index.faiss, "get_num_gpus", lambda: 1, raising=False)
    monkeypatch.setattr(faiss_index.faiss, "index_cpu_to_gpu", lambda resources, device, index: gpu, raising=False)
    monkeypatch.setattr(type(table.index), "search", None)  # several times slower than ours
    faiss_index._gpu_resources.cache_clear()
    faiss_index._tell_of_cpu.cache_clear()
    built = build_shard(passages, table, version=0, spec=IndexSpec(), device=0)
    for num_hits in (10, 2044, 2045, 3000):
        found = built.search(queries, num_hits=num_hits, exclusion=exclude_nothing(3))
        wanted, _ = brute_force(queries, vectors, passages.uids_N.tolist(), num_hits=num_hits, exclude=[NO_UID] * 3)
        assert found.uids_BK.tolist() == wanted
    assert gpu.asked_for == [14, 2048]
    assert caplog.messages == ["searches for more than 2048 hits are made on the CPU: faiss returns no more on a GPU"]
    faiss_index._gpu_resources.cache_clear()
