"""`realm-ds index search`: questions to an index on disk, without a training run.

In this process over one shard, or over N index ranks by the same server and client that training uses. Scores do not
depend on the number of shards, so both give the same answer; an approximate factory sees other cells in other shards.

Shapes: B queries, K hits of each, P embedding.
"""

import json
import os
import shutil
import sys
import tempfile
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from realm_ds.comm.world import is_launched
from realm_ds.errors import ConfigError, DataError, IndexFault
from realm_ds.index.exclusion import exclude_nothing
from realm_ds.index.factory import spec_of
from realm_ds.index.faiss_index import VectorTable
from realm_ds.index.passages import load_shard
from realm_ds.index.shard import build_shard
from realm_ds.launch.index_open import Answers, Found, Opened, Wanted, damaged, in_batches, open_index, with_texts
from realm_ds.launch.local import run_world
from realm_ds.launch.rank import run_as_rank
from realm_ds.launch.search_ranks import ANSWERS_FILE, NO_QUERY, QUERIES_FILE, take_part
from realm_ds.observe.progress import Progress

_INDENT = 15 * " "
MOST_RANKS_PER_CORE = 8


def search_verb(
    store: Path, *, queries: Sequence[str], file: Path | None, num_hits: int, version: int | None, factory: str | None,
    processes: int, scratch: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """What the command line asks for: search, and print what was found. `scratch` is given to ranks that we started."""

    def wanted() -> Wanted:
        asked = tuple(_read_queries(queries, file))
        return Wanted(store=store, queries=asked, num_hits=num_hits, version=version, factory=factory)

    if not is_launched(os.environ):
        here = wanted()
        _print(here, search_index(here, processes=processes), as_json=as_json)
        return

    def take_part_and_print() -> None:
        asked, answers = take_part(wanted, folder=folder)
        if scratch is None and answers is not None:
            _print(asked, answers, as_json=as_json)

    folder = scratch or Path(tempfile.mkdtemp(prefix="realm-index-"))
    run_as_rank(folder, take_part_and_print)
    if scratch is None:
        shutil.rmtree(folder, ignore_errors=True)


def search_index(wanted: Wanted, *, processes: int) -> Answers:
    """The answers, by this process alone or by so many index ranks.

    Raises IndexFault, DataError, ConfigError or CheckpointError for what cannot work, LaunchError when a rank dies.
    """
    if not wanted.queries:
        raise ConfigError(NO_QUERY)
    cores = len(os.sched_getaffinity(0))
    if processes > MOST_RANKS_PER_CORE * cores:
        raise ConfigError(
            f"--processes {processes} on {cores} core(s): at most {MOST_RANKS_PER_CORE * cores} here; each takes "
            "memory of its own, and more of them than there are cores make nothing faster"
        )
    opened = open_index(wanted)
    if processes == 0:
        return with_texts(opened, *search_here(opened, wanted))
    return _search_in_world(wanted, processes=processes)


def search_here(opened: Opened, wanted: Wanted) -> tuple[np.ndarray, np.ndarray]:
    """Uids and scores [B, K], by one shard in this process."""
    config = opened.config
    queries_BP = opened.embed(wanted.queries)
    passages = load_shard(opened.corpus, shard_rank=0, num_shards=1, max_tokens=config.data.passage_tokens)
    table = VectorTable(len(passages), opened.width, dtype=config.index.vectors)
    if not opened.store.load(table.vectors_NP, version=opened.version, snapshot_sha256=opened.snapshot_sha256, start=0):
        raise IndexFault(damaged(opened))
    built = build_shard(passages, table, version=opened.version, spec=spec_of(config.index))
    hits = [
        built.search(part_BP, num_hits=wanted.num_hits, exclusion=exclude_nothing(len(part_BP)))
        for part_BP in in_batches(queries_BP)
    ]
    return np.concatenate([part.uids_BK for part in hits]), np.concatenate([part.scores_BK for part in hits])


def _read_queries(queries: Sequence[str], file: Path | None) -> Iterator[str]:
    """Those given, those of the file, and those of standard input where one of them is "-"."""
    for query in queries:
        if query == "-":
            yield from filter(None, map(str.strip, sys.stdin))
        elif query.strip():
            yield query
    if file is not None:
        try:
            yield from filter(None, map(str.strip, file.read_text(encoding="utf-8").splitlines()))
        except UnicodeDecodeError as error:
            raise DataError(f"{file} is not UTF-8 text ({error}): save it as such") from error


def _print(wanted: Wanted, answers: Answers, *, as_json: bool) -> None:
    for query, hits in zip(wanted.queries, answers, strict=True):
        if as_json:
            print(json.dumps({"query": query, "hits": [asdict(hit) for hit in hits]}, ensure_ascii=False))
        else:
            print("\n".join([query, *(_shown(hit) for hit in hits), ""]))


def _shown(hit: Found) -> str:
    text = textwrap.fill(hit.text, width=100, initial_indent=_INDENT, subsequent_indent=_INDENT)
    return f"{hit.rank:>3}  {hit.score:8.3f}  {hit.title}\n{text}"


def _search_in_world(wanted: Wanted, *, processes: int) -> Answers:
    """The same by index ranks on this machine, and a client that leaves its answers in a file."""
    folder = Path(tempfile.mkdtemp(prefix="realm-index-"))  # stays, with the logs, if something goes wrong
    (folder / QUERIES_FILE).write_text(json.dumps(wanted.queries), encoding="utf-8")
    arguments = [
        "index", "search", str(wanted.store.absolute()), "--hits", str(wanted.num_hits), "--scratch", str(folder),
        *(["--version", str(wanted.version)] if wanted.version is not None else []),
        *(["--factory", wanted.factory] if wanted.factory is not None else []),
    ]  # fmt: skip
    with Progress() as progress:
        bar = progress.stage(f"search over {processes} index ranks")
        run_world(arguments, processes=processes + 1, run_folder=folder)
        bar.finish(f"{len(wanted.queries)} queries")
    answers = json.loads((folder / ANSWERS_FILE).read_text(encoding="utf-8"))
    shutil.rmtree(folder, ignore_errors=True)
    return [[Found(**found) for found in hits] for hits in answers]
