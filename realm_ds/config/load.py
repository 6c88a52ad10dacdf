"""From a YAML file, a recipe and `a.b=c` overrides to one checked RealmConfig, and back to text.

What the settings mean is schema.py's business. All mistakes found are in one ConfigError: mended in one go.
"""

import functools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from realm_ds.config.deepspeed import is_packaged_name
from realm_ds.config.fields import field_of, help_of, is_path, may_be_name, nearest, required_fields, section_of
from realm_ds.config.places import is_elsewhere
from realm_ds.config.recipes import recipe_names, recipe_path
from realm_ds.config.schema import RealmConfig
from realm_ds.errors import ConfigError

RUN_CONFIG = "config.yaml"
"""The resolved settings in a run folder."""
HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
"""A model on the hub, such as org/model; a folder of that name comes first."""
NOT_GIVEN = Path("/not/given")
"""No folder has this name."""
RECIPE_KEY = "recipe"
"""Top-level key of a config file: the recipe it starts from."""

Key = tuple[str, ...]


@dataclass(kw_only=True)
class _Gathered:
    """The settings read so far, where each came from, and what is wrong."""

    values: dict[Key, Any] = field(default_factory=dict)
    origins: dict[Key, str] = field(default_factory=dict)
    mistakes: list[str] = field(default_factory=list)

    def put(self, key: Key, value: Any, *, origin: str, relative_to: Path) -> None:
        """Take one setting, checking its name and making a path absolute."""
        if section_of(key) is not None:
            if value is not None and value != {}:
                self.mistakes.append(f"{'.'.join(key)} ({origin}) is a section of settings, not a value: {value!r}")
            return
        if field_of(key) is None:
            self.mistakes.append(f"{'.'.join(key)} ({origin}) is no setting{_hint(key)}")
            return
        if is_path(key) and isinstance(value, str):
            path = Path(os.path.normpath(relative_to / Path(value).expanduser()))
            value = value if _is_name(key, value, path) else path
        self.values[key] = value
        self.origins[key] = origin

    def nested(self) -> dict[str, Any]:
        """The settings as pydantic takes them."""
        tree: dict[str, Any] = {section: {} for section, *_ in required_fields()}  # so that a missing one has its name
        for key, value in self.values.items():
            branch = tree
            for part in key[:-1]:
                branch = branch.setdefault(part, {})
            branch[key[-1]] = value
        return tree


def load(source: str | Path | None, overrides: Sequence[str] = (), *, cwd: Path | None = None) -> RealmConfig:
    """Settings of `source` (a YAML file, a recipe's name or a run folder) with overrides on top."""
    return _checked(_gather(source, overrides, cwd or Path.cwd()))


def load_for(run: Path, source: str | Path | None, overrides: Sequence[str] = ()) -> RealmConfig:
    """What load() gives; without a source, of the settings that the run folder has already."""
    if source is None:
        if not (run / RUN_CONFIG).is_file():
            raise ConfigError(
                f"{run} is no run yet: name its settings with --config: a YAML file or a recipe (realm-base is the "
                "paper's model and wants GPUs, demo a small one, demo-quick a tiny one)"
            )
        source = run
    return load(source, overrides)


def load_incomplete(source: str | Path, overrides: Sequence[str] = ()) -> tuple[RealmConfig, list[Key]]:
    """As load(), but settings without a default may be missing, as in a recipe: those that are hold NOT_GIVEN."""
    gathered = _gather(source, overrides, Path.cwd())
    missing = [key for key in required_fields() if key not in gathered.values]
    for key in missing:
        gathered.values[key] = NOT_GIVEN
    return _checked(gathered), missing


def show(source: str | Path, overrides: Sequence[str] = ()) -> str:
    """What load_incomplete() gives, as YAML; what is missing is named."""
    config, missing = load_incomplete(source, overrides)
    tree = config.model_dump(mode="json")
    for *sections, name in missing:
        functools.reduce(dict.__getitem__, sections, tree).pop(name)
    needed = ", ".join(map(".".join, missing))
    return (f"# a run needs besides: {needed}\n" if missing else "") + _yaml(tree)


def dump(config: BaseModel) -> str:
    """The resolved settings as YAML, which load() reads back to an equal config."""
    return _yaml(config.model_dump(mode="json"))


def _gather(source: str | Path | None, overrides: Sequence[str], here: Path) -> _Gathered:
    gathered = _Gathered()
    if source is not None:
        _read_source(source, gathered, here)
    for override in overrides:
        _read_override(override, gathered, here)
    return gathered


def _checked(gathered: _Gathered) -> RealmConfig:
    try:
        config = RealmConfig.model_validate(gathered.nested())
    except ValidationError as error:
        gathered.mistakes += [_explain_mistake(detail, gathered.origins) for detail in error.errors()]
    else:
        if not gathered.mistakes:
            return config
    raise ConfigError(_one_or_many(gathered.mistakes))


def _yaml(tree: Mapping[str, Any]) -> str:
    return yaml.safe_dump(tree, sort_keys=False, width=120, allow_unicode=True)


