"""The batch scripts in slurm/: where they are, what their #SBATCH lines ask for, and sizes as options of sbatch.

What they run and when they queue again is theirs (slurm/README.md). Submitting is submit.py's business.
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from realm_ds.config.base import StageName
from realm_ds.config.sizes import JobSizes
from realm_ds.errors import ConfigError

NAMES = ("prepare", "ict", "pretrain", "pretrain-hetjob", "export", "qa", "eval", "index", "ablate")
"""Each is NAME.sbatch."""
PREPARE, EXPORT, EVAL, INDEX, HETJOB, ABLATE = "prepare", "export", "eval", "index", "pretrain-hetjob", "ablate"
STAGES: dict[str, StageName] = {"ict": "ict", "pretrain": "pretrain", HETJOB: "pretrain", "qa": "qa"}
"""Those that train, and what."""
PREPARE_VERBS = ("demo", "tokenizer", "corpus", "pretrain", "qa", "inspect")
"""Of `realm-ds prepare`: what a line for prepare.sbatch begins with."""
SITE_FILE = "site.sh"
SITE_VARIABLE = "REALM_SITE"
"""Where the scripts look for it, before they look into slurm/."""
_SHORT = {"N": "nodes", "n": "ntasks", "a": "array"}
_HETJOB_LINES = ("hetjob", "packjob")


@dataclass(frozen=True, kw_only=True)
class Component:
    """Nodes of one kind: all of a job, or a part of a heterogeneous one."""

    nodes: int
    tasks_per_node: int

    @property
    def num_tasks(self) -> int:
        return self.nodes * self.tasks_per_node


def script_path(name: str) -> Path:
    """The script in slurm/ where we are, which people edit, or else the one that comes with realm-ds."""
    return _find(f"{name}.sbatch")


def site_path(given: Path | None, *, environment: Mapping[str, str]) -> Path:
    """What a site's scripts share: as given, as the environment says, or beside the scripts."""
    named = given or (Path(environment[SITE_VARIABLE]) if environment.get(SITE_VARIABLE) else None)
    if named is None:
        return _find(SITE_FILE)
    if not named.is_file():
        source = "--site" if given else SITE_VARIABLE
        raise ConfigError(f"{source}={named} is no file: name your {SITE_FILE}, a copy of {_find(SITE_FILE)}")
    return named.absolute()


def components(text: str, sizes: JobSizes) -> tuple[Component, ...]:
    """What a script asks for, with sizes over its #SBATCH lines. Raises ConfigError for what is no fixed number."""
    for option in (*sizes.sbatch, *sizes.index_sbatch):
        if not option.startswith("-"):  # sbatch would take it for the script
            raise ConfigError(f"{option!r} is no option of sbatch: write --sbatch=--mem=0")
    asked = _directives(text)
    if len(asked) == 1:
        _refuse_index_nodes(sizes)
    first = _component(asked[0], _sized(sizes.nodes, sizes.tasks_per_node), sizes.sbatch)
    index = _sized(sizes.index_nodes, sizes.index_tasks_per_node)
    return (first, *(_component(options, index, sizes.index_sbatch) for options in asked[1:]))


def array_in(text: str, sizes: JobSizes) -> str:
    """The tasks of an array as sbatch takes them, such as 0-5; empty if the job is none."""
    return {**_directives(text)[0], **_parse(sizes.sbatch)}.get("array", "")


def sbatch_options(sizes: JobSizes, *, is_hetjob: bool) -> list[str]:
    """Sizes as options; of a heterogeneous job the index nodes' behind a colon, without which all would be for both."""
    named = {
        "nodes": sizes.nodes, "ntasks-per-node": sizes.tasks_per_node, "gpus-per-node": sizes.gpus_per_node,
        "time": sizes.time, "partition": sizes.partition, "account": sizes.account, "qos": sizes.qos,
    }  # fmt: skip
    options = [*_options(named), *sizes.sbatch]
    if not is_hetjob:
        return options
    # What is everybody's (limit, account) is said again: whether components inherit it depends on Slurm's version.
    named |= {"nodes": sizes.index_nodes, "ntasks-per-node": sizes.index_tasks_per_node, "gpus-per-node": None}
    return [*options, ":", *_options(named), *sizes.index_sbatch]


