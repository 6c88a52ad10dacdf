"""Which finder of salient spans: chosen in settings, opened in a worker process."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

from realm_ds.errors import ConfigError
from realm_ds.models.hub import tagger_folder
from realm_ds.prepare.dates import find_dates
from realm_ds.prepare.entities import DEFAULT_PIPELINE, spacy_finder
from realm_ds.prepare.rules import find_names_and_quantities
from realm_ds.prepare.spans import Span, SpanFinder, combined
from realm_ds.prepare.token_classifier import tagging_finder

FinderKind = Literal["rules", "spacy", "transformers"]
_SETTINGS = ("config.json", "meta.json", "config.cfg")
_WEIGHTS = ("*.safetensors", "*.bin", "model", "vectors")
"""Files of transformers models and of spaCy pipelines."""


@dataclass(frozen=True, kw_only=True)
class FinderChoice:
    """A finder by name; a plain value, so that it travels to worker processes and into a manifest."""

    kind: FinderKind = "rules"
    model: str = ""
    """spacy: a pipeline, installed or a folder. transformers: a folder, or a name on the hub."""
    entity_types: tuple[str, ...] = ()
    """None: the usual ones (entities.py)."""
    dates: bool = True
    """Find dates as well."""
    folder: Path | None = None
    """Of the model on this machine; of one from the hub `at_hand` knows it. None: an installed pipeline, or rules."""

    def __post_init__(self) -> None:
        if self.kind == "rules" and (self.model or self.entity_types):
            raise ConfigError(
                "--spans rules takes no --model and no --entity-types: leave them out, or choose spacy or transformers"
            )
        if self.kind == "transformers" and not self.model:
            raise ConfigError(
                "--spans transformers needs --model: a folder with a token-classification model, or its name on the hub"
            )
        if self.kind == "spacy" and not self.model:
            object.__setattr__(self, "model", DEFAULT_PIPELINE)
        if self.model and Path(self.model).is_dir():
            object.__setattr__(self, "folder", Path(self.model))

    def described(self) -> dict[str, Any]:
        """For the manifest: without the paths of this machine."""
        model = {"model": Path(self.model).name if Path(self.model).is_dir() else self.model}
        if self.folder is not None:
            model["model_digest"] = _digest(self.folder)
        return {"spans": self.kind, **model, "entity_types": list(self.entity_types), "dates": self.dates}

    def at_hand(self) -> Self:
        """The same with its model on this machine, fetched once, before worker processes open it."""
        return replace(self, folder=tagger_folder(self.model)) if self.kind == "transformers" else self


def open_finder(choice: FinderChoice) -> SpanFinder:
    """The finder, its model loaded."""
    entities = _open_entities(choice)
    return combined([entities, _dates]) if choice.dates else entities


def _open_entities(choice: FinderChoice) -> SpanFinder:
    match choice.kind:
        case "rules":
            return find_names_and_quantities
        case "spacy":
            return spacy_finder(choice.model, entity_types=choice.entity_types)
        case "transformers":
            return tagging_finder(choice.folder or Path(choice.model), entity_types=choice.entity_types)


def _digest(folder: Path) -> str:
    """Of a model's settings and the sizes of its weights, which are too much to be read for this."""
    digest = hashlib.sha256()
    for path in sorted(path for name in (*_SETTINGS, *_WEIGHTS) for path in folder.rglob(name) if path.is_file()):
        content = path.read_bytes() if path.name in _SETTINGS else b""
        digest.update(f"{path.relative_to(folder)} {path.stat().st_size}\n".encode() + content)
    return digest.hexdigest()


def _dates(sentences: Sequence[str]) -> list[list[Span]]:
    return [list(find_dates(sentence)) for sentence in sentences]
