"""A study in its folder: its settings, what it reads, and the whole of a run of it, from data to the table.

    OUT/{config.yaml, making.json, data/, ict/, pretrain/, qa/, parts/, ablate.json, ablate.md, ablate.svg}

Which parts there are is parts.py's business, running them run.py's, what comes out scores.py's.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from realm_ds.ablate.display import Display
from realm_ds.ablate.parts import DATA, Command, Part, ict_name, parts_of, pretrain_name, qa_name
from realm_ds.ablate.run import Failure, command_line, facts_of, is_done, run_parts
from realm_ds.ablate.scores import Score, as_json, read_score, rows_of, table
from realm_ds.ablate.variants import Cell
from realm_ds.config.load import RUN_CONFIG, dump, load
from realm_ds.config.schema import RealmConfig
from realm_ds.errors import ConfigError
from realm_ds.files import write_durably
from realm_ds.observe.notice import Notice
from realm_ds.observe.progress import Progress

RECIPE = "ablate"
MAKING = "making.json"
"""In the study's folder: the commands that make its data."""
LINE_EVERY_S = 30.0
"""Where there is no terminal: a study takes hours."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """What is studied, and where."""

    out: Path
    base: RealmConfig
    cells: Sequence[Cell]
    data: Sequence[Command]
    """What makes OUT/data; nothing where the settings name what is there already."""

    @property
    def parts(self) -> list[Part]:
        return parts_of(self.cells, base=self.base, out=self.out, data=self.data)

    def scores(self) -> dict[Cell, Score]:
        """Of the cells that have any."""
        found = {cell: read_score(self.out, cell) for cell in self.cells}
        return {cell: score for cell, score in found.items() if score is not None}


def settings_of(
    out: Path, *, source: str | None, overrides: Sequence[str], corpus: Path | None, questions: Path | None
) -> tuple[RealmConfig, list[Command]]:
    """The study's settings, and the commands that make what it reads: those of the folder, or as given.

    Raises ConfigError where a study in the folder has others: its parts would not be comparable.
    """
    path = out / RUN_CONFIG
    is_given = source is not None or overrides or corpus is not None or questions is not None
    data = out / DATA
    if path.is_file() and not is_given:
        base = load(path)
    else:
        names = ("corpus", "pretrain", "tokenizer")
        own = [*(f"data.{name}={data / name}" for name in names), f"qa.data={questions or data / 'qa'}"]
        base = load(source or RECIPE, [*own, *overrides])
        if path.is_file() and dump(base) != dump(load(path)):
            raise ConfigError(
                f"{out} holds a study with other settings{_first_difference(load(path), base)}: its rows could not be "
                "compared with these. Leave --config and settings out to go on with it, or name another --out"
            )
    if corpus is None and (out / MAKING).is_file():
        return base, [tuple(command) for command in json.loads((out / MAKING).read_bytes())]
    return base, _making(base, data, corpus=corpus)


def run_study(study: Study, *, jobs: int) -> list[Failure]:
    """Do what is left of the study, tell how far it is, and write the table; returns what failed.

    Raises Preempted where a signal asks it to end.
    """
    prepare_folder(study)
    notice = Notice().listen()
    with Progress(every_s=LINE_EVERY_S) as progress:
        display = Display(study.out, study.parts, cells=study.cells, base=study.base, progress=progress)
        try:
            return run_parts(study.parts, out=study.out, jobs=jobs, notice=notice, on_change=display)
        finally:
            write_table(study)


def prepare_folder(study: Study) -> None:
    """Write the settings that all parts are made with, and what makes the data."""
    study.out.mkdir(parents=True, exist_ok=True)
    write_durably(study.out / MAKING, json.dumps(study.data) + "\n")
    write_durably(study.out / RUN_CONFIG, dump(study.base))


def write_table(study: Study) -> str:
    """ablate.json, ablate.md and ablate.svg of what is done so far; returns the table."""
    from realm_ds.ablate.plots import draw_study

    scores = study.scores()
    rows = rows_of(scores)
    text = table(rows)
    costs = {cell: _cost(study, cell) for cell in scores}
    write_durably(study.out / "ablate.json", json.dumps(as_json(rows, scores, costs=costs), indent=1) + "\n")
    write_durably(study.out / "ablate.md", text)
    if rows:
        draw_study(study.out / "ablate.svg", rows)
    return text


def describe_plan(study: Study) -> str:
    """Every cell with its number, and every command line with whether it is still to be run."""
    import shlex

    lines = ["# cells, by the number that --cell takes"]
    lines += [f"# {number:3} {cell}  {cell.variant.title}" for number, cell in enumerate(study.cells)]
    for part in study.parts:
        lines.append(f"\n# {part.name}{' (done)' if is_done(study.out, part) else ''}")
        lines += [shlex.join(command_line(command)) for command in part.commands]
    return "\n".join(lines)


def _cost(study: Study, cell: Cell) -> dict[str, Any]:
    """Seconds and bytes of the parts that are the cell's own; what it shares is not counted."""
    names = [name for name in (pretrain_name(cell), qa_name(cell)) if facts_of(study.out, name)]
    facts = [facts_of(study.out, name) for name in names]
    return {
        name: sum(fact.get(name, 0) for fact in facts) for name in ("took_s", "kept_bytes", "removed_bytes")
    } | {"ict_s": facts_of(study.out, ict_name(cell.seed)).get("took_s")}  # fmt: skip


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
