"""Builder ranks on loopback: every vector reaches the shard it belongs to, once; what is unwanted, stored or broken."""

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from realm_ds.comm.loopback import LoopbackHub, LoopbackMailbox
from realm_ds.comm.mailbox import Mailbox
from realm_ds.comm.waiting import Clock
from realm_ds.data.batches import Tokens
from realm_ds.data.shards import passage_range
from realm_ds.errors import ConfigError, DataError, IndexFault
from realm_ds.index.builder_rank import BuilderTotals, ShardRange, send_vectors
from realm_ds.index.messages import MESSAGES, BuildReport, Fetch, SnapshotChunk, SnapshotStart, Stop, Vectors
from realm_ds.index.passages import PassageShard
from realm_ds.index.range_embedder import MOST_WAITING, RangeEmbedder, load_pieces
from realm_ds.index.relay import Snapshot, snapshot_messages
from realm_ds.index.store import IndexStore
from realm_ds.index.tree import SnapshotTree
from tests.support.index_cases import SPECIAL, WIDTH, fake_embed, make_passages, snapshot_of, vectors_of
from tests.support.records import make_passage, write_corpus

PASSAGES = make_passages(list(range(100, 160)))
TRAINER, TIMEOUT_S = 0, 20.0
Embed = Callable[[Tokens], np.ndarray]


def make_embedder(
    start: int = 0, stop: int = len(PASSAGES), *, embed_factory: Callable[[bytes], Embed] = fake_embed,
    store: IndexStore | None = None, dtype: str = "fp32", piece_passages: int = 7,
) -> RangeEmbedder:  # fmt: skip
    firsts = range(start, stop, piece_passages)
    pieces = [
        PassageShard.from_passages(PASSAGES[first : min(first + piece_passages, stop)], start=first) for first in firsts
    ]
    return RangeEmbedder(
        pieces, embed_factory=embed_factory, special=SPECIAL, passage_tokens=64, width=WIDTH,
        dtype=dtype,  # type: ignore[arg-type]
        batch_tokens=64, num_threads=1, store=store,
    )  # fmt: skip


class BuilderWorld:
    """Builder ranks as threads; the test itself is trainer 0 and all shards. Leaving the `with` waits for them."""

    def __init__(self, *, num_builders: int = 1, num_shards: int = 2, message_bytes: int = 100, **embedder: object):
        builders = tuple(range(1, num_builders + 1))
        self.shards = tuple(range(num_builders + 1, num_builders + 1 + num_shards))
        self.tree = SnapshotTree(trainer=TRAINER, embedders=tuple(builders), others=tuple(self.shards))
        hub = LoopbackHub(1 + num_builders + num_shards, MESSAGES)
        self.trainer = hub.mailbox(TRAINER)
        self.shard_boxes = [hub.mailbox(rank) for rank in self.shards]
        self.ranges = [passage_range(len(PASSAGES), shard, num_shards) for shard in range(num_shards)]
        self.totals: dict[int, BuilderTotals] = {}
        self._tables: dict[tuple[int, int], np.ndarray] = {}
        self._errors: list[BaseException] = []
        self._threads = [
            threading.Thread(
                target=self._run,
                args=(hub.mailbox(rank), number, message_bytes, passage_range(len(PASSAGES), number, num_builders)),
                kwargs=embedder,
            )
            for number, rank in enumerate(builders)
        ]

    def _run(
        self, mailbox: Mailbox, number: int, message_bytes: int, builder_range: tuple[int, int], **options: object
    ) -> None:
        ranges = zip(self.shards, self.ranges, strict=True)
        try:
            self.totals[number] = send_vectors(
                mailbox, embedder=make_embedder(*builder_range, **options),  # type: ignore[arg-type]
                builder_rank=number, tree=self.tree, message_bytes=message_bytes, timeout_s=TIMEOUT_S,
                build_timeout_s=TIMEOUT_S,
                shards=[ShardRange(world_rank=rank, start=start, stop=stop) for rank, (start, stop) in ranges],
            )  # fmt: skip
        except BaseException as error:
            self._errors.append(error)

    def __enter__(self) -> "BuilderWorld":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        self.stop()
        self.wait()
        if kind is None and self._errors:
            raise self._errors[0]

    def wait(self) -> None:
        for thread in self._threads:
            thread.join(TIMEOUT_S)
            assert not thread.is_alive()

    def launch(self, version: int) -> None:
        data = snapshot_of(version)
        for message in snapshot_messages(data, version=version, step=10 * version, chunk_bytes=5):
            self.trainer.send(message, to=self.tree.root)

    def stop(self) -> None:
        for rank in self.tree.embedders:
            self.trainer.send(Stop(), to=rank)

    def receive(self, shard: int, version: int) -> np.ndarray:
        """All vectors of a shard, of which none may come twice; builders need not be at the same version."""
        start, _ = self.ranges[shard]
        while np.isnan(self._table(shard, version)).any():
            message = self.next_vectors(shard)
            assert (message.step, message.shard) == (10 * message.version, shard)
            table_NP, first = self._table(shard, message.version), message.start - start
            rows_NP = table_NP[first : first + len(message.vectors_NP)]
            assert np.isnan(rows_NP).all()
            rows_NP[:] = message.vectors_NP
        return self._table(shard, version)

    def _table(self, shard: int, version: int) -> np.ndarray:
        start, stop = self.ranges[shard]
        return self._tables.setdefault((shard, version), np.full((stop - start, WIDTH), np.nan))

    def next_vectors(self, shard: int) -> Vectors:
        return self.shard_boxes[shard].receive(Vectors, source=None, timeout_s=TIMEOUT_S, waiting_for="vectors")

    def drain(self, mailbox: Mailbox) -> list[object]:
        messages = []
        while (arrived := mailbox.poll()) is not None:
            messages.append(arrived[1])
        return messages


