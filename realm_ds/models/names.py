"""What the three networks are called, and whether a folder is an export of them; without torch, so that it can be asked
before anything is started."""

from pathlib import Path

from realm_ds.errors import CheckpointError

QUERY_TOWER, PASSAGE_TOWER, ENCODER = "query_tower", "passage_tower", "encoder"
"""Folders of an export, and the names of the three networks in every state dict."""


def check_export(folder: Path) -> None:
    """Raise CheckpointError unless the folder has the three networks."""
    for name in (QUERY_TOWER, PASSAGE_TOWER, ENCODER):
        if not (folder / name / "config.json").is_file():
            raise CheckpointError(f"{folder} is not an export of realm-ds: {name}/config.json is missing")
