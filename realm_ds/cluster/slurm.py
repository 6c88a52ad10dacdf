"""The one door to Slurm: sbatch, squeue, scancel, scontrol and sacct, as processes with a deadline.

Not submitit: it submits pickled functions and knows no heterogeneous jobs, while here whoever reads the batch script
knows what runs, and can submit it without us.
"""

import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from realm_ds.errors import LaunchError

TIMEOUT_S = 60.0
"""A controller under load answers within seconds; later it is down."""
STATE_TIMEOUT_S = 10.0
"""What is only good to know is not waited for so long: a batch script that asks may soon be killed."""
_FIELDS = "%A|%F|%T|%r|%N"
"""Of squeue: a job's id, that of the array it is of, state, why it waits, nodes."""


@dataclass(frozen=True, kw_only=True)
class JobState:
    """What Slurm says of a job."""

    job: str
    state: str
    """Slurm's word: PENDING, RUNNING, COMPLETED, NODE_FAIL, ..."""
    reason: str = ""
    """Why it waits or ended, where Slurm says so."""
    nodes: str = ""

    @property
    def is_live(self) -> bool:
        return self.state in _LIVE


_LIVE = {
    "PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED",
    "RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED", "SPECIAL_EXIT",
}  # fmt: skip


def submit(arguments: Sequence[str], *, environment: Mapping[str, str]) -> str:
    """`sbatch --parsable ARGUMENTS` with this environment; the job's id. Raises LaunchError with sbatch's own words."""
    done = _ask(["sbatch", "--parsable", *arguments], environment=environment)
    if done.returncode:
        raise LaunchError(f"sbatch refused the job: {_words(done.stderr)}. --dry-run shows the whole line")
    job = done.stdout.strip().splitlines()[-1].partition(";")[0] if done.stdout.strip() else ""
    if not re.fullmatch(r"\d+", job):
        raise LaunchError(f"sbatch said {done.stdout.strip()!r} where a job id was due: look with squeue --me")
    return job


def live_jobs(jobs: Sequence[str]) -> list[JobState]:
    """Those of the jobs that wait or run, in the order asked for. Raises LaunchError where Slurm gives no answer."""
    if not jobs:
        return []
    done = _ask(["squeue", "--noheader", f"--format={_FIELDS}", f"--jobs={','.join(jobs)}"])
    if done.returncode and "Invalid job id" not in done.stderr:  # said of a single one that ended minutes ago
        raise LaunchError(f"squeue failed: {_words(done.stderr)}")
    found: dict[str, JobState] = {}
    for line in done.stdout.splitlines():
        own, array, state, reason, nodes = [*line.strip().split("|"), *[""] * 5][:5]
        job = next((job for job in jobs if job in (own, array)), None)
        if job is not None and job not in found:
            found[job] = JobState(job=job, state=state, reason=_said(reason), nodes=nodes)
    return [found[job] for job in jobs if job in found]


def cancel(jobs: Sequence[str]) -> None:
    """Take jobs from the queue, or end them. Raises LaunchError where Slurm does not."""
    done = _ask(["scancel", *jobs])
    if done.returncode:
        raise LaunchError(f"scancel failed: {_words(done.stderr)}")


def state_of(job: str) -> JobState | None:
    """A job's state, also some time after its end; None where Slurm is not here, or does not know it (any more)."""
    for command, parse in (
        (["scontrol", "--oneliner", "show", "job", job], _of_scontrol),
        (["sacct", "--noheader", "--allocations", "--parsable2", f"--jobs={job}", "--format=State,Reason,NodeList"],
         _of_sacct),
    ):  # fmt: skip
        try:
            done = _ask(command, timeout_s=STATE_TIMEOUT_S)
        except LaunchError:
            continue
        state = parse(job, done.stdout) if done.returncode == 0 else None
        if state is not None:
            return state
    return None


def _of_scontrol(job: str, text: str) -> JobState | None:
    """Of a heterogeneous job or an array the component that did worst: one line for each."""
    found = []
    for line in text.splitlines():
        facts = dict(re.findall(r"(?:^|\s)(JobState|Reason|NodeList)=(\S*)", line))
        if "JobState" in facts:
            reason, nodes = _said(facts.get("Reason", "")), _said(facts.get("NodeList", ""))
            found.append(JobState(job=job, state=facts["JobState"], reason=reason, nodes=nodes))
    return _worst(found)


def _of_sacct(job: str, text: str) -> JobState | None:
    found = []
    for line in text.splitlines():
        state, reason, nodes = [*line.split("|"), "", ""][:3]
        if state:  # "CANCELLED by 1000"
            found.append(JobState(job=job, state=state.split()[0], reason=_said(reason), nodes=_said(nodes)))
    return _worst(found)


def _worst(states: Sequence[JobState]) -> JobState | None:
    live = [state for state in states if state.is_live]
    bad = [state for state in states if state.state != "COMPLETED"]
    return next(iter(live or bad or states), None)


def _said(word: str) -> str:
    return "" if word in ("None", "(null)", "None assigned") else word


def _words(stderr: str) -> str:
    """What a program of Slurm's has to say, without its name before each line."""
    lines = [re.sub(r"^\w+: (error: )?", "", line).strip().rstrip(".") for line in stderr.splitlines()]
    return "; ".join(line for line in lines if line) or "it gave no reason"


def _ask(
    command: Sequence[str], *, environment: Mapping[str, str] | None = None, timeout_s: float = TIMEOUT_S
) -> "subprocess.CompletedProcess[str]":
    program = command[0]
    try:
        return subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s
        )
    except FileNotFoundError:
        raise LaunchError(
            f"no {program} on PATH, so this is no host of a Slurm cluster: submit from a login node (some sites: "
            "module load slurm), or start the stage here by its own verb"
        ) from None
    except subprocess.TimeoutExpired:
        again = (
            "look with squeue --me whether the job is there, before you submit again"
            if program == "sbatch"
            else ("try again in a while")
        )
        raise LaunchError(
            f"{program} gave no answer within {timeout_s:g} s, Slurm's controller is busy or down: {again}"
        ) from None
