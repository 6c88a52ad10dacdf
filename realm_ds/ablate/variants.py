"""The rows of the study: what each takes away from REALM, and what the paper found. Pure; what is run is parts.py's.

The paper's numbers are those of its Table 2, on NaturalQuestions-Open's dev split, in per cent.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from realm_ds.config.schema import RealmConfig
from realm_ds.errors import ConfigError

Origin = Literal["own", "realm", "ict"]
"""Whose weights are fine-tuned: those of a pre-training of this row's own, of REALM's, or of the warm start alone."""


@dataclass(frozen=True, kw_only=True)
class Paper:
    """A row of Table 2."""

    em: float
    recall: float
    """At 5, before fine-tuning."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One row."""

    name: str
    title: str
    towers: Origin = "own"
    encoder: Origin = "own"
    settings: tuple[str, ...] = ()
    """Of its pre-training, over those of REALM's."""
    staleness: int = 1
    """Its index is rebuilt so many times less often."""
    has_ict: bool = True
    """False: the towers of its pre-training start from random weights."""
    paper: Paper | None = None

    def overrides(self, base: RealmConfig) -> tuple[str, ...]:
        """What its pre-training changes in the study's settings."""
        if self.staleness == 1:
            return self.settings
        every = base.refresh.every_steps
        if every == "auto":
            raise ConfigError(
                f"row {self.name} rebuilds the index {self.staleness} times less often, and refresh.every_steps=auto "
                "names no number to multiply: give one"
            )
        return (*self.settings, f"refresh.every_steps={self.staleness * every}")


VARIANTS = (
    Variant(name="realm", title="REALM", paper=Paper(em=38.2, recall=38.5)),
    Variant(
        name="realm-retriever", title="REALM retriever + baseline encoder", towers="realm", encoder="ict",
        paper=Paper(em=37.4, recall=38.5),
    ),
    Variant(
        name="realm-encoder", title="baseline retriever + REALM encoder", towers="ict", encoder="realm",
        paper=Paper(em=35.3, recall=13.9),
    ),
    Variant(
        name="baseline", title="baseline (ICT only)", towers="ict", encoder="ict", paper=Paper(em=31.3, recall=13.9)
    ),
    Variant(
        name="uniform", title="random uniform masks", settings=("pretrain.masking=bert",),
        paper=Paper(em=32.3, recall=24.2),
    ),
    Variant(
        name="random-span", title="random span masks", settings=("pretrain.masking=random_span",),
        paper=Paper(em=35.3, recall=26.1),
    ),
    Variant(name="stale", title="30x stale index", staleness=30, paper=Paper(em=28.7, recall=15.1)),
    Variant(name="per-token", title="marginal per token, not joint", settings=("pretrain.marginal=per_token",)),
    Variant(name="no-null", title="no null passage", settings=("pretrain.null_passage=false",)),
    Variant(name="trivial", title="trivial retrieval allowed", settings=("index.exclude=nothing",)),
    Variant(
        name="current", title="queries from current weights",
        settings=("pretrain.retrieve_with=current", "pretrain.search_ahead=0"),
    ),
    Variant(name="no-ict", title="retriever without ICT", has_ict=False),
)  # fmt: skip
REALM = VARIANTS[0]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A row with one seed."""

    variant: Variant
    seed: int

    def __str__(self) -> str:
        return f"{self.variant.name}:{self.seed}"


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Rows, in the table's order, each with so many seeds."""

    variants: tuple[Variant, ...] = VARIANTS
    seeds: int = 3

    @property
    def cells(self) -> list[Cell]:
        """Every row with every seed, row after row: the order of the tasks of a job array."""
        return [Cell(variant=variant, seed=seed) for variant in self.variants for seed in range(self.seeds)]

    def with_all_of(self, other: "Grid") -> "Grid":
        """The rows of both, with the seeds of that which has more."""
        variants = tuple(one for one in VARIANTS if one in self.variants or one in other.variants)
        return Grid(variants=variants, seeds=max(self.seeds, other.seeds))


def choose(names: str | None) -> tuple[Variant, ...]:
    """The rows of a list such as `realm,stale`, in the table's order; all without one."""
    if names is None:
        return VARIANTS
    wanted = {_named(name.strip()).name for name in names.split(",") if name.strip()}
    if not wanted:
        raise ConfigError(f"--only {names!r} names no row: give some of {_all_names()}")
    return tuple(variant for variant in VARIANTS if variant.name in wanted)


def choose_cell(text: str, cells: Sequence[Cell]) -> Cell:
    """A cell by its name, `realm:0`, whatever the number of seeds, or by its place among the study's cells, `0`."""
    if text.isdecimal():
        if int(text) >= len(cells):
            raise ConfigError(f"--cell {text}: the study has {len(cells)} cells, 0 to {len(cells) - 1}")
        return cells[int(text)]
    name, _, seed = text.partition(":")
    if not seed.isdecimal():
        raise ConfigError(f"--cell {text!r}: write ROW:SEED, such as realm:0, or a number below {len(cells)}")
    return Cell(variant=_named(name), seed=int(seed))


def _named(name: str) -> Variant:
    found = [variant for variant in VARIANTS if variant.name == name]
    if not found:
        close = get_close_matches(name, [variant.name for variant in VARIANTS], n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ConfigError(f"there is no row {name!r} in the study: choose from {_all_names()}{hint}")
    return found[0]


def _all_names() -> str:
    return ", ".join(variant.name for variant in VARIANTS)
