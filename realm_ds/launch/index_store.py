"""An index on disk as people point at it: what it is of, and which passages each of its versions covers.

    FOLDER/index.json, FOLDER/config.yaml, FOLDER/version-00000/part-...       `realm-ds index build`
    RUN/config.yaml, RUN/index/version-00003/{snapshot.safetensors, part-...}  a training run

Vectors are not read here: index_check.py does, and index_search.py.
"""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import safe_open

from realm_ds.config.load import RUN_CONFIG, load
from realm_ds.config.schema import RealmConfig
from realm_ds.errors import ConfigError, IndexFault
from realm_ds.files import write_durably
from realm_ds.index.store import (
    SNAPSHOT_FILE,
    Part,
    PartFault,
    PartManifest,
    stored_parts,
    stored_versions,
    version_folder,
)

CARD = "index.json"
FORMAT = 1
_LEFT_BEFORE = {"logs", "ranks", "failures", "metrics", "job", "restarts", "why.txt"}
"""What ranks, and the batch script that starts them, may have left before the index had a card."""
Ranges = list[tuple[int, int]]
"""Passages start..stop-1 each, ascending."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """What an index that stands alone is of: index.json. Its settings are beside it, in config.yaml."""

    corpus: str
    corpus_sha256: str
    num_passages: int
    tokenizer: str
    tokenizer_fingerprint: str
    towers: str
    """The export, or the snapshot of a run, whose passage tower made the vectors; queries need its query tower."""
    towers_sha256: str
    step: int | None
    """Of training, where that is known."""
    width: int
    dtype: str
    factory: str
    """FAISS factory that searches use unless told otherwise."""
    format: int = FORMAT


@dataclass(frozen=True, kw_only=True)
class StoredIndex:
    """A folder of index versions, with the settings that go with it."""

    folder: Path
    config_path: Path | None
    card: Card | None
    """None for the index of a training run."""

    def config(self) -> RealmConfig:
        """The settings; raises IndexFault where there are none."""
        if self.config_path is None:
            raise IndexFault(
                f"{self.folder} has no {RUN_CONFIG}, in it or beside it: its corpus, tokenizer and towers are not "
                "known; give the folder of `realm-ds index build`, or a run folder"
            )
        return load(self.config_path)


@dataclass(frozen=True, kw_only=True)
class VersionState:
    """What the manifests of one version's parts tell, without a look at the vectors."""

    version: int
    step: int | None
    parts: list[tuple[Part, PartManifest]]
    """Of one snapshot, corpus and width: those that most passages are of."""
    others: list[Part]
    """Parts of another snapshot, corpus or width: they are never used."""
    faults: list[tuple[Part, str]]
    """Parts that cannot be used at all, and why."""

    @property
    def snapshot_sha256(self) -> str | None:
        return self.parts[0][1].snapshot_sha256 if self.parts else None

    @property
    def corpus_sha256(self) -> str | None:
        return self.parts[0][1].corpus_sha256 if self.parts else None

    @property
    def width(self) -> int | None:
        return self.parts[0][1].width if self.parts else None

    @property
    def covered(self) -> Ranges:
        return joined((part.start, part.stop) for part, _ in self.parts)


def find_index(path: Path) -> StoredIndex:
    """The index that `path` is: its own folder, or that of a run or export. Raises IndexFault if there is none."""
    for folder in (path, path / "index"):
        if (folder / CARD).is_file() or stored_versions(folder):
            beside = [folder, folder.parent] if folder.name == "index" else [folder]
            configs = [place / RUN_CONFIG for place in beside if (place / RUN_CONFIG).is_file()]
            return StoredIndex(
                folder=folder, config_path=configs[0] if configs else None, card=read_card(folder)
            )  # fmt: skip
    below = [folder.parent.parent for folder in sorted(path.glob("*/index/version-*"))] if path.is_dir() else []
    hint = f"did you mean {below[0]}?" if below else "`realm-ds index build --out FOLDER` makes one"
    raise IndexFault(
        f"no index in {path}: neither {CARD} nor a folder version-00000 or the like; a pre-training run has one, and "
        f"{hint}"
    )


def read_card(folder: Path) -> Card | None:
    """What index.json says; None if there is no such file. Raises IndexFault if it cannot be read."""
    path = folder / CARD
    if not path.is_file():
        return None
    try:
        data = json.loads(path.read_bytes())
        found = data.get("format") if isinstance(data, dict) else None
        if found != FORMAT:
            raise IndexFault(f"{path} is of format {found!r}, but this realm-ds reads {FORMAT}: build the index again")
        return Card(**data)
    except (ValueError, TypeError) as error:
        raise IndexFault(f"{path} is damaged ({error}): remove it and run `realm-ds index build` again") from error


