"""`realm-ds report`: which folders are reported on, as a page, as Markdown with its plots, or as numbers."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from realm_ds.errors import ConfigError, RealmError
from realm_ds.files import write_durably
from realm_ds.reports.comparison import differences
from realm_ds.reports.demo import demo_sections, read_report
from realm_ds.reports.document import PLOT_FOLDER, Document, Section, below, markdown
from realm_ds.reports.history import SPLITS, RunHistory, read_history
from realm_ds.reports.page import page
from realm_ds.reports.plots import Runs
from realm_ds.reports.runs import runs_in, short_names
from realm_ds.reports.sections import changed_settings, sections_of

STAGE_TITLES = {"ict": "Warm start (ICT)", "pretrain": "Pre-training", "qa": "Fine-tuning"}


def report_on(folder: Path, other: Path | None, *, out: Path | None = None) -> tuple[Path, Path]:
    """Write report.html and report.md, by default into the first folder; returns their paths."""
    document = document_of(folder, other)
    return write_document(document, out or folder)


def write_document(document: Document, folder: Path) -> tuple[Path, Path]:
    """The page, the Markdown, and the drawings that the latter shows."""
    paths = folder / "report.html", folder / "report.md"
    (folder / PLOT_FOLDER).mkdir(parents=True, exist_ok=True)
    for plot in document.plots:
        write_durably(folder / PLOT_FOLDER / f"{plot.name}.svg", plot.file_svg)
    for path, text in zip(paths, (page(document), markdown(document)), strict=True):
        write_durably(path, text)
    return paths


def document_of(folder: Path, other: Path | None = None) -> Document:
    """A run; two runs of one stage; or all stages of a demo or a pipeline."""
    runs = runs_in(folder)
    if other is None and runs != [folder]:
        return _of_stages(folder, runs)
    named = _named([folder] if other is None else [folder, other])
    first = next(iter(named.values()))
    title = " and ".join(named) if other is not None else f"{STAGE_TITLES[first.stage]}: {first.folder.name}"
    beside = "" if other is None else ", beside each other"
    lead = f"{_folders(named)}: {STAGE_TITLES[first.stage]}{beside}, from what the ranks wrote down."
    return Document(title=title, lead=lead, sections=tuple(sections_of(named)))


def numbers_of(folder: Path, other: Path | None = None) -> dict[str, Any]:
    """All that a report says as JSON has it; of two runs, what differs as well."""
    if other is None:
        runs = [run for run in runs_in(folder) if run == folder or (run / "metrics").is_dir()]
        histories = [read_history(run) for run in runs]
        if runs == [folder]:
            return _numbers(histories[0])
        return {history.stage: _numbers(history) for history in histories}
    named = _named([folder, other])
    found: dict[str, Any] = {"runs": [_numbers(run) for run in named.values()], "differences": {}}
    for split in SPLITS:
        try:
            found["differences"][split] = differences(named, split=split)
        except RealmError:
            continue  # The Markdown says why.
    return found


def _of_stages(folder: Path, runs: Sequence[Path]) -> Document:
    """What a demo found, if it has ended, and below it each stage that has begun."""
    sections: list[Section] = []
    report = read_report(folder)
    if report is not None:
        sections += demo_sections(folder, report)
    for run in runs:
        if (run / "metrics").is_dir():
            history = read_history(run)
            own = sections_of({history.stage: history})
            sections += below(own, title=STAGE_TITLES[history.stage], name=history.stage)
    return Document(title="What this run reached", lead=f"{folder}, stage by stage.", sections=tuple(sections))


def _named(folders: Sequence[Path]) -> dict[str, RunHistory]:
    """Runs by what they are called: their folders' names, or, where these are alike, with those above."""
    for folder in folders:
        if runs_in(folder) != [folder] and len(folders) > 1:
            raise ConfigError(
                f"{folder} holds several stages: name two runs of one stage to compare, such as {runs_in(folder)[-1]}"
            )
    histories = [read_history(folder) for folder in folders]
    if len({history.stage for history in histories}) > 1:
        said = " and ".join(f"{history.folder} is {history.stage}" for history in histories)
        raise ConfigError(f"runs of different stages have nothing to compare: {said}; name two of one stage")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ConfigError(f"{folders[0]} is named twice: name another run to compare it with")
    return dict(zip(short_names(folders), histories, strict=True))


def _folders(named: Runs) -> str:
    return " and ".join(str(run.folder) for run in named.values())


def _numbers(run: RunHistory) -> dict[str, Any]:
    found = {
        field.name: getattr(run, field.name) for field in dataclasses.fields(run) if field.name not in ("settings",)
    }
    return {
        **{name: _plain(value) for name, value in found.items()},
        "settings": {name: _plain(value) for name, (_, value) in changed_settings(run).items()},
        "time_split": run.time_split(),
    }


def _plain(value: Any) -> Any:
    """As JSON has it."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return str(value) if isinstance(value, Path) else value
