"""What is installed, and with which versions: setup.cfg, constraints.txt and the folders agree."""

import configparser
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from realm_ds.config.deepspeed import _OWNERS

TOP = Path(__file__).parents[2]


def _setup() -> configparser.ConfigParser:
    setup = configparser.ConfigParser()
    setup.read(TOP / "setup.cfg")
    return setup


def _requirements(*extras: str) -> list[Requirement]:
    setup = _setup()
    lines = setup["options"]["install_requires"].splitlines()
    for extra in extras:
        lines += setup["options.extras_require"][extra].splitlines()
    return [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]


def _constraints() -> dict[str, str]:
    lines = (line.strip() for line in (TOP / "constraints.txt").read_text().splitlines())
    return dict(line.lower().split("==") for line in lines if line and not line.startswith("#"))


def test_every_package_is_listed() -> None:
    folders = {path.parent.relative_to(TOP).as_posix() for path in (TOP / "realm_ds").rglob("*.py")}
    listed = set(_setup()["options"]["packages"].split())
    assert listed == {folder.replace("/", ".") for folder in folders} | {"realm_ds.ds_configs", "realm_ds.slurm"}


@pytest.mark.parametrize(
    "requirement", _requirements("cpu", "bm25", "demo", "dev", "ner", "tracking", "explore"), ids=str
)
def test_what_make_installs_has_a_tested_version_in_range(requirement: Requirement) -> None:
    tested = _constraints()[requirement.name.lower()]
    assert requirement.specifier.contains(tested), f"constraints.txt: {tested}"


def test_all_extras_are_there() -> None:
    assert set(_setup()["options.extras_require"]) == {
        "cpu", "gpu", "bm25", "demo", "explore", "ner", "tracking", "dev"
    }  # fmt: skip


def test_the_deepspeed_readme_names_every_refused_key() -> None:
    table = (TOP / "ds_configs" / "README.md").read_text().partition("| key | owner |")[2]
    named = {
        key for line in table.splitlines() for key in re.findall(r"`(\w+)`", line.split("|")[1] if "|" in line else "")
    }
    assert named == set(_OWNERS)
