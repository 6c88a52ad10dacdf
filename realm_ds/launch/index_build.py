"""`realm-ds index build`: a corpus embedded by the passage tower of an export, without a training run.

In one process, or by all ranks of a world, each its own range of the corpus. Passages are embedded and written part by
part: what memory holds is bounded by the part, and a build that was killed goes on with the parts that are missing.
"""

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from realm_ds.comm.roles import INDEX
from realm_ds.comm.world import World, is_launched, join_world, singleton, start_mpi
from realm_ds.config.load import RUN_CONFIG, dump, load
from realm_ds.config.schema import RealmConfig
from realm_ds.data.shards import Shards, open_shards, passage_range, refuse_long_passages
from realm_ds.data.tokenizer import Tokenizer, load_tokenizer
from realm_ds.errors import CheckpointError, ConfigError
from realm_ds.eval.corpus import embed_with
from realm_ds.files import write_durably
from realm_ds.index.embedding import Embed, ShardEmbedder
from realm_ds.index.factory import spec_of
from realm_ds.index.faiss_index import check_factory
from realm_ds.index.passages import PassageShard
from realm_ds.index.store import SNAPSHOT_FILE, IndexStore, PartFault, stored_parts, stored_versions, version_folder
from realm_ds.launch.failures import forget_last_world
from realm_ds.launch.index_store import Card, Ranges, gaps, joined, read_card, refuse_other_folder, write_card
from realm_ds.launch.index_towers import TowerSource, check_towers, device_for, load_tower, look_at_towers
from realm_ds.launch.local import run_world, world_command
from realm_ds.launch.rank import as_rank, run_as_rank
from realm_ds.models.names import PASSAGE_TOWER
from realm_ds.models.towers import DTYPES
from realm_ds.observe.progress import Bar, Progress, RunFollower, size_text
from realm_ds.tether import TAG_VARIABLE

log = logging.getLogger(__name__)

PART_PASSAGES = 65_536
VERSION = 0
"""An index that stands alone is of one pair of towers; it has one version."""
STAGE = "index"
"""Of the ranks' events, and what they do in their logs."""
TELL_EVERY_S = 1.0

OnDone = Callable[[int], None]
"""Told how many of a rank's passages are there."""


@dataclass(frozen=True, kw_only=True)
class BuildPlan:
    """What is to be built, opened and checked."""

    config: RealmConfig
    out: Path
    towers: TowerSource
    tokenizer: Tokenizer
    corpus: Shards
    part_passages: int
    """Passages of a part: at most so many are embedded again after a kill."""

    @property
    def card(self) -> Card:
        return Card(
            corpus=str(self.config.data.corpus), corpus_sha256=self.corpus.digest, num_passages=self.corpus.count,
            tokenizer=str(self.config.data.tokenizer), tokenizer_fingerprint=self.tokenizer.fingerprint,
            towers=str(self.towers.path), towers_sha256=self.towers.sha256, step=self.towers.step,
            width=self.towers.width, dtype=self.config.index.vectors, factory=self.config.index.factory,
        )  # fmt: skip

    @property
    def vector_bytes(self) -> int:
        """Of one passage, on disk and in an index that keeps them whole."""
        return self.towers.width * (2 if self.config.index.vectors == "fp16" else 4)


def build_verb(
    *, source: str | None, run: Path | None, out: Path, tower: Path | None, overrides: Sequence[str], processes: int,
    part_passages: int, dry_run: bool,
) -> None:  # fmt: skip
    """What the command line asks for: build, or say what that would take."""
    make_plan = partial(
        open_plan, source=source, run=run, out=out, tower=tower, overrides=overrides, part_passages=part_passages
    )  # fmt: skip
    if dry_run:
        print(describe_plan(make_plan(), processes=processes))
    else:
        build_index(make_plan, out=out, processes=processes)


def build_index(make_plan: Callable[[], BuildPlan], *, out: Path, processes: int) -> None:
    """Build an index from here, in this process or in a world of `processes`; or take part, if a launcher started us.

    Raises ConfigError, DataError or CheckpointError for what cannot work, LaunchError when a rank dies.
    """
    if is_launched(os.environ):
        run_as_rank(out, lambda: _take_part(make_plan))
        return
    plan = make_plan()
    _range_of(plan, 0, processes)  # before anything is written, if there are too few passages for that
    prepare_folder(plan)
    with Progress() as progress:
        bar = progress.stage(f"index in {out}", total=plan.corpus.count)
        if processes == 1:
            embed_rest(plan, singleton(), on_done=_Pace(bar).update)
        else:
            bar.update(now="starting processes")
            poll = _BuildFollower(out, stage=STAGE, bar=bar).poll
            run_world(rank_arguments(plan), processes=processes, run_folder=out, on_poll=poll)
        bar.finish(f'{plan.corpus.count:,} passages: realm-ds index search {out} "..."')


