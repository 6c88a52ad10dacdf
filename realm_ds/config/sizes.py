"""How large a job on a cluster is: nodes, tasks, time. One for a job, or a YAML file of one for each of several.

What the jobs train is schema.py's. Slurm's words for these are cluster/scripts.py's business.
"""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from realm_ds.config.base import Count, Section
from realm_ds.errors import ConfigError


class JobSizes(Section):
    """One job; what is not set here is as its batch script says."""

    nodes: Count | None = None
    """Nodes; of a heterogeneous job those of the trainers."""
    tasks_per_node: Count | None = None
    """Ranks on each of them, index and builder ranks included."""
    index_per_node: Count | None = None
    """How many of these are index ranks: index.num_shards is set to so many times the nodes."""
    index_nodes: Count | None = None
    """Nodes for index ranks alone: pre-training is then a heterogeneous job (pretrain-hetjob)."""
    index_tasks_per_node: Count | None = None
    """Index ranks on each of these."""
    gpus_per_node: str | None = None
    """As Slurm takes it: 4, or a100:4. Of a heterogeneous job for the trainers."""
    time: str | None = None
    """Limit, as Slurm takes it: 12:00:00, 2-00."""
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    sbatch: tuple[str, ...] = ()
    """Further options for sbatch, each as one word: --mem=0."""
    index_sbatch: tuple[str, ...] = ()
    """The same for the index nodes of a heterogeneous job: --partition=bigmem."""

    def over(self, other: "JobSizes") -> "JobSizes":
        """These, and where nothing is set those of `other`."""
        return JobSizes(**{**other.model_dump(exclude_unset=True), **self.model_dump(exclude_unset=True)})


def load_sizes(path: Path, *, names: Sequence[str]) -> dict[str, JobSizes]:
    """Sizes of the jobs in a YAML file, by their names. All mistakes are in one ConfigError."""
    jobs = _read(path)
    sizes, mistakes = {}, []
    for name, values in jobs.items():
        if name not in names:
            close = get_close_matches(name, names, n=1)
            mistakes.append(f"{name} is no job{f'; did you mean {close[0]}?' if close else ': ' + ', '.join(names)}")
        elif not isinstance(values, Mapping):
            mistakes.append(f"{name} is {values!r}: write its sizes below it, as `  nodes: 2`")
        else:
            given = {key: value for key, value in values.items() if value not in ("", "null")}
            try:
                sizes[name] = JobSizes.model_validate(given)
            except ValidationError as error:
                mistakes += [_explain(name, detail) for detail in error.errors()]
    if mistakes:
        raise ConfigError(f"{path}: {'; '.join(mistakes)}")
    return sizes


def _read(path: Path) -> Mapping[str, Any]:
    try:
        # Every value stays text, for pydantic to read: to YAML 1.1 the time 12:00:00 is the number 43200.
        jobs = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except OSError as error:
        raise ConfigError(f"cannot read --sizes {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(jobs, Mapping):
        raise ConfigError(f"{path} holds no sizes: write the name of a job and below it `  nodes: 2`")
    return jobs


def _explain(job: str, detail: Mapping[str, Any]) -> str:
    key = str(detail["loc"][0])
    if detail["type"] == "extra_forbidden":
        close = get_close_matches(key, list(JobSizes.model_fields), n=1)
        known = f"did you mean {close[0]}?" if close else ", ".join(JobSizes.model_fields)
        return f"{job}.{key} is no size of a job; {known}"
    message = str(detail["msg"])
    return f"{job}.{key} is {detail['input']!r}, but the {message[:1].lower()}{message[1:]}"
