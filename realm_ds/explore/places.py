"""What there is to look at in the folders that a person names: models to ask, and runs to browse. Nothing is opened."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from realm_ds.config.load import RUN_CONFIG
from realm_ds.errors import CheckpointError, DataError
from realm_ds.eval.exported import SETTINGS_FILE, find_export
from realm_ds.index.store import SNAPSHOT_FILE, stored_versions, version_folder
from realm_ds.models.names import ENCODER, READER
from realm_ds.reports.runs import STAGES, runs_of_study, short_names


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A model that can be asked."""

    name: str
    folder: Path
    """Of the export, or of the run that has it."""
    version: int | None = None
    """Of the run's index versions the one to search with the towers that it was built with; None: the export's own."""

    @property
    def export(self) -> Path:
        """Raises CheckpointError where it is no longer there."""
        return find_export(self.folder)

    @property
    def answers_questions(self) -> bool:
        """Fine-tuned models answer questions, pre-trained ones fill in a blank."""
        return (self.export / READER).is_dir()

    @property
    def asks_for(self) -> str:
        """What the model is to be given."""
        return "Question" if self.answers_questions else "Statement with a blank, [MASK] or ___"


@dataclass(frozen=True, kw_only=True)
class Places:
    """All that can be looked at."""

    choices: tuple[Choice, ...]
    runs: tuple[tuple[str, Path], ...]
    """Folders of runs with their names."""

    @property
    def names(self) -> list[str]:
        """Of the choices."""
        return [choice.name for choice in self.choices]

    @property
    def exports(self) -> list[int]:
        """Numbers of the choices that are exports as they are."""
        return [number for number, choice in enumerate(self.choices) if choice.version is None]


def chosen_of(count: int, *, asked_for: str, otherwise: int) -> int:
    """One of `count` by the number that an address has, which people may have changed."""
    return next((number for number in range(count) if str(number) == asked_for), otherwise)


def find_places(folders: Sequence[Path]) -> Places:
    """The exports and runs that the folders are or hold. Raises CheckpointError or DataError where there are none."""
    found = {path.resolve(): path.absolute() for folder in folders for path in _inside(folder)}
    paths = list(found.values())
    named = [path.parent if path.name == "export" else path for path in paths]
    names = dict(zip(paths, short_names(named), strict=True))
    choices = [choice for path, name in names.items() for choice in _choices(name, path)]
    runs = [(name, path) for path, name in names.items() if (path / RUN_CONFIG).is_file()]
    return Places(choices=tuple(choices), runs=tuple(runs))


def _inside(folder: Path) -> list[Path]:
    """The folder itself, or what is inside a demo's or a study's, in the order in which that was made."""
    if not folder.is_dir():
        raise DataError(f"no folder {folder}: name a run, a demo's folder or an export")
    if runs := runs_of_study(folder):
        return runs
    if _is_place(folder):
        return [folder]
    inside = [path for path in folder.iterdir() if path.is_dir() and _is_place(path)]
    if not inside:
        raise CheckpointError(
            f"{folder} holds neither a run ({RUN_CONFIG}) nor an export ({SETTINGS_FILE}): name the folder that was "
            "given as --run, a demo's, or what `realm-ds export` wrote"
        )
    order: dict[str, int] = {stage: place for place, stage in enumerate(STAGES)}
    return sorted(inside, key=lambda path: (order.get(path.name, len(order)), path.name))


def _is_place(folder: Path) -> bool:
    return (folder / RUN_CONFIG).is_file() or _has_export(folder)


def _has_export(folder: Path) -> bool:
    return any((place / SETTINGS_FILE).is_file() for place in (folder, folder / "export"))


def _choices(name: str, path: Path) -> Iterator[Choice]:
    if not _has_export(path):
        return
    yield Choice(name=name, folder=path)
    # The encoder that reads is the export's: without one there is nothing to read with.
    if (path / RUN_CONFIG).is_file() and (find_export(path) / ENCODER).is_dir():
        for version in stored_versions(path / "index"):
            if (version_folder(path / "index", version) / SNAPSHOT_FILE).is_file():
                yield Choice(name=f"{name}, index version {version}", folder=path, version=version)
