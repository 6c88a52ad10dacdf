"""Named sets of settings that come with the package, one YAML file each in recipes/. load.py reads them."""

from functools import cache
from pathlib import Path

_FOLDER = Path(__file__).parent / "recipes"


@cache
def recipe_names() -> tuple[str, ...]:
    """Every recipe, by name."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.yaml")))


def recipe_path(name: str) -> Path:
    """The file of a recipe; its name must be one of recipe_names()."""
    return _FOLDER / f"{name}.yaml"