def _one_or_many(mistakes: Sequence[str]) -> str:
    if len(mistakes) == 1:
        return mistakes[0]
    return f"{len(mistakes)} settings are wrong:\n" + "\n".join(f"  {mistake}" for mistake in mistakes)


def _read_source(source: str | Path, gathered: _Gathered, here: Path) -> None:
    path = here / Path(source).expanduser()
    if (path / RUN_CONFIG).is_file():
        path = path / RUN_CONFIG
    if path.is_file():
        _read_file(path, gathered)
    elif str(source) in recipe_names():
        _read_file(recipe_path(str(source)), gathered)
    else:
        recipes = ", ".join(recipe_names())
        raise ConfigError(
            f"no config {str(source)!r}: it is neither a YAML file, a run folder with {RUN_CONFIG}, nor a recipe "
            f"({recipes}){_did_you_mean(str(source), recipe_names())}"
        )


def _read_file(path: Path, gathered: _Gathered, depth: int = 0) -> None:
    """Settings of one file, over those of the recipe it names."""
    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the config {path}: {error}") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{path}:{line} is not YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    if root is None:
        return
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"{path}:1 holds no settings: write `section:` and below it `  name: value`")
    leaves = list(_leaves(root, (), path, gathered.mistakes))
    for key, value, origin in leaves:
        if key == (RECIPE_KEY,):
            if value not in recipe_names() or depth > 3:
                names = recipe_names()
                raise ConfigError(
                    f"recipe {value!r} ({origin}) is not one of {', '.join(names)}{_did_you_mean(str(value), names)}"
                )
            _read_file(recipe_path(str(value)), gathered, depth + 1)
    for key, value, origin in leaves:
        if key != (RECIPE_KEY,):
            gathered.put(key, value, origin=origin, relative_to=path.parent.absolute())


def _leaves(node: yaml.MappingNode, above: Key, path: Path, mistakes: list[str]) -> Iterator[tuple[Key, Any, str]]:
    """Every setting below a node with its place; keys given twice are mistakes, not a silent choice of the last."""
    seen: dict[str, int] = {}
    for key_node, value_node in node.value:
        name, line = str(key_node.value), key_node.start_mark.line + 1
        key = (*above, *name.split("."))
        if name in seen:
            mistakes.append(f"{'.'.join(key)} is set twice, in {path}:{seen[name]} and {path}:{line}; keep one")
        seen[name] = line
        if isinstance(value_node, yaml.MappingNode) and field_of(key) is None and key != (RECIPE_KEY,):
            if section_of(key) is None:
                mistakes.append(f"{'.'.join(key)} ({path}:{line}) is no section of settings{_hint(key)}")
            else:
                yield from _leaves(value_node, key, path, mistakes)
        else:
            yield key, _construct(value_node), f"{path}:{line}"


def _construct(node: yaml.Node) -> Any:
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _read_override(override: str, gathered: _Gathered, here: Path) -> None:
    name, equals, text = override.partition("=")
    if not equals or not name.strip():
        gathered.mistakes.append(f"override {override!r} is not of the form section.name=value{_hint(_key(name))}")
        return
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    gathered.put(_key(name), value, origin=f"override {override!r}", relative_to=here)


def _key(name: str) -> Key:
    return tuple(name.strip().lstrip("-").split("."))


def _explain_mistake(detail: Mapping[str, Any], origins: Mapping[Key, str]) -> str:
    """One line from one of pydantic's findings: name, value, where from, what is allowed, help."""
    key: Key = tuple(str(part) for part in detail["loc"])
    while len(key) > 1 and field_of(key) is None and field_of(key[:-1]) is not None:
        key = key[:-1]  # of a setting that may be one of several types, pydantic names the type too
    name = ".".join(key)
    if detail["type"] == "missing":
        about = help_of(key).split(". ")[0].rstrip(".")
        return f"{name} is missing{f' ({about})' if about else ''}; give it in the config file or as {name}=VALUE"
    message = str(detail["msg"]).removeprefix("Value error, ")
    if detail["type"] == "value_error":
        return f"{name}: {message}" if name else message
    message = message[:1].lower() + message[1:]
    origin = f" ({origins[key]})" if key in origins else ""
    return f"{name} is {detail['input']!r}{origin}, but the {message}"


def _hint(key: Key) -> str:
    best = nearest(key)
    return f"; did you mean {best}?" if best else "; `realm-ds config explain` lists them all"


def _is_name(key: Key, value: str, path: Path) -> bool:
    """Whether a setting that may be a path is a name instead: no folder makes that absolute."""
    if key == ("runtime", "deepspeed"):
        return is_packaged_name(value)
    if key[0] == "data":
        return may_be_name(key) and is_elsewhere(value)
    return may_be_name(key) and HUB_NAME.fullmatch(value) is not None and not path.exists()


def _did_you_mean(name: str, names: Sequence[str]) -> str:
    close = get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]}?" if close else ""
