"""`realm-ds index info` and `realm-ds index verify`: what is in an index on disk, and whether all of it is whole."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from realm_ds.config.schema import RealmConfig
from realm_ds.data.shards import open_shards
from realm_ds.errors import IndexFault, RealmError
from realm_ds.index.store import (
    SNAPSHOT_FILE,
    Part,
    PartFault,
    PartManifest,
    check_snapshot,
    stored_versions,
    version_folder,
)
from realm_ds.launch.index_store import (
    Ranges,
    StoredIndex,
    VersionState,
    find_index,
    gaps,
    joined,
    look_at,
    told,
)
from realm_ds.observe.progress import Progress, size_text

CHANGED = "changed"
"""What has become of the corpus since the index was built; else "unchanged", "unreadable" or "unknown"."""


def describe_index(path: Path) -> dict[str, Any]:
    """What an index is of and what each of its versions covers, from settings and manifests alone."""
    index = find_index(path)
    states = [look_at(index, version) for version in stored_versions(index.folder)]
    config = index.config() if index.config_path is not None else None
    corpus = _corpus(index, config, states)
    return {
        "folder": str(index.folder),
        "corpus": corpus,
        "tokenizer": str(config.data.tokenizer) if config is not None else None,
        "towers": index.card.towers if index.card is not None else None,
        "factory": config.index.factory if config is not None else None,
        "versions": [_version(state, num_passages=corpus["passages"]) for state in states],
    }


def info_text(info: Mapping[str, Any]) -> str:
    """The same for people."""
    corpus = info["corpus"]
    count = "an unknown number of" if corpus["passages"] is None else f"{corpus['passages']:,}"
    lines = [f"{info['folder']}: {count} passages"]
    state = f" ({corpus['state']}{': ' + corpus['reason'] if corpus['reason'] else ''})"
    lines.append(f"  corpus     {corpus['path'] or 'unknown'}{state if corpus['path'] else ''}")
    lines += [f"  {name:<10} {info[name]}" for name in ("tokenizer", "towers", "factory") if info[name] is not None]
    for version in info["versions"]:
        lines.append(f"  version {version['version']}" + _of_step(version["step"]))
        if not version["parts"]:
            lines.append("    no vectors" + ("" if version["faults"] else ": not built yet, or built and not stored"))
        else:
            missing = told([tuple(gap) for gap in version["gaps"]]) if version["gaps"] else "nothing"
            lines.append(
                f"    {version['passages']:,} passages in {version['parts']} parts, {version['width']} wide, "
                f"{version['dtype']}, {size_text(version['bytes'])}; lacks {missing}"
            )
            lines.append(f"    snapshot {version['snapshot_sha256'][:12]}, corpus {version['corpus_sha256'][:12]}")
        if version["others"]:
            lines.append(f"    {version['others']} more parts are of another snapshot, corpus or width: not used")
        lines += [f"    {fault}" for fault in version["faults"]]
    return "\n".join(lines)


def verify_index(path: Path, *, version: int | None, say: Callable[[str], None] = print) -> int:
    """Read all there is of one version, or of all; say what is wrong, a line each, and return how many that was."""
    index = find_index(path)
    there = stored_versions(index.folder)
    if version is not None and version not in there:
        known = ", ".join(map(str, there)) or "none"
        raise IndexFault(f"no version {version} in {index.folder}: there is {known}; leave --version out for all")
    states = [look_at(index, number) for number in (there if version is None else [version])]
    config = index.config() if index.config_path is not None else None
    corpus = _corpus(index, config, states)
    problems = [f"the corpus in {corpus['path']} has changed: {corpus['reason']}"] if corpus["state"] == CHANGED else []
    unbuilt = [state for state in states if not state.parts and not state.faults and not state.others]
    # A run's last launches may not have been built, or not by all shards: it resumes from their snapshots.
    if version is None and len(unbuilt) < len(states):
        states = [state for state in states if state not in unbuilt]
        states = _without_unfinished(states, num_passages=corpus["passages"], say=say)
    total = sum(part.stop - part.start for state in states for part, _ in state.parts)
    with Progress() as progress:
        bar = progress.stage(f"reading {index.folder}", total=total)
        done = 0
        for state in states:
            for problem, num_passages in _problems(state, num_passages=corpus["passages"]):
                done += num_passages
                bar.update(done)
                problems += [f"version {state.version}: {problem}"] if problem else []
        if not states:
            problems.append(f"{index.folder} holds no version")
        bar.finish(f"{done:,} passages in {sum(len(state.parts) for state in states)} parts read")
    problems += _snapshot_problems(index, [state.version for state in states])
    for problem in problems:
        say(problem)
    if not problems:
        say(f"all is well: {len(states)} version(s), {done:,} vectors")
    return len(problems)


def _snapshot_problems(index: StoredIndex, versions: Sequence[int]) -> Iterator[str]:
    """What is wrong with the weights that a run's versions are of; an index that stands alone has none."""
    for version in versions if index.card is None else ():
        path = version_folder(index.folder, version) / SNAPSHOT_FILE
        if path.exists():
            try:
                check_snapshot(index.folder, version)
            except PartFault as fault:
                yield f"version {version}: {path.name} is {fault}"


