"""The study as a graph: which folders there are, which command lines make them, and what must be there before. Pure.

    OUT/data    OUT/ict/seed-S    OUT/pretrain/ROW-seed-S    OUT/qa/ROW-seed-S

All but the first are run folders as any other, made by the verbs that people type. Running them is run.py's business.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from realm_ds.ablate.variants import REALM, Cell, Origin
from realm_ds.config.base import StageName
from realm_ds.config.load import RUN_CONFIG
from realm_ds.config.schema import RealmConfig

DATA = "data"
EXPORT = "export"
Command = tuple[str, ...]
"""What comes after `realm-ds`."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One folder of the study, and how it is made."""

    name: str
    """Of the folder, within the study's."""
    commands: tuple[Command, ...]
    """One after the other; the first of a stage goes on from its checkpoint where there is one."""
    stage: StageName | None = None
    """What the first command trains; None if nothing."""
    needs: tuple[str, ...] = ()
    """Parts that must be done before."""
    leaves: tuple[str, ...] = ()
    """What may be removed in its folder once it is done."""
    releases: tuple[str, ...] = ()
    """Parts whose exports nothing needs once it is done."""


def parts_of(cells: Sequence[Cell], *, base: RealmConfig, out: Path, data: Sequence[Command]) -> list[Part]:
    """All that these cells need, each once and after what it needs: data, warm starts, then cell by cell.

    `data` are the commands that make OUT/data; none if the study reads what was there before.
    """
    parts = [Part(name=DATA, commands=tuple(data))] if data else []
    needs = tuple(part.name for part in parts)
    parts += [_ict(cell.seed, out=out, needs=needs) for cell in cells]
    for cell in cells:
        parts += _of_cell(cell, base=base, out=out)
    return list({part.name: part for part in parts}.values())


def ict_name(seed: int) -> str:
    """The warm start that all cells of a seed share."""
    return f"ict/seed-{seed}"


def pretrain_name(cell: Cell) -> str:
    return f"pretrain/{cell.variant.name}-seed-{cell.seed}"


def qa_name(cell: Cell) -> str:
    """The part whose scores are the cell's."""
    return f"qa/{cell.variant.name}-seed-{cell.seed}"


def _of_cell(cell: Cell, *, base: RealmConfig, out: Path) -> Iterator[Part]:
    variant = cell.variant
    realm = Cell(variant=REALM, seed=cell.seed)
    if "realm" in (variant.towers, variant.encoder):
        yield _pretrain(realm, base=base, out=out)
    if "own" in (variant.towers, variant.encoder):
        yield _pretrain(cell, base=base, out=out)
    towers, encoder = _origin(cell, variant.towers), _origin(cell, variant.encoder)
    settings = [f"model.start_from={out / towers / EXPORT}"]
    if encoder != towers:
        settings.append(f"model.encoder_from={out / encoder / EXPORT}")
    own = pretrain_name(cell)
    yield Part(
        name=qa_name(cell), stage="qa", commands=(_training(("qa", "train"), qa_name(cell), cell.seed, settings, out),),
        needs=tuple(dict.fromkeys((towers, encoder))), leaves=("checkpoints", "index", "events", EXPORT),
        releases=(own,) if own in (towers, encoder) and variant is not REALM else (),
    )  # fmt: skip


def _ict(seed: int, *, out: Path, needs: tuple[str, ...]) -> Part:
    name = ict_name(seed)
    return Part(
        name=name, stage="ict", commands=(_training(("ict",), name, seed, (), out), _export(name, out)), needs=needs,
        leaves=("checkpoints", "events"),
    )  # fmt: skip


def _pretrain(cell: Cell, *, base: RealmConfig, out: Path) -> Part:
    name, ict = pretrain_name(cell), ict_name(cell.seed)
    start = "start_from" if cell.variant.has_ict else "encoder_from"
    settings = (f"model.{start}={out / ict / EXPORT}", *cell.variant.overrides(base))
    return Part(
        name=name, stage="pretrain",
        commands=(_training(("pretrain",), name, cell.seed, settings, out), _export(name, out)), needs=(ict,),
        leaves=("checkpoints", "index", "events", "best"),
    )  # fmt: skip


def _training(verb: Command, name: str, seed: int, settings: Sequence[str], out: Path) -> Command:
    where = ("--config", str(out / RUN_CONFIG), "--run", str(out / name))
    return (*verb, *where, f"runtime.seed={seed}", *settings)


def _export(name: str, out: Path) -> Command:
    return ("export", "--run", str(out / name), "--models-only")


def _origin(cell: Cell, origin: Origin) -> str:
    """The part that these weights come from."""
    if origin == "ict":
        return ict_name(cell.seed)
    return pretrain_name(cell if origin == "own" else Cell(variant=REALM, seed=cell.seed))