def launch_and_wait(*versions: int, **embedder: object) -> None:
    """Until the builder ends by itself."""
    with BuilderWorld(**embedder) as world:  # type: ignore[arg-type]
        for version in versions:
            world.launch(version)
        world.wait()


@pytest.mark.parametrize(("num_builders", "num_shards"), [(1, 1), (1, 3), (3, 1), (4, 3), (5, 9), (7, 2)])
def test_every_vector_reaches_its_shard_once_whatever_the_split(num_builders: int, num_shards: int) -> None:
    with BuilderWorld(num_builders=num_builders, num_shards=num_shards) as world:
        for version in (3, 4):
            world.launch(version)
        for version in (3, 4):
            expected = vectors_of(PASSAGES, version)
            for shard, (start, stop) in enumerate(world.ranges):
                assert (world.receive(shard, version) == expected[start:stop]).all()
    for mailbox in world.shard_boxes:
        kinds = Counter(type(message) for message in world.drain(mailbox))
        assert kinds == {SnapshotStart: 2, Stop: num_builders} or kinds == {Stop: num_builders}
    arrived = world.drain(world.trainer)
    reports = [message for message in arrived if isinstance(message, BuildReport)]
    done = [report for report in reports if report.passages_done == report.passages_total]
    assert sorted(report.version for report in done) == [3] * num_builders + [4] * num_builders
    assert sum(report.passages_total for report in done) == 2 * len(PASSAGES)
    assert sum(totals.passages_sent for totals in world.totals.values()) == 2 * len(PASSAGES)
    assert {totals.versions_sent for totals in world.totals.values()} == {2}


@pytest.mark.parametrize(("message_bytes", "rows"), [(100, 6), (1, 1), (10**6, 7)])
def test_messages_are_as_large_as_said_and_of_one_passage_at_least(message_bytes: int, rows: int) -> None:
    with BuilderWorld(num_shards=1, message_bytes=message_bytes) as world:
        world.launch(0)
        first = world.next_vectors(0)
        assert (first.start, first.vectors_NP.shape, first.vectors_NP.dtype) == (0, (rows, WIDTH), np.float32)


def test_vectors_travel_as_shards_keep_them() -> None:
    with BuilderWorld(num_shards=1, message_bytes=100, dtype="fp16") as world:
        world.launch(0)
        first = world.next_vectors(0)
    assert (first.vectors_NP.shape, first.vectors_NP.dtype) == ((7, WIDTH), np.float16)  # 12 fit; a piece has 7
    assert (first.vectors_NP == vectors_of(PASSAGES[:7], 0)).all()


def test_vectors_too_large_for_fp16_end_the_rank_and_say_so() -> None:
    def large(snapshot: bytes) -> Embed:
        return lambda tokens: np.full((len(tokens.ids_BL), WIDTH), 1e6, np.float32)

    with pytest.raises(IndexFault, match=r"passages 0 to 59 for index version 2 \(step 20\).*not finite as float16"):
        launch_and_wait(2, dtype="fp16", embed_factory=large)


