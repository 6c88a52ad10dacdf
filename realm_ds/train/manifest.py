"""Folders of checkpoints: which there are. What vouches for their files is sealed.py's business.

No torch: whether a run has anything left to do is asked before any process is started.
"""

from pathlib import Path

from realm_ds.config.load import RUN_CONFIG, load
from realm_ds.errors import CheckpointError
from realm_ds.files import SET_ASIDE
from realm_ds.sealed import MANIFEST, read_facts

DAMAGED = "damaged-"
"""What stands before the name of a checkpoint that was found damaged, with a whole one before it."""


def step_folder(run_folder: Path, step: int) -> Path:
    return run_folder / "checkpoints" / f"step-{step:08d}"


def saved_steps(run_folder: Path) -> list[int]:
    """Steps with a whole checkpoint, ascending."""
    folders = (run_folder / "checkpoints").glob("step-*")
    return sorted(int(f.name.removeprefix("step-")) for f in folders if (f / MANIFEST).is_file())


def refuse_unfinished(run_folder: Path) -> None:
    """Raise CheckpointError for a run of `qa train` without an export, which it writes after its last step."""
    steps = saved_steps(run_folder)
    if not steps or (run_folder / "export").is_dir():
        return
    if read_facts(step_folder(run_folder, steps[-1])).get("stage") == "qa":
        wanted = load(run_folder / RUN_CONFIG).qa.steps
        raise CheckpointError(
            f"{run_folder} is not finished yet (step {steps[-1]} of {wanted}): "
            f"`realm-ds qa train --run {run_folder} --resume` goes on and writes its export"
        )


def lost_folders(run_folder: Path) -> list[str]:
    """Names of checkpoints that cannot be gone on with as they are, but tell that there was a run."""
    folders = run_folder / "checkpoints"
    return sorted(path.name for before in (DAMAGED, SET_ASIDE) for path in folders.glob(f"{before}step-*"))