def refuse_other_folder(folder: Path, *, option: str = "--out") -> Card | None:
    """The card of the index that is there; None of a folder in which one can begin. Raises ConfigError if it holds
    anything else."""
    card = read_card(folder)
    if card is not None or not folder.is_dir():
        return card
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")} - _LEFT_BEFORE
    if names:
        found = "a training run" if RUN_CONFIG in names else min(names)
        raise ConfigError(f"{folder} is no index and not empty (it holds {found}): name another folder with {option}")
    return None


def write_card(folder: Path, card: Card) -> None:
    """Write index.json."""
    write_durably(folder / CARD, json.dumps(asdict(card), indent=1) + "\n")


def look_at(index: StoredIndex, version: int) -> VersionState:
    """Read the manifests of a version's parts."""
    good, faults = [], []
    for part in stored_parts(index.folder, version):
        try:
            good.append((part, part.manifest()))
        except PartFault as fault:
            faults.append((part, str(fault)))
    passages: Counter[tuple[str, str, int]] = Counter()
    for part, manifest in good:
        passages[_kind(manifest)] += part.stop - part.start
    kind = passages.most_common(1)[0][0] if passages else None
    return VersionState(
        version=version,
        step=_step(index, version),
        parts=[(part, manifest) for part, manifest in good if _kind(manifest) == kind],
        others=[part for part, manifest in good if _kind(manifest) != kind],
        faults=faults,
    )


def choose_version(index: StoredIndex, version: int | None, *, num_passages: int, corpus_sha256: str) -> VersionState:
    """The version asked for, or the newest that covers all passages. Raises IndexFault if there is no such one.

    One of another corpus is returned as it is: how many passages it lacks would mean nothing.
    """
    there = stored_versions(index.folder)
    if version is not None and version not in there:
        known = ", ".join(map(str, there)) or "none"
        raise IndexFault(
            f"no version {version} in {index.folder}: there is {known}; leave --version out for the newest"
        )
    states = [look_at(index, number) for number in ([version] if version is not None else reversed(there))]
    for state in states:
        if state.corpus_sha256 not in (None, corpus_sha256) or not gaps(state.covered, 0, num_passages):
            return state
    if not states:
        raise IndexFault(f"{index.folder} holds no version yet: {_remedy(index)}")
    missing = told(gaps(states[0].covered, 0, num_passages))
    raise IndexFault(
        f"index version {states[0].version} in {index.folder} lacks {missing} of {num_passages}: {_remedy(index)}"
    )


def joined(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """The same passages in as few ranges as can be."""
    result: Ranges = []
    for start, stop in sorted(ranges):
        if result and start <= result[-1][1]:
            result[-1] = (result[-1][0], max(stop, result[-1][1]))
        elif start < stop:
            result.append((start, stop))
    return result


def gaps(covered: Ranges, start: int, stop: int) -> Ranges:
    """What of start..stop-1 the joined ranges do not cover."""
    result: Ranges = []
    for first, last in covered:
        if first > start:
            result.append((start, min(first, stop)))
        start = max(start, last)
        if start >= stop:
            break
    if start < stop:
        result.append((start, stop))
    return [(first, last) for first, last in result if first < last]


def told(ranges: Ranges) -> str:
    """Ranges for people, the first few of them: "passages 0 to 99, 300 to 399"."""
    some = ", ".join(f"{start} to {stop - 1}" for start, stop in ranges[:4])
    return f"passages {some}" + (f" and {len(ranges) - 4} more ranges" if len(ranges) > 4 else "")


def _kind(manifest: PartManifest) -> tuple[str, str, int]:
    return manifest.snapshot_sha256, manifest.corpus_sha256, manifest.width


def _step(index: StoredIndex, version: int) -> int | None:
    """The step of training that a version is of, as its snapshot says, or the card of an index that stands alone."""
    if index.card is not None:
        return index.card.step
    path = version_folder(index.folder, version) / SNAPSHOT_FILE
    if not path.is_file():
        return None
    return snapshot_step(path)


def snapshot_step(path: Path) -> int | None:
    """The step of training that a snapshot was taken at, if it says so."""
    try:
        with safe_open(path, framework="np") as file:
            step = (file.metadata() or {}).get("step", "")
    except Exception:  # What safetensors raises for a damaged file differs from version to version.
        return None
    return int(step) if step.isdigit() else None


def _remedy(index: StoredIndex) -> str:
    if index.card is not None:
        return "run the same `realm-ds index build` again to embed what is missing"
    return "`realm-ds pretrain --resume` builds what its run still needs; `realm-ds index info` tells what is there"