def test_a_version_no_longer_wanted_is_given_up_and_the_next_are_sent() -> None:
    release, began = threading.Event(), threading.Event()

    def factory(snapshot: bytes) -> Embed:
        embed = fake_embed(snapshot)

        def slowly(tokens: Tokens) -> np.ndarray:
            if snapshot == snapshot_of(0):
                began.set()
                assert release.wait(TIMEOUT_S)
            return embed(tokens)

        return slowly

    with BuilderWorld(num_shards=1, embed_factory=factory) as world:
        world.launch(0)
        assert began.wait(TIMEOUT_S)
        world.launch(1)
        world.launch(2)
        while world.shard_boxes[0].receive(
            SnapshotStart, source=1, timeout_s=TIMEOUT_S, waiting_for="a launch"
        ).version < 2:  # fmt: skip
            pass
        release.set()
        for version in (1, 2):
            assert (world.receive(0, version) == vectors_of(PASSAGES, version)).all()
    assert world.totals[0].versions_sent == 2


def test_vectors_on_disk_are_sent_instead_of_embedded(tmp_path: Path) -> None:
    """Whichever shards wrote them: the parts of two shards are read by three builders."""
    store = IndexStore(tmp_path, corpus_sha256="c")
    sha256 = next(iter(snapshot_messages(snapshot_of(0), version=0, step=0, chunk_bytes=5))).sha256  # type: ignore[union-attr]
    vectors_NP = vectors_of(PASSAGES, 0)
    for start, stop in ((0, 30), (30, 60)):
        store.save(vectors_NP[start:stop] + 1, version=0, snapshot_sha256=sha256, start=start)
    with BuilderWorld(num_builders=3, num_shards=1, store=IndexStore(tmp_path, corpus_sha256="c")) as world:
        world.launch(0)
        assert (world.receive(0, 0) == vectors_NP + 1).all()
        world.launch(1)
        assert (world.receive(0, 1) == vectors_of(PASSAGES, 1)).all()


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ValueError("weights of another model"), "failed: ValueError: weights of another model"),
        (DataError("snapshot holds nothing"), "failed: snapshot holds nothing"),
    ],
)
def test_a_failure_to_embed_ends_the_rank_with_version_and_passages(error: Exception, says: str) -> None:
    def broken(snapshot: bytes) -> Embed:
        if snapshot == snapshot_of(1):
            raise error
        return fake_embed(snapshot)

    with pytest.raises((IndexFault, DataError), match=rf"passages 0 to 59 for index version 1 \(step 10\) {says}"):
        launch_and_wait(0, 1, embed_factory=broken)


def test_who_leaves_while_embedding_goes_on_leaves_at_the_next_batch() -> None:
    began = threading.Event()

    def factory(snapshot: bytes) -> Embed:
        embed = fake_embed(snapshot)

        def tells(tokens: Tokens) -> np.ndarray:
            began.set()
            return embed(tokens)

        return tells

    with BuilderWorld(num_builders=2, embed_factory=factory) as world:
        world.launch(0)
        assert began.wait(TIMEOUT_S)
    for mailbox in world.shard_boxes:
        messages = world.drain(mailbox)
        stops = [place for place, message in enumerate(messages) if isinstance(message, Stop)]
        assert len(stops) == 2
        assert stops[-1] == len(messages) - 1


def test_the_thread_waits_for_what_it_has_embedded_to_be_taken() -> None:
    embedder = make_embedder(piece_passages=5)
    try:
        embedder.submit(Snapshot(version=0, step=0, sha256="", chunks=[snapshot_of(0)]))
        taken = [take(embedder) for _ in range(2)]
        assert [piece.start for piece in taken] == [0, 5]
        threading.Event().wait(0.05)
        progress = embedder.progress
        assert progress is not None
        assert progress.passages_done <= 5 * (2 + MOST_WAITING + 1)
    finally:
        embedder.close(TIMEOUT_S)


def take(embedder: RangeEmbedder):
    waited = threading.Event()
    for _ in range(2000):
        if (piece := embedder.take()) is not None:
            return piece
        waited.wait(0.005)
    raise AssertionError("nothing was embedded")


