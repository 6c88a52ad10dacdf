"""Where a run is: its folder, or those inside the folder of a demo or a pipeline, and who was in its world. What
happened in it is history.py's business."""

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

from realm_ds.config.base import StageName
from realm_ds.config.load import RUN_CONFIG
from realm_ds.errors import ConfigError

STAGES: tuple[StageName, ...] = get_args(StageName)
"""Runs inside the folder of a demo or a pipeline, in their order."""
STUDY = "making.json"
"""In the folder of a study of `realm-ds ablate`, which holds many runs."""
DEMO_STAGES = "stages.json"
"""In a demo's folder: its stages that are done."""


def runs_in(folder: Path) -> list[Path]:
    """The run folder itself, or those of a demo's or pipeline's stages, in their order.

    Raises ConfigError where there is none.
    """
    if (folder / STUDY).is_file():
        inside = ", ".join(map(str, runs_of_study(folder)))
        raise ConfigError(f"{folder} is a study and no run: name one of its runs, {inside or 'once it has any'}")
    if (folder / RUN_CONFIG).is_file():
        return [folder]
    runs = [folder / stage for stage in STAGES if (folder / stage / RUN_CONFIG).is_file()]
    if not runs:
        there = "is no folder" if not folder.is_dir() else f"has no {RUN_CONFIG}"
        raise ConfigError(
            f"{folder} {there}, so it holds no run (or a demo that has not come to its first stage): name the folder "
            "that was given as --run"
        )
    return runs


def runs_of_study(folder: Path) -> list[Path]:
    """The runs of a study of `realm-ds ablate`, stage by stage; none where the folder is no study's."""
    if not (folder / STUDY).is_file():
        return []
    return [path.parent for stage in STAGES for path in sorted((folder / stage).glob(f"*/{RUN_CONFIG}"))]


def short_names(folders: Sequence[Path]) -> list[str]:
    """As few of the last parts of their places as tell them apart: legends and menus have little room."""
    places = [folder.absolute().parts for folder in folders]
    for count in range(1, max(map(len, places), default=0) + 1):
        names = ["/".join(parts[-count:]) for parts in places]
        if len(set(names)) == len(names):
            return names
    return ["/".join(parts) for parts in places]


def run_in(folder: Path) -> tuple[Path, list[str]]:
    """The run folder itself, or the newest of a demo's or pipeline's, and the demo's stages that are done."""
    runs = runs_in(folder)
    if runs == [folder]:
        return folder, []
    path = folder / DEMO_STAGES
    if path.is_file():
        return runs[-1], list(json.loads(path.read_text(encoding="utf-8"))["stages"])
    started = [run for run in runs if (run / "ranks").is_dir()]  # A pipeline makes all its run folders at once.
    return (started or runs[:1])[-1], []


def read_records(folder: Path) -> list[dict[str, Any]]:
    """The records in `ranks` or `failures`, but for those that go meanwhile (a run that starts again removes them) and
    what is no record: a file system that was full, or went down, may have left anything."""
    found = []
    for path in sorted(folder.glob("*.json")):
        with suppress(FileNotFoundError, ValueError):
            record = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(record, dict) and "host" in record:
                found.append(record)
    return found


def read_cards(run: Path) -> list[dict[str, Any]]:
    """Who is where, by world rank."""
    cards = [card for card in read_records(run / "ranks") if {"world_rank", "role", "role_rank", "pid"} <= card.keys()]
    return sorted(cards, key=lambda card: int(card["world_rank"]))
