"""What a folder of tar shards, or one of them, holds: counts, lengths, samples, duplicates, and whether it is whole.

A shard is read in inspect_shard.py, all is drawn in observe/inspection.py and plots.py.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from realm_ds.config.places import PIPE
from realm_ds.data.chance import permutation, pick
from realm_ds.data.places import SHARD_NAME, Place
from realm_ds.data.records import NO_UID, Example, Passage
from realm_ds.data.shards import Kind, Manifest, read_manifest
from realm_ds.data.tokenizer import Tokenizer, load_tokenizer
from realm_ds.errors import DataError
from realm_ds.observe.inspection import Distribution, Piece, Sample, ShardsView
from realm_ds.observe.progress import number_of, size_text
from realm_ds.prepare.inspect_shard import ShardFindings, TarShard, inspect_shard, kind_of, members, record_of
from realm_ds.prepare.job import COUNTS, FIRST, INPUT
from realm_ds.prepare.journal import refuse_unfinished
from realm_ds.prepare.workers import work_in_order

RECORDS_AT_FIRST = 20_000
"""Looked at where not all are asked for."""
SHOWN_DUPLICATES = 3
"""Groups of records."""
_RECORDS: Mapping[Kind, str] = {"corpus": "passages", "pretrain": "examples"}


@dataclass(frozen=True, kw_only=True)
class InspectOptions:
    """What is asked of shards."""

    samples: int = 5
    seed: int = 0
    """Of the samples, and of the shards that are looked at where not all are."""
    every_record: bool = False
    check: bool = False
    """Compare every shard with the manifest and read every record."""
    duplicates: bool = False

    @property
    def reads_all(self) -> bool:
        return self.every_record or self.check or self.duplicates


@dataclass(frozen=True, kw_only=True)
class Target:
    """What was pointed at."""

    place: Place
    """The folder of the shards, here or elsewhere."""
    manifest: Manifest | None
    """Unless one shard was pointed at."""
    shards: tuple[TarShard, ...]
    fingerprint: str | None
    """Of the tokenizer, where a manifest says so."""

    def __str__(self) -> str:
        return self.shards[0].where if self.manifest is None else str(self.place)


def find_target(pointed_at: Path | str) -> Target:
    """A folder of shards, here or elsewhere, or one tar file here, with or without a manifest beside it."""
    place = Place(pointed_at)
    if place.folder is None and str(place).endswith(".tar") and not str(place).startswith(PIPE):
        raise DataError(
            f"{place}: of what is elsewhere whole folders are looked at: name {str(place).rpartition('/')[0]}, or copy "
            "the shard here"
        )
    if place.folder is None or place.folder.is_dir():
        if place.folder is not None:
            refuse_unfinished(place.folder)
        manifest = read_manifest(place, what="tar shards")
        shards = tuple(_listed_shards(place, manifest))
        return Target(place=place, manifest=manifest, shards=shards, fingerprint=manifest.tokenizer_fingerprint)
    path = place.folder
    if not path.is_file():
        raise DataError(f"{path} is not there: name a folder of tar shards, or one of them")
    place = Place(path.parent)
    shard, fingerprint = _listed(place, path.name) or (
        TarShard(place=place, name=path.name, kind=kind_of(path), entry=None), None
    )  # fmt: skip
    return Target(place=place, manifest=None, shards=(shard,), fingerprint=fingerprint)


def inspect(
    target: Target,
    asked: InspectOptions,
    *,
    tokenizer: Tokenizer | None = None,
    workers: int = 0,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> ShardsView:
    """Look at it. Memory is bounded: a shard for each worker, and 16 bytes a record where duplicates are looked for.

    `on_progress` is told how many shards of how many are read.
    """
    shards = _chosen(target, asked)
    faults = list(_strays(target)) if asked.check else []
    lengths: dict[str, Counter[int]] = {}
    hashes: list[np.ndarray] = []
    counts: list[int] = []
    start = partial(_start, verify=asked.check, hashes=asked.duplicates)
    with closing(work_in_order(shards, start, workers=workers)) as results:
        for done, findings in enumerate(results, start=1):
            for name, counter in findings.lengths.items():
                lengths.setdefault(name, Counter()).update(counter)
            faults += findings.faults
            counts.append(findings.num_records)
            hashes.append(np.array([findings.text_hashes, findings.normal_hashes], dtype=np.int64))
            on_progress(done, len(shards))
    total = sum(counts)
    drawn = _drawn(total, asked)
    return ShardsView(
        facts=_facts(target, asked, num_looked_at=total),
        distributions=tuple(
            Distribution(name=name, counts=dict(sorted(counter.items()))) for name, counter in lengths.items()
        ),
        samples=tuple(_samples(shards, counts, drawn, tokenizer=tokenizer)),
        duplicates=tuple(_duplicates(shards, counts, hashes)) if asked.duplicates else (),
        faults=tuple(faults) if asked.check or faults else None,
    )


def as_json(view: ShardsView) -> dict[str, Any]:
    """All of it; the text of a sample as a list of [text, is salient] for each sentence."""
    return {
        "facts": dict(view.facts),
        "lengths": [distribution.summary() for distribution in view.distributions],
        "samples": [{"name": sample.name, "sentences": sample.sentences, "remark": sample.remark}
                    for sample in view.samples],
        "duplicates": list(view.duplicates),
        "faults": None if view.faults is None else list(view.faults),
    }  # fmt: skip


def find_tokenizer(target: Target, given: Path | None) -> Tokenizer | None:
    """The tokenizer that the shards were made with: the one given, or one that lies beside them on this machine."""
    if given is not None:
        tokenizer = load_tokenizer(given)
        if target.fingerprint not in (None, tokenizer.fingerprint):
            raise DataError(
                f"{target}: made with tokenizer {str(target.fingerprint)[:12]}, but that of {given} is "
                f"{tokenizer.fingerprint[:12]}; name the one it was made with"
            )
        return tokenizer
    folder = target.place.folder
    for beside in () if folder is None else (folder / "tokenizer", folder.absolute().parent / "tokenizer"):
        with suppress(DataError):  # of a folder that is called so and holds something else
            tokenizer = load_tokenizer(beside)
            if target.fingerprint in (None, tokenizer.fingerprint):
                return tokenizer
    return None


def pieces_of(
    text: str,
    ids: Sequence[int],
    sentences: Sequence[tuple[int, int]],
    spans: Sequence[tuple[int, int]],
    tokenizer: Tokenizer,
) -> tuple[tuple[Piece, ...], ...]:
    """The sentences of a text, each cut where its salient spans begin and end; by decoding, where the text is another
    than that of the wordpieces."""
    encoded, offsets = tokenizer.encode_with_offsets(text)
    is_same = list(encoded) == list(ids)
    lines = []
    for first, last in sentences:
        inside = [span for span in spans if first <= span[0] < last]
        pieces: list[Piece] = []
        if is_same:
            place = offsets[first][0]
            for low, high in ((offsets[start][0], offsets[end - 1][1]) for start, end in inside):
                pieces += [(text[place:low], False), (text[low:high], True)]
                place = high
            pieces.append((text[place : offsets[last - 1][1]], False))
        else:
            place = first
            for start, end in inside:
                pieces += [(f"{tokenizer.decode(ids[place:start])} ", False), (tokenizer.decode(ids[start:end]), True)]
                pieces.append((" ", False))
                place = end
            pieces.append((tokenizer.decode(ids[place:last]), False))
        lines.append(tuple(piece for piece in pieces if piece[0]))
    return tuple(lines)


def _listed_shards(place: Place, manifest: Manifest) -> Iterator[TarShard]:
    first = 0
    for entry in manifest.shards:
        yield TarShard(place=place, name=entry.name, kind=manifest.kind, entry=entry, first=first)
        first += entry.count


def _listed(place: Place, name: str) -> tuple[TarShard, str] | None:
    """The shard as the manifest beside it knows it, if one does, and the fingerprint of its tokenizer."""
    try:
        manifest = read_manifest(place, what="tar shards")
    except DataError:
        return None
    shards = (shard for shard in _listed_shards(place, manifest) if shard.name == name)
    return next(((shard, manifest.tokenizer_fingerprint) for shard in shards), None)


def _strays(target: Target) -> Iterator[str]:
    if target.manifest is not None and target.place.folder is not None:
        listed = {shard.name for shard in target.shards}
        for path in sorted(target.place.folder.glob("*.tar")):
            if path.name not in listed:
                what = "tar shard" if SHARD_NAME.fullmatch(path.name) else "file"
                yield f"{path}: a {what} that the manifest does not list"


def _chosen(target: Target, asked: InspectOptions) -> list[TarShard]:
    """All shards, or as many, drawn by the seed, as hold the records that are looked at first; in order."""
    if asked.reads_all:
        return list(target.shards)
    chosen, num_records = [], 0
    for place in permutation(len(target.shards), asked.seed, "inspect").tolist():
        if num_records >= RECORDS_AT_FIRST:
            break
        chosen.append(place)
        entry = target.shards[place].entry
        num_records += entry.count if entry is not None else 0
    return [target.shards[place] for place in sorted(chosen)]


def _start(*, verify: bool, hashes: bool) -> Callable[[TarShard], ShardFindings]:
    return partial(inspect_shard, verify=verify, hashes=hashes)


def _drawn(total: int, asked: InspectOptions) -> list[int]:
    """Different numbers below the total, as many as samples are asked for, in order."""
    drawn: dict[int, None] = {}
    turn = 0
    while len(drawn) < min(asked.samples, total):
        drawn[pick(total, asked.seed, turn, "sample")] = None
        turn += 1
    return sorted(drawn)


def _facts(target: Target, asked: InspectOptions, *, num_looked_at: int) -> Mapping[str, str]:
    manifest = target.manifest
    if manifest is None:
        return {"shard": str(target), _RECORDS[target.shards[0].kind]: f"{num_looked_at:,}"}
    what = _RECORDS[manifest.kind]
    size = sum(entry.num_bytes for entry in manifest.shards)
    facts = {
        "folder": str(target),
        what: f"{manifest.count:,} in {number_of(len(manifest.shards), 'tar shard')}, {size_text(size)}",
        "source": manifest.source,
        "tokenizer": manifest.tokenizer_fingerprint[:12],
        **dict(_settings(manifest.settings)),
    }
    if num_looked_at != manifest.count:
        facts["looked at"] = f"{num_looked_at:,} of them"
    if asked.check and target.place.folder is None:
        facts["not checked"] = "whether there are files that the manifest does not list: only a folder here says so"
    return facts


def _settings(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """With their names, but for empty ones; what was counted a line each, with where it was met first."""
    first = settings.get(FIRST, {})
    for name, value in settings.items():
        if name == FIRST or value in ("", [], {}, None):
            continue
        if name == COUNTS:
            for what, number in value.items():
                yield what, _setting(number) + (f" (first: {first[what]})" if what in first else "")
        else:
            yield name.replace("_", " "), _setting(value[:12] if name == INPUT else value)


def _setting(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(_setting, value))
    return f"{value:,}" if isinstance(value, int) else str(value)


def _samples(
    shards: Sequence[TarShard], counts: Sequence[int], numbers: Sequence[int], *, tokenizer: Tokenizer | None
) -> Iterator[Sample]:
    for name, record in _records_at(shards, counts, numbers):
        spans = record.spans if isinstance(record, Example) else ()
        ids = record.ids if isinstance(record, Example) else record.body_ids
        if tokenizer is not None:
            yield Sample(name=name, sentences=pieces_of(record.text, ids, record.sentences, spans, tokenizer))
        else:
            told = ", ".join(f"{start}-{end}" for start, end in spans)
            remark = f"spans as wordpieces: {told}; --tokenizer shows them in the text" if spans else ""
            yield Sample(name=name, sentences=(((record.text, False),),), remark=remark)


def _records_at(
    shards: Sequence[TarShard], counts: Sequence[int], numbers: Sequence[int]
) -> Iterator[tuple[str, Passage | Example]]:
    """Records by their ascending numbers among the good ones of the shards, each with what people call it."""
    first, wanted = 0, list(numbers)
    for shard, count in zip(shards, counts, strict=True):
        here = [number - first for number in wanted if first <= number < first + count]
        first += count
        good = 0
        if not here:
            continue
        with shard.open() as file:
            for name, data, _ in members(file, where=shard.where):
                try:
                    record = record_of(data, kind=shard.kind, where=name)
                except DataError:
                    continue
                if good in here:
                    yield f"{shard.name}, record {name.removesuffix('.json')}: {_title(record)}", record
                good += 1
                if good > here[-1]:
                    break


def _title(record: Passage | Example) -> str:
    if isinstance(record, Passage):
        return record.title
    passage = f", of passage {record.origin_uid}" if record.origin_uid != NO_UID else ""
    article = f", of article {record.origin_article}" if record.origin_article else ""
    return record.id + passage + article


def _duplicates(shards: Sequence[TarShard], counts: Sequence[int], hashes: Sequence[np.ndarray]) -> Iterator[str]:
    """Counts of records whose text an earlier one has, and of the same but for what normalising takes away."""
    of_texts, of_normal = np.concatenate([np.empty((2, 0), dtype=np.int64), *hashes], axis=1)
    for name, values in (
        ("the same text", of_texts),
        ("the same words (case, punctuation, articles aside)", of_normal),
    ):
        order = np.argsort(values, kind="stable")
        is_repeat = np.zeros(len(values), dtype=bool)
        is_repeat[1:] = values[order][1:] == values[order][:-1]
        yield f"{is_repeat.sum():,} of {len(values):,} records have {name} as an earlier one"
        starts = np.flatnonzero(is_repeat & ~np.concatenate([[False], is_repeat[:-1]]))[:SHOWN_DUPLICATES]
        for start in starts.tolist():
            pair = sorted(order[start - 1 : start + 1].tolist())
            shown = [f"{label}: {record.text[:60]}" for label, record in _records_at(shards, counts, pair)]
            yield from (f"  {line}" for line in shown)