def open_plan(
    *, source: str | None, run: Path | None, out: Path, tower: Path | None, overrides: Sequence[str],
    part_passages: int = PART_PASSAGES,
) -> BuildPlan:  # fmt: skip
    """Look at all that a build reads before anything is started for it.

    Settings come from `source`, from a training run, or from the build in `out` that is to be finished.
    """
    if run is not None and source is not None:
        raise ConfigError(f"--run {run} and --config {source} both give the settings: leave one of them out")
    if source is None:
        source = str(run) if run is not None else str(out) if (out / RUN_CONFIG).is_file() else None
    config = load(source, overrides)
    if tower is None and run is not None:
        tower = _newest_snapshot(run)
    card = read_card(out)  # of a build that is to be finished: it says what the config may not
    path = tower or config.model.start_from or (Path(card.towers) if card else None)
    if path is None:
        raise ConfigError(
            "no towers to embed with: name an export folder with --tower runs/pretrain/export or model.start_from=..., "
            "or a training run with --run"
        )
    tokenizer = load_tokenizer(config.data.tokenizer)
    corpus = open_shards(
        config.data.corpus, kind="corpus", fingerprint=tokenizer.fingerprint, timeout_s=config.runtime.wait_timeout_s
    )
    refuse_long_passages(corpus, max_tokens=config.data.passage_tokens)
    found = look_at_towers(path)
    check_towers(found, config, tokenizer)
    # It will be searched by one shard or by several: what one of all passages cannot be, none can.
    check_factory(spec_of(config.index), num_passages=corpus.count, width=found.width)
    return BuildPlan(
        config=config, out=out, towers=found, tokenizer=tokenizer, corpus=corpus, part_passages=part_passages
    )  # fmt: skip


def prepare_folder(plan: BuildPlan) -> None:
    """Write index.json and config.yaml. Raises ConfigError for a folder that holds anything but this very index."""
    there = refuse_other_folder(plan.out)
    if there is not None:
        old, new = asdict(there), asdict(plan.card)
        # Where things are, and how they will be searched, may change; what they are may not.
        fixed = ("corpus_sha256", "tokenizer_fingerprint", "towers_sha256", "width", "dtype")
        changed = [
            f"{name} was {_short(old[name])}, now {_short(new[name])}" for name in fixed if old[name] != new[name]
        ]
        if changed:
            raise ConfigError(
                f"{plan.out} holds an index of something else ({'; '.join(changed)}): name another folder with --out, "
                "or remove that one"
            )
    write_durably(plan.out / RUN_CONFIG, dump(plan.config))
    write_card(plan.out, plan.card)


def embed_rest(plan: BuildPlan, world: World, *, on_done: OnDone) -> None:
    """Embed and write what no whole part holds yet of this rank's range of the corpus."""
    start, stop = _range_of(plan, world.world_rank, world.world_size)
    missing = gaps(whole_parts(plan, start, stop), start, stop)
    num_done = (stop - start) - sum(last - first for first, last in missing)
    on_done(num_done)
    if not missing:
        return
    tower = load_tower(
        plan.towers, PASSAGE_TOWER, plan.config, vocab_size=plan.tokenizer.vocab_size,
        device=device_for(world.device_number),
    )  # fmt: skip
    embed = embed_with(tower.to(DTYPES[plan.config.index.embed_dtype]))
    for first, last in _in_parts(missing, plan.part_passages):
        for done in _embed_part(plan, first, last, embed=embed):
            on_done(num_done + done)
        num_done += last - first


def whole_parts(plan: BuildPlan, start: int, stop: int) -> Ranges:
    """What of start..stop-1 is in parts of this index that are intact; others are named in the log."""
    whole = []
    for part in stored_parts(plan.out, VERSION):
        if part.stop <= start or part.start >= stop:
            continue
        try:
            manifest = part.manifest()
            kind = (manifest.snapshot_sha256, manifest.corpus_sha256, manifest.width, manifest.dtype)
            if kind != (plan.towers.sha256, plan.corpus.digest, plan.towers.width, plan.config.index.vectors):
                raise PartFault("of other towers, another corpus or width")
            for _ in part.pieces(manifest):
                pass
            whole.append((part.start, part.stop))
        except PartFault as fault:
            log.warning("%s is %s: its passages are embedded again", part.vectors_path, fault)
    return joined(whole)


def _newest_snapshot(run: Path) -> Path:
    paths = [version_folder(run / "index", version) / SNAPSHOT_FILE for version in stored_versions(run / "index")]
    there = [path for path in paths if path.is_file()]
    if not there:
        raise CheckpointError(
            f"{run} holds no snapshot (index/version-00000/{SNAPSHOT_FILE} or later): `realm-ds pretrain` writes them; "
            "of another stage, give its export with --config and --tower"
        )
    return there[-1]


def rank_arguments(plan: BuildPlan) -> list[str]:
    """What every rank of a world on this machine is started with."""
    return [
        "index", "build", "--config", str(plan.out / RUN_CONFIG), "--tower", str(plan.towers.path),
        "--out", str(plan.out), "--part-passages", str(plan.part_passages),
    ]  # fmt: skip


