"""Which finder of salient spans: chosen in settings, opened in a worker process."""

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

    def described(self) -> dict[str, Any]:
        """For the manifest: without the paths of this machine."""
        model = Path(self.model).name if Path(self.model).is_dir() else self.model
        return {"spans": self.kind, "model": model, "entity_types": list(self.entity_types), "dates": self.dates}

    def at_hand(self) -> Self:
        """The same with its model on this machine, fetched once, before worker processes open it."""
        return replace(self, model=str(tagger_folder(self.model))) if self.kind == "transformers" else self


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
            return tagging_finder(Path(choice.model), entity_types=choice.entity_types)


def _dates(sentences: Sequence[str]) -> list[list[Span]]:
    return [list(find_dates(sentence)) for sentence in sentences]
