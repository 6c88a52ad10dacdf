"""View 3: a run."""

from nicegui import ui

from realm_ds.explore.frame import frame, text
from realm_ds.explore.places import Places
from realm_ds.explore.shelf import Shelf


def add(places: Places, shelf: Shelf) -> None:
    @ui.page("/run")
    def look() -> None:
        with frame("/run"):
            text("h1", "Run")