def describe_plan(plan: BuildPlan, *, processes: int) -> str:
    """What a build would do and need, for people."""
    count, part = plan.corpus.count, min(plan.part_passages, -(-plan.corpus.count // processes))
    tokens_bytes = 2 * plan.config.data.passage_tokens
    each = plan.towers.num_bytes + part * (plan.vector_bytes + 4 * plan.towers.width + tokens_bytes)
    num_parts = sum(
        -(-(stop - start) // plan.part_passages)
        for start, stop in (_range_of(plan, rank, processes) for rank in range(processes))
    )
    lines = {
        "passages": f"{count:,}, of {plan.config.data.corpus}",
        "towers": f"{plan.towers.path}, vectors {plan.towers.width} wide",
        "on disk": f"{size_text(count * plan.vector_bytes)} in {num_parts} parts ({plan.config.index.vectors})",
        "building": f"at most {size_text(each)} for each of {processes} processes, beside Python and torch (0.5 GB)",
        "searching": f"at most {size_text(count * (plan.vector_bytes + tokens_bytes))} with Flat, over all shards",
    }
    if processes > 1:
        lines["starts"] = " ".join(world_command(rank_arguments(plan), processes=processes))
    return "\n".join(f"{name:<10} {text}" for name, text in lines.items())


def _take_part(make_plan: Callable[[], BuildPlan]) -> None:
    mpi = start_mpi()  # Before anything can fail; see launch/stages.py.
    plan = make_plan()
    if TAG_VARIABLE not in os.environ and (mpi is None or mpi.COMM_WORLD.Get_rank() == 0):
        forget_last_world(plan.out)
        prepare_folder(plan)  # The others wait for this rank when they join.
    timeout_s = plan.config.runtime.wait_timeout_s
    world = join_world(num_shards=0, placement="tail", folder=plan.out, timeout_s=timeout_s)
    world = replace(world, roles=(INDEX,) * world.world_size)  # Nobody trains here, and messages should not say so.
    with as_rank(world, folder=plan.out, stage=STAGE, threads=plan.config.runtime.threads_per_rank) as sinks:
        start, stop = _range_of(plan, world.world_rank, world.world_size)
        told_at = [float("-inf")]

        def tell(done: int) -> None:
            if done == stop - start or time.monotonic() - told_at[0] >= TELL_EVERY_S:
                told_at[0] = time.monotonic()
                sinks.write("embedded", done=done, total=stop - start)

        embed_rest(plan, world, on_done=tell)
        world.barrier(timeout_s=plan.config.index.build_timeout_s, waiting_for="all ranks to embed their passages")


def _embed_part(plan: BuildPlan, start: int, stop: int, *, embed: Embed) -> Iterator[int]:
    """Embed and write a part, yielding now and then how many of its passages are done."""
    data = plan.config.data
    passages = PassageShard.from_passages(
        plan.corpus.passages(start, stop, max_tokens=data.passage_tokens), start=start
    )
    embedder = ShardEmbedder(
        passages, special=plan.tokenizer.special, passage_tokens=data.passage_tokens,
        batch_tokens=plan.config.index.embed_batch_tokens, width=plan.towers.width,
    )  # fmt: skip
    vectors_NP = np.empty((len(passages), plan.towers.width), dtype=np.float32)
    yield from embedder.run(embed, vectors_NP)
    store = IndexStore(plan.out, corpus_sha256=plan.corpus.digest, dtype=plan.config.index.vectors)
    store.save(vectors_NP, version=VERSION, snapshot_sha256=plan.towers.sha256, start=start)


def _range_of(plan: BuildPlan, rank: int, processes: int) -> tuple[int, int]:
    """The passages of one of so many processes."""
    return passage_range(plan.corpus.count, rank, processes, setting="--processes")


def _in_parts(ranges: Ranges, part_passages: int) -> Iterator[tuple[int, int]]:
    for start, stop in ranges:
        for first in range(start, stop, part_passages):
            yield first, min(first + part_passages, stop)


class _Pace:
    """Moves a bar, and says how fast."""

    def __init__(self, bar: Bar, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._bar, self._clock = bar, clock
        self._first: tuple[int, float] | None = None

    def update(self, done: int) -> None:
        """What was there before the first call is nobody's work."""
        now = self._clock()
        first_done, first_at = self._first = self._first or (done, now)
        is_known = done > first_done and now > first_at
        self._bar.update(done, now=f"{(done - first_done) / (now - first_at):,.0f} passages/s" if is_known else "")


class _BuildFollower(RunFollower):
    """Moves a bar by what all ranks have embedded."""

    def __init__(self, run_folder: Path, *, stage: str, bar: Bar) -> None:
        super().__init__(run_folder, stage=stage, bar=bar)
        self._done: dict[str, int] = {}
        self._pace = _Pace(bar)

    def _take(self, writer: str, record: Mapping[str, Any]) -> None:
        if record["event"] == "embedded":
            self._done[writer] = int(record["done"])
            self._pace.update(sum(self._done.values()))


def _short(value: object) -> str:
    return value[:12] if isinstance(value, str) else str(value)