class FastClock:
    """Time passes by what is slept, times 1000."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def clock(self) -> Clock:
        return Clock(now=lambda: self.now_s, sleep=self.sleep)

    def sleep(self, seconds: float) -> None:
        self.now_s += 1000 * seconds


def run_alone(messages: Sequence[tuple[int, object]], *, timeout_s: float = 5.0, rank: int = 1) -> None:
    """A builder, first or second of two, that finds these messages and then hears nothing more."""
    clock = FastClock().clock()
    hub = LoopbackHub(4, MESSAGES, clock=clock)
    for source, message in messages:
        hub.mailbox(source).send(message, to=rank)
    tree = SnapshotTree(trainer=TRAINER, embedders=(1, 2), others=(3,))
    send_vectors(
        hub.mailbox(rank), embedder=make_embedder(0, 30), builder_rank=rank - 1, tree=tree, message_bytes=100,
        shards=[ShardRange(world_rank=3, start=0, stop=60)], timeout_s=timeout_s, build_timeout_s=9.0, clock=clock,
    )  # fmt: skip


def start_of(version: int) -> SnapshotStart:
    return SnapshotStart(version=version, step=7, num_bytes=4, num_chunks=2, sha256="x")


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ([], r"builder 0: no index version was launched within 9 s: trainer 0 \(world rank 0\) hangs or is gone"),
        ([(0, start_of(3))], r"nothing came from rank 0 for 5 s, in the middle of .* version 3 \(step 7\): it hangs"),
        ([(3, Stop())], "builder 0: Stop from rank 3, which has nothing to say to a builder or has taken leave"),
        ([(0, Fetch(wants_vectors=0, places_H=np.zeros(1, "i4")))], "Fetch from rank 0 is not for a builder"),
        ([(2, start_of(0))], "SnapshotStart from rank 2, which has nothing to say"),
    ],
)  # fmt: skip
def test_silence_and_strangers_are_faults_that_name_who(messages: list[tuple[int, object]], says: str) -> None:
    with pytest.raises(IndexFault, match=says):
        run_alone(messages)


def test_a_shard_that_takes_no_vectors_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def stuck(mailbox: LoopbackMailbox, timeout_s: float) -> None:
        raise IndexFault(f"waited {timeout_s:g} s for rank(s) 3 to take what rank {mailbox.rank} sent")

    monkeypatch.setattr(LoopbackMailbox, "flush", stuck)
    says = r"builder 0: vectors of passages 0 to 6 for index version 4 \(step 40\): .*rank\(s\) 3 .* see its log"
    with pytest.raises(IndexFault, match=says):
        launch_and_wait(4)


def test_a_failure_of_a_version_already_given_up_is_told_too() -> None:
    """Since the thread ends with it, and would embed nothing more."""
    embedder = make_embedder(embed_factory=lambda snapshot: lambda tokens: np.ones((1, 1)))
    embedder.give_up_before(7)
    embedder._jobs.put("no snapshot")  # type: ignore[arg-type]
    with pytest.raises(IndexFault, match=r"for index version -1 \(step -1\) failed: AttributeError"):
        take(embedder)
    embedder.close(TIMEOUT_S)


def test_versions_must_follow_one_another() -> None:
    one = [*snapshot_messages(b"abcd", version=1, step=1, chunk_bytes=4)]
    with pytest.raises(IndexFault, match="index version 3 is launched after 1; 2 was due: trainer 0 does not follow"):
        run_alone([*((0, message) for message in one), (0, start_of(3))])


def test_a_builder_waits_for_its_parent_to_take_leave_but_not_for_ever() -> None:
    """Trainer 0's word may come before the last chunk of a snapshot, which takes another way."""
    run_alone([(0, Stop()), (1, start_of(0)), (1, chunk_of(0)), (1, Stop())], rank=2)
    with pytest.raises(IndexFault, match=r"builder 1: waited 5 s for rank\(s\) \[1\] to take leave too"):
        run_alone([(0, Stop())], rank=2)


def chunk_of(version: int) -> SnapshotChunk:
    _, chunk = snapshot_messages(b"ab", version=version, step=7, chunk_bytes=2)
    assert isinstance(chunk, SnapshotChunk)
    return chunk


def test_the_corpus_is_dealt_out_in_pieces(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path, [make_passage(number) for number in range(11)])

    def ranges(builder_rank: int, num_builders: int) -> list[tuple[int, int]]:
        pieces = load_pieces(
            corpus, builder_rank=builder_rank, num_builders=num_builders, max_tokens=16, piece_passages=4
        )
        assert [uid for piece in pieces for uid in piece.uids_N] == list(
            range(pieces[0].start + 1, pieces[-1].stop + 1)
        )
        return [(piece.start, piece.stop) for piece in pieces]

    assert ranges(0, 1) == [(0, 4), (4, 8), (8, 11)]
    assert ranges(0, 2) == [(0, 4), (4, 5)]
    assert ranges(1, 2) == [(5, 9), (9, 11)]
    with pytest.raises(
        ConfigError, match=r"index.builders=12 is more than the 11 passages .* index.builders to at most 11"
    ):
        ranges(0, 12)