def _options(named: Mapping[str, object]) -> list[str]:
    return [f"--{name}={value}" for name, value in named.items() if value is not None]


def _sized(nodes: int | None, tasks_per_node: int | None) -> dict[str, str]:
    """What is given of a component's sizes, by the names of sbatch's options."""
    given = {"nodes": nodes, "ntasks-per-node": tasks_per_node}
    return {name: str(number) for name, number in given.items() if number is not None}


def _refuse_index_nodes(sizes: JobSizes) -> None:
    given = {
        "index_nodes": sizes.index_nodes, "index_tasks_per_node": sizes.index_tasks_per_node,
        "index_sbatch": " ".join(sizes.index_sbatch) or None,
    }  # fmt: skip
    for name, value in given.items():
        if value is not None:
            raise ConfigError(
                f"{name}={value} is for nodes of another kind, and the script has one kind: submit {HETJOB} (of a "
                f"pipeline, give index_nodes), or leave {name} out"
            )


def _find(name: str) -> Path:
    package = Path(__file__).parents[1]
    folders = [Path.cwd() / "slurm", package / "slurm", package.parent / "slurm"]
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    raise ConfigError(
        f"slurm/{name} is neither in {Path.cwd()} nor beside {package}: the installation is incomplete; install "
        "realm-ds again"
    )


def _component(asked: Mapping[str, str], sized: Mapping[str, str], further: Sequence[str]) -> Component:
    """What the script asks for, over that the sizes, and over both the further options, as sbatch takes them."""
    said = _parse(further)
    for name, others in (("nodes", ["nodes"]), ("ntasks-per-node", ["ntasks-per-node", "ntasks"])):
        twice = [other for other in others if name in sized and other in said]
        if twice:
            raise ConfigError(
                f"{twice[0]}={said[twice[0]]} for sbatch, but {name}={sized[name]}: leave one of them out"
            )
    asked = {**asked, **sized, **said}
    num_nodes = _number("nodes", asked.get("nodes", "1"))
    per_node = _number("ntasks-per-node", asked.get("ntasks-per-node", "1"))
    if "ntasks" not in asked:
        return Component(nodes=num_nodes, tasks_per_node=per_node)
    # Where both are said, ntasks is how many there are, and ntasks-per-node the most that a node gets.
    tasks = _number("ntasks", asked["ntasks"])
    if tasks % num_nodes or ("ntasks-per-node" in asked and tasks > num_nodes * per_node):
        most = f" of at most {per_node}" if "ntasks-per-node" in asked else ""
        raise ConfigError(
            f"ntasks={tasks} cannot be the same on all {num_nodes} nodes{most}: give --tasks-per-node alone"
        )
    return Component(nodes=num_nodes, tasks_per_node=tasks // num_nodes)


def _number(name: str, text: str) -> int:
    if not re.fullmatch(r"[1-9]\d*", text):
        raise ConfigError(
            f"{name}={text}: a run has a fixed number of ranks, so give one number, by --nodes and --tasks-per-node or "
            "in the script"
        )
    return int(text)


def _directives(text: str) -> list[dict[str, str]]:
    """Options of the #SBATCH lines, a dictionary for each component."""
    found: list[dict[str, str]] = [{}]
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            break  # as sbatch does: behind the first command they count no more
        if not line.startswith("#SBATCH"):
            continue
        words = shlex.split(line.removeprefix("#SBATCH"), comments=True)
        if words and words[0] in _HETJOB_LINES:
            found.append({})
        found[-1] |= _parse(words)
    return found


def _parse(words: Sequence[str]) -> dict[str, str]:
    """Long options and -N, -n, -a by their long names; what has no value is left out."""
    found, words = {}, list(words)
    for place, word in enumerate(words):
        after = words[place + 1] if place + 1 < len(words) else ""
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            value = value if equals else after
        elif re.match(r"-[A-Za-z]", word):
            name, value = _SHORT.get(word[1], word[1]), word[2:].removeprefix("=") or after
        else:
            continue
        if value and not value.startswith("-"):
            found[name] = value
    return found
