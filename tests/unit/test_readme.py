"""The README's file tree is what is there."""

import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def listed_modules() -> set[str]:
    """Paths of the modules in the README's tree, from its indentation."""
    lines = (REPOSITORY / "README.md").read_text().partition("## Files")[2].splitlines()
    tree = lines[lines.index("    realm_ds/") + 1 : next(n for n, line in enumerate(lines) if "ds_configs/" in line)]
    found, folder = set(), ""
    for line in tree:
        depth, name = len(line) - len(line.lstrip()), line.split()[0]
        if name.endswith("/"):
            folder = name
        else:
            found.add(f"realm_ds/{folder if depth > 6 else ''}{name}")
            assert re.search(r"\S  +\S|\S \S", line.strip()), f"no word on {name}"
    return found


def test_every_module_is_in_the_tree_and_no_other() -> None:
    modules = {
        str(path.relative_to(REPOSITORY))
        for path in (REPOSITORY / "realm_ds").rglob("*.py")
        if path.name != "__init__.py"
    }
    assert listed_modules() == modules
