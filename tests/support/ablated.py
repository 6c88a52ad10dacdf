"""Cells of a study and their scores, for tests of ablations."""

import json
from pathlib import Path

from realm_ds.ablate.parts import qa_name
from realm_ds.ablate.variants import VARIANTS, Cell


def cell(name: str, seed: int = 0) -> Cell:
    return Cell(variant=next(variant for variant in VARIANTS if variant.name == name), seed=seed)


def scored(out: Path, one: Cell, em: float, recall: float) -> None:
    folder = out / qa_name(one) / "qa"
    folder.mkdir(parents=True)
    (folder / "dev.json").write_text(json.dumps({"em": em}))
    (folder / "dev.before.json").write_text(json.dumps({"recall": {"5": recall}}))
