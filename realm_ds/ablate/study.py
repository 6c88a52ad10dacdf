"""A study in its folder: its settings, what it reads, and the whole of a run of it, from data to the table.

    OUT/{config.yaml, making.json, cells.json, data/, ict/, pretrain/, qa/, parts/, ablate.json, ablate.md, ablate.svg}

Which parts there are is parts.py's business, running them run.py's, what comes out scores.py's.
"""

import json
import logging
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from realm_ds.ablate.display import Display
from realm_ds.ablate.parts import DATA, Command, Part, ict_name, parts_of, pretrain_name, qa_name
from realm_ds.ablate.run import Failure, command_line, facts_of, is_done, run_parts
from realm_ds.ablate.scores import as_json, read_score, rows_of, scores_in, table
from realm_ds.ablate.variants import Cell, Grid, choose
from realm_ds.config.load import RUN_CONFIG, dump, load, load_incomplete
from realm_ds.config.schema import RealmConfig
from realm_ds.errors import ConfigError, DataError, RealmError
from realm_ds.files import write_durably
from realm_ds.observe.notice import Notice
from realm_ds.observe.progress import Progress

logger = logging.getLogger(__name__)

RECIPE = "ablate"
MAKING = "making.json"
"""In the study's folder: the commands that make its data."""
CELLS = "cells.json"
"""Beside it: the study's rows, and how many seeds each has."""
PREPARED = ("corpus", "pretrain", "tokenizer")
"""What is in OUT/data, by its names among the settings; OUT/data/qa are questions."""
LINE_EVERY_S = 30.0
"""Where there is no terminal: a study takes an hour and more."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """What is studied, and where."""

    out: Path
    base: RealmConfig
    data: Sequence[Command]
    """What makes OUT/data; nothing where the settings name what is there already."""
    grid: Grid
    """Its rows and seeds."""
    cell: Cell | None = None
    """The only one to be made now; None for all."""

    @property
    def cells(self) -> list[Cell]:
        """To be made now."""
        return self.grid.cells if self.cell is None else [self.cell]

    @property
    def go_on(self) -> str:
        """The command line that goes on with it."""
        only = [] if self.cell is None else ["--cell", str(self.cell)]
        return shlex.join(["realm-ds", "ablate", "--out", str(self.out), "--resume", *only])

    @property
    def parts(self) -> list[Part]:
        return parts_of(self.cells, base=self.base, out=self.out, data=self.data)


def settings_of(
    out: Path, *, source: str | None, overrides: Sequence[str], corpus: Path | None, questions: Path | None
) -> tuple[RealmConfig, list[Command]]:
    """The study's settings, and the commands that make what it reads: those of the folder, or as given.

    Raises ConfigError where a study in the folder has others: its parts would not be comparable.
    """
    path, data = out / RUN_CONFIG, out / DATA
    kept = load(path) if path.is_file() else None
    settings: str | Path = source or (path if kept else RECIPE)
    places = _places_left_out(settings, overrides, kept=kept, data=data, corpus=corpus, questions=questions)
    base = load(settings, [*(f"{name}={place}" for name, place in places.items()), *overrides])
    if kept is not None and dump(base) != dump(kept):
        raise ConfigError(
            f"{out} holds a study with other settings{_first_difference(kept, base)}: its rows could not be compared "
            "with these. Leave --config, --questions and settings out to go on with it, or name another --out"
        )
    if kept is None or not (out / MAKING).is_file():
        return base, _making(base, data, corpus=corpus)
    making = [tuple(command) for command in json.loads((out / MAKING).read_bytes())]
    if corpus is not None and (not making or making != _making(base, data, corpus=corpus)):
        raise ConfigError(
            f"{out} holds a study of other documents than --corpus {corpus}, see {out / MAKING}. Leave --corpus out to "
            "go on with it, or name another --out"
        )
    return base, making


def _places_left_out(
    source: str | Path, overrides: Sequence[str], *, kept: RealmConfig | None, data: Path, corpus: Path | None,
    questions: Path | None,
) -> dict[str, Path | str]:  # fmt: skip
    """What the study reads, by the settings that do not say so: as the folder has it, else what is made in it.

    Raises ConfigError where a part of it is named, which would be mixed with another corpus's.
    """
    given, missing = load_incomplete(source, overrides)
    named = [name for name in PREPARED if ("data", name) not in missing and getattr(given.data, name) is not None]
    if named and len(named) < len(PREPARED):
        raise ConfigError(
            f"the settings name {_listed(named)}, and the study needs all of {_listed(PREPARED)}, of one corpus: name "
            "all, or none to have them made"
        )
    if named and kept is None and corpus is not None:
        raise ConfigError(f"--corpus {corpus} is to be prepared, and the settings name what is: leave one of them out")
    if kept is None and questions is not None and given.qa.data is not None:
        raise ConfigError(f"--questions {questions}, and the settings name qa.data: leave one of them out")
    if kept is None and questions is None and given.qa.data is None and (named or corpus is not None):
        what = "the corpus that the settings name" if corpus is None else f"--corpus {corpus}"
        raise ConfigError(f"{what} needs questions that it answers: name their folder with --questions")
    places = {} if named else {f"data.{name}": getattr(kept.data, name) if kept else data / name for name in PREPARED}
    if questions is not None or given.qa.data is None:
        places["qa.data"] = questions or (kept.qa.data if kept else data / "qa")
    return places


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"data.{name}" for name in names)


def asked_for(out: Path, *, only: str | None, seeds: int | None) -> Grid:
    """Rows and seeds as given; what is not given is as in the folder's study, or else all rows with 3 seeds."""
    kept = _kept_grid(out) or Grid()
    return Grid(variants=kept.variants if only is None else choose(only), seeds=seeds or kept.seeds)


