"""A report as one HTML file: nothing in it is fetched, no script runs, and all that came from data is escaped."""

from functools import cache
from importlib.resources import files
from typing import Any

from realm_ds.errors import ConfigError
from realm_ds.reports.document import Document

TEMPLATE = "page.html"


def page(document: Document) -> str:
    """The whole file. Raises ConfigError where Jinja2 is not installed."""
    text: str = _template().render(document=document)
    return text


@cache
def _template() -> Any:
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError as error:
        raise ConfigError("a report needs Jinja2, which is not installed: pip install 'realm-ds[demo]'") from error
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.tests["a"] = lambda block, name: type(block).__name__ == name
    source = files("realm_ds.reports").joinpath(TEMPLATE).read_text(encoding="utf-8")
    return environment.from_string(source)
