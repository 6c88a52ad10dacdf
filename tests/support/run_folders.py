"""Run folders as trainers and index ranks leave them, written by hand."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from realm_ds.config.load import RUN_CONFIG, dump, load
from realm_ds.config.schema import RealmConfig
from realm_ds.observe.sinks import metrics_path

Row = dict[str, Any]
LIBRARIES = {"python": "3.12.1", "torch": "2.9.0"}


def config_of(*settings: str) -> RealmConfig:
    """Settings of a run whose data is nowhere."""
    return load(None, ["data.corpus=/data/corpus", "data.tokenizer=/data/tokenizer", *settings])


def write_run(
    folder: Path, events: Iterable[Mapping[str, Any]], *, stage: str = "pretrain", config: RealmConfig | None = None,
    others: Mapping[tuple[str, int], Iterable[Mapping[str, Any]]] | None = None, tail: str = "",
) -> Path:  # fmt: skip
    """A run folder with these events of trainer 0 and `others` of further ranks; `tail` is half a line at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RUN_CONFIG).write_text(dump(config or config_of()))
    (folder / "code.txt").write_text("realm-ds 0.1.0\n1234567890abcdef\n\n")
    (folder / "ranks").mkdir(exist_ok=True)
    ranks = {("trainer", 0): events, **(others or {})}
    for world_rank, ((role, role_rank), own) in enumerate(ranks.items()):
        card = {"world_rank": world_rank, "role": role, "role_rank": role_rank, "host": f"node{world_rank}", "pid": 1}
        (folder / "ranks" / f"{world_rank}.json").write_text(json.dumps(card))
        path = metrics_path(folder, role=role, role_rank=role_rank)
        path.parent.mkdir(exist_ok=True)
        lines = [json.dumps({"time": 1000.0 + second, "stage": stage, **row}) for second, row in enumerate(own)]
        path.write_text("\n".join(lines) + "\n" + (tail if world_rank == 0 else ""))
    return folder


def joined() -> Row:
    return {"event": "joined", "host": "node0", "libraries": LIBRARIES}


def start(step: int = 0, *, steps: int = 100) -> Row:
    return {"event": "start", "step": step, "steps": steps, "trainers": 2, "peak_tflops": 1.0}


def step_row(step: int, *, steps: int = 100, **changes: Any) -> Row:
    row = {"event": "step", "step": step, "steps": steps, "loss": 5.0 - step / 100, "retrieval_utility": step / 1000}
    times = {"forward_ms": 30.0, "backward_ms": 15.0, "wait_for_index_ms": 1.0, "other_ms": 4.0, "step_ms": 50.0}
    return {**row, **times, "null_share": 0.5, "search_ms": 4.0, "staleness_steps": step % 50, "version": 0, **changes}


def hit(uid: int, *, title: str = "Niger", p: float = 0.5, is_right: bool | None = True) -> Row:
    return {"uid": uid, "title": title, "text": f"Text {uid}", "score": 2.0, "p": p, "is_right": is_right}


def probed(step: int, version: int, queries: Mapping[str, list[Row]]) -> Row:
    probes = [
        {"query": query, "answers": ["Niamey"], "null_p": 0.25, "hits": hits} for query, hits in queries.items()
    ]  # fmt: skip
    return {"event": "probed", "step": step, "version": version, "probe_ms": 3.0, "probes": probes}