def widened(out: Path, asked: Grid) -> Grid:
    """What is asked for beside what the folder's study has already."""
    kept = _kept_grid(out)
    return asked if kept is None else kept.with_all_of(asked)


def _kept_grid(out: Path) -> Grid | None:
    if not (out / CELLS).is_file():
        return None
    kept = json.loads((out / CELLS).read_bytes())
    return Grid(variants=choose(",".join(kept["rows"])), seeds=kept["seeds"])


def run_study(study: Study, *, jobs: int) -> list[Failure]:
    """Do what is left of the study, and tell how far it is; returns what failed.

    Raises Preempted where a signal asks it to end; however it ends early, the table of what is done is written.
    """
    prepare_folder(study)
    notice = Notice().listen()
    with Progress(every_s=LINE_EVERY_S) as progress:
        display = Display(study.out, study.parts, cells=study.cells, base=study.base, progress=progress)
        try:
            failures = run_parts(
                study.parts, out=study.out, jobs=jobs, notice=notice, go_on=study.go_on, on_change=display
            )
        except BaseException:
            _try_to_write_table(study.out)
            raise
    return failures + _damaged(study)


def prepare_folder(study: Study) -> None:
    """Write the settings that all parts are made with, and what makes the data."""
    study.out.mkdir(parents=True, exist_ok=True)
    write_durably(study.out / MAKING, json.dumps(study.data) + "\n")
    grid = {"rows": [variant.name for variant in study.grid.variants], "seeds": study.grid.seeds}
    write_durably(study.out / CELLS, json.dumps(grid) + "\n")
    write_durably(study.out / RUN_CONFIG, dump(study.base))


def write_table(out: Path) -> str:
    """ablate.json, ablate.md and ablate.svg of all that is done so far, by whomever; returns the table."""
    from realm_ds.ablate.plots import draw_study

    scores = scores_in(out)
    rows = rows_of(scores)
    text = table(rows)
    costs = {cell: _cost(out, cell) for cell in scores}
    write_durably(out / "ablate.json", json.dumps(as_json(rows, scores, costs=costs), indent=1) + "\n")
    write_durably(out / "ablate.md", text)
    try:
        if rows:
            draw_study(out / "ablate.svg", rows)
    except ConfigError as error:  # no reason to lose the rest
        logger.warning("%s is not drawn: %s", out / "ablate.svg", error)
    return text


def _try_to_write_table(out: Path) -> None:
    """While another error is on its way, which says more."""
    try:
        write_table(out)
    except (RealmError, OSError) as error:
        logger.warning("the table of what is done could not be written: %s", error)


def _damaged(study: Study) -> list[Failure]:
    """Cells that were made, but whose scores cannot be read."""
    failures = []
    for cell in study.cells:
        try:
            read_score(study.out, cell)
        except DataError as error:
            failures.append(Failure(part=qa_name(cell), why=str(error)))
    return failures


def describe_plan(study: Study, asked: Grid) -> str:
    """The cells asked for, each with its number, and every command line with whether it is still to be run."""
    lines = ["# cells, by the number that --cell takes beside the same --only and --seeds"]
    lines += [f"# {number:3} {cell}  {cell.variant.title}" for number, cell in enumerate(asked.cells)]
    for part in study.parts:
        lines.append(f"\n# {part.name}{' (done)' if is_done(study.out, part) else ''}")
        lines += [shlex.join(command_line(command)) for command in part.commands]
    return "\n".join(lines)


def _cost(out: Path, cell: Cell) -> dict[str, Any]:
    """Seconds and bytes of the parts that are the cell's own; what it shares is not counted."""
    facts = [facts_of(out, name) for name in (pretrain_name(cell), qa_name(cell))]
    return {
        name: sum(fact.get(name, 0) for fact in facts) for name in ("took_s", "kept_bytes", "removed_bytes")
    } | {"ict_s": facts_of(out, ict_name(cell.seed)).get("took_s")}  # fmt: skip


def _making(base: RealmConfig, data: Path, *, corpus: Path | None) -> list[Command]:
    """Of documents, their passages and what is masked in them; without, the Factbook, unless nothing of it is read."""
    places = {str(base.data.corpus), str(base.data.pretrain), str(base.data.tokenizer), str(base.qa.data)}
    if not any(Path(place).is_relative_to(data) for place in places):
        return []
    if corpus is None:
        return [("prepare", "demo", str(data))]
    tokenizer, passages = str(data / "tokenizer"), str(data / "corpus")
    tokens = str(base.data.passage_tokens)
    return [
        ("prepare", "tokenizer", str(corpus), "--out", tokenizer, "--vocab-size", "8000"),
        ("prepare", "corpus", str(corpus), "--tokenizer", tokenizer, "--out", passages, "--passage-tokens", tokens),
        ("prepare", "pretrain", "--corpus", passages, "--tokenizer", tokenizer, "--out", str(data / "pretrain")),
    ]  # fmt: skip


def _first_difference(before: RealmConfig, now: RealmConfig) -> str:
    for (name, old), (_, new) in zip(_flat(before.model_dump()), _flat(now.model_dump()), strict=True):
        if old != new:
            return f" ({name}={old} there, {new} here)"
    return ""


def _flat(tree: Mapping[str, Any], above: str = "") -> list[tuple[str, Any]]:
    found = []
    for name, value in tree.items():
        found += _flat(value, f"{above}{name}.") if isinstance(value, dict) else [(f"{above}{name}", value)]
    return found
