"""The schema as a flat list of dotted names: look-up, nearest names, and the text of `realm-ds config explain`."""

import types
from collections.abc import Iterator
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from textwrap import fill
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from realm_ds.config.schema import RealmConfig
from realm_ds.errors import ConfigError

Key = tuple[str, ...]


@cache
def _fields() -> dict[Key, FieldInfo]:
    return dict(_walk(RealmConfig, ()))


def _walk(section: type[BaseModel], above: Key) -> Iterator[tuple[Key, FieldInfo]]:
    for name, info in section.model_fields.items():
        if _is_section(info):
            yield from _walk(info.annotation, (*above, name))  # type: ignore[arg-type]
        else:
            yield (*above, name), info


def _is_section(info: FieldInfo) -> bool:
    return isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel)


def field_names() -> list[str]:
    """Every setting as a dotted name, in the order of the schema."""
    return [".".join(key) for key in _fields()]


def required_fields() -> list[Key]:
    """Those that have no default."""
    return [key for key, info in _fields().items() if info.is_required()]


def field_of(key: Key) -> FieldInfo | None:
    """The schema's field of a dotted name, or None."""
    return _fields().get(key)


def section_of(key: Key) -> type[BaseModel] | None:
    """The section of that name, or None; () is the whole."""
    section: type[BaseModel] = RealmConfig
    for part in key:
        info = section.model_fields.get(part)
        if info is None or not _is_section(info):
            return None
        section = info.annotation  # type: ignore[assignment]
    return section


def help_of(key: Key) -> str:
    """The text under a field, or where it only has another default, under the field in a class above."""
    section = section_of(key[:-1])
    for base in section.__mro__ if section is not None else ():
        info = base.model_fields.get(key[-1]) if issubclass(base, BaseModel) else None
        if info is not None and info.description:
            return " ".join(info.description.split())
    return ""


def is_path(key: Key) -> bool:
    """Is this setting a file or folder, so that a relative value must be resolved?"""
    info = field_of(key)
    return info is not None and (info.annotation is Path or Path in get_args(info.annotation))


def may_be_name(key: Key) -> bool:
    """Can this setting also be the name of something that is no file here?"""
    info = field_of(key)
    return info is not None and {Path, str} <= set(get_args(info.annotation))


def nearest(key: Key) -> str | None:
    """The name most like a wrong one: the same last part in another section first, then the nearest spelling."""
    name = ".".join(key)
    same_leaf = [".".join(other) for other in _fields() if other[-1] == key[-1]]
    if len(same_leaf) == 1:
        return same_leaf[0]
    close = get_close_matches(name, same_leaf or field_names(), n=1, cutoff=0.0 if same_leaf else 0.6)
    if close:
        return close[0]
    leaves = {other[-1]: ".".join(other) for other in _fields()}
    by_leaf = get_close_matches(key[-1], list(leaves), n=1, cutoff=0.7)
    return leaves[by_leaf[0]] if by_leaf else None


def explain(prefix: str = "") -> str:
    """Every setting (below `prefix`) with its type, default and help."""
    wanted: Key = tuple(prefix.split(".")) if prefix else ()
    chosen = [key for key in _fields() if key[: len(wanted)] == wanted]
    if not chosen:
        best = nearest(wanted)
        hint = f"; did you mean {best}?" if best else f": sections are {', '.join(RealmConfig.model_fields)}"
        raise ConfigError(f"{prefix} is no setting or section{hint}")
    lines: list[str] = []
    section: Key = ("",)
    for key in chosen:
        if key[:-1] != section:
            section = key[:-1]
            about = (section_of(section) or RealmConfig).__doc__ or ""
            lines += ["", fill(f"{'.'.join(section)}: {' '.join(about.split())}", width=110, subsequent_indent="    ")]
        lines += _explain_one(key, _fields()[key])
    return "\n".join(lines).lstrip("\n") + "\n"


def _explain_one(key: Key, info: FieldInfo) -> list[str]:
    default = "required" if info.is_required() else f"default {_yaml_word(info.get_default())}"
    lines = [f"  {'.'.join(key)}: {_type_text(info)}, {default}"]
    text = help_of(key)
    return [*lines, fill(text, width=110, initial_indent="      ", subsequent_indent="      ")] if text else lines


def _yaml_word(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, tuple):
        return f"[{', '.join(map(_yaml_word, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


_TYPE_WORDS = {
    int: "whole number",
    float: "number",
    str: "text",
    bool: "true or false",
    Path: "path",
    type(None): "null",
}


def _type_text(info: FieldInfo) -> str:
    bounds = []
    for limit in info.metadata:
        for attribute, word in (("ge", "at least"), ("gt", "above"), ("le", "at most"), ("lt", "below")):
            bound = getattr(limit, attribute, None)
            if bound is not None:
                bounds.append(f"{word} {bound}")
    return " ".join([_annotation_text(info.annotation), *([" and ".join(bounds)] if bounds else [])])


def _annotation_text(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return " | ".join(str(value) for value in get_args(annotation))
    if get_origin(annotation) is tuple:
        return f"list of {_annotation_text(get_args(annotation)[0])}"
    if get_origin(annotation) in (Union, types.UnionType):
        return " or ".join(_annotation_text(part) for part in get_args(annotation))
    if hasattr(annotation, "__metadata__"):
        inner = FieldInfo.from_annotation(annotation)
        return _type_text(inner)
    return _TYPE_WORDS.get(annotation, getattr(annotation, "__name__", str(annotation)))