def _without_unfinished(
    states: list[VersionState], *, num_passages: int | None, say: Callable[[str], None]
) -> list[VersionState]:
    """Without the version that a run was building when it ended, or is: newer than a whole one, and in parts so far."""
    *older, newest = states
    is_whole = [num_passages is not None and not gaps(state.covered, 0, num_passages) for state in states]
    if newest.faults or newest.others or is_whole[-1] or not any(is_whole[:-1]):
        return states
    say(f"version {newest.version} is not finished, and not looked at: its run was building it, or is")
    return older


def _problems(state: VersionState, *, num_passages: int | None) -> Iterator[tuple[str, int]]:
    """(what is wrong or '', passages read) after each part; then what is missing altogether."""
    for part, reason in state.faults:
        yield f"passages {part.start} to {part.stop - 1}: {part.vectors_path.name} is {reason}", 0
    for part in state.others:
        yield f"{part.vectors_path.name} is of another snapshot, corpus or width than the other parts: not used", 0
    for part, manifest in state.parts:
        fault = _fault(part, manifest)
        where = f"passages {part.start} to {part.stop - 1}: {part.vectors_path.name}"
        yield (f"{where} is {fault}" if fault else ""), part.stop - part.start
    stop = num_passages if num_passages is not None else max((part.stop for part, _ in state.parts), default=0)
    named = joined([(part.start, part.stop) for part, _ in state.parts] + [(p.start, p.stop) for p, _ in state.faults])
    missing = gaps(named, 0, stop)
    if missing:
        yield f"{told(missing)} of {stop} are missing", 0
    beyond = [part for part, _ in state.parts if part.stop > stop]
    if beyond:
        yield f"{beyond[-1].vectors_path.name} ends beyond the {stop} passages of the corpus", 0


def _fault(part: Part, manifest: PartManifest) -> str | None:
    """Why a part is not whole; None if it is."""
    try:
        for row, piece_RP in part.pieces(manifest):
            finite_R = np.isfinite(piece_RP).all(axis=1)
            if not finite_R.all():
                return f"not finite at passage {part.start + row + int(np.argmin(finite_R))}"
    except PartFault as fault:
        return str(fault)
    return None


def _corpus(index: StoredIndex, config: RealmConfig | None, states: list[VersionState]) -> dict[str, Any]:
    """Where the corpus is, how many passages it holds, and whether it is the one that was embedded."""
    then = index.card.corpus_sha256 if index.card is not None else None
    then = then or next((state.corpus_sha256 for state in reversed(states) if state.corpus_sha256), None)
    count = index.card.num_passages if index.card is not None else None
    found: dict[str, Any] = {"path": None, "sha256": then, "passages": count, "state": "unknown", "reason": ""}
    if config is None:
        return found
    found["path"] = str(config.data.corpus)
    try:
        corpus = open_shards(
            config.data.corpus, kind="corpus", fingerprint=None, timeout_s=config.runtime.wait_timeout_s
        )
    except RealmError as error:
        return found | {"state": "unreadable", "reason": str(error)}
    if then is not None and corpus.digest != then:
        reason = f"its sha256 is {corpus.digest[:12]}, and was {then[:12]} when it was indexed"
        return found | {"state": CHANGED, "reason": reason}
    return found | {"state": "unchanged" if then else "unknown", "passages": corpus.count}


def _version(state: VersionState, *, num_passages: int | None) -> dict[str, Any]:
    covered: Ranges = state.covered
    dtypes = sorted({manifest.dtype for _, manifest in state.parts})
    return {
        "version": state.version,
        "step": state.step,
        "parts": len(state.parts),
        "passages": sum(stop - start for start, stop in covered),
        "gaps": None if num_passages is None else gaps(covered, 0, num_passages),
        "width": state.width,
        "dtype": " and ".join(dtypes) or None,
        "bytes": sum(_num_bytes(part) for part, _ in state.parts),
        "snapshot_sha256": state.snapshot_sha256,
        "corpus_sha256": state.corpus_sha256,
        "others": len(state.others),
        "faults": [f"{part.vectors_path.name} is {reason}" for part, reason in state.faults],
    }


def _num_bytes(part: Part) -> int:
    return part.vectors_path.stat().st_size if part.vectors_path.is_file() else 0


def _of_step(step: int | None) -> str:
    return "" if step is None else f", of step {step}"
