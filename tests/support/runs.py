"""Whole small runs under the real launcher, and what is compared of them."""

import shutil
from pathlib import Path

import torch
from transformers import AutoModelForMaskedLM

from realm_ds.config.load import dump
from realm_ds.errors import REQUEUE
from realm_ds.launch.stages import num_processes
from realm_ds.models.names import strip_prefix
from realm_ds.models.towers import Embedder
from realm_ds.observe.sinks import metrics_path, read_events
from tests.support.consolidated import consolidate
from tests.support.tiny import tiny_config
from tests.support.worlds import Outcome, run_ranks

PROGRAM = """
import os, signal
from pathlib import Path
from realm_ds.config.load import load
from realm_ds.launch.stages import launch_stage
if {asked_after} and os.environ["PMI_RANK"] == "1":  # trainer 1 is asked to end at the end of that step
    from realm_ds.observe.sinks import Sinks
    write = Sinks.write
    def signal_at_step(self, event, *, step=None, **values):
        write(self, event, step=step, **values)
        if (event, step) == ("step", {asked_after}):
            os.kill(os.getpid(), signal.SIGUSR1)
    Sinks.write = signal_at_step
folder = Path({folder!r})
launch_stage({stage!r}, load_config=lambda: load(folder / "config.yaml"), run_folder=folder, resume={resume})
"""
COMPARED = ("step", "loss", "retrieval_utility", "null_share", "version", "retrieved_crc32", "changed_share")


def train(
    folder: Path, data: Path, *, stage: str = "pretrain", resume: bool = False, asked_after: int = 0, **changes: object
) -> Outcome:
    """To its end; to that of the step after which a trainer is asked to end, if one is."""
    folder.mkdir(parents=True, exist_ok=True)
    config = tiny_config(data, **changes)
    (folder / "config.yaml").write_text(dump(config))
    program = PROGRAM.format(folder=str(folder), stage=stage, resume=resume, asked_after=asked_after)
    outcome = run_ranks(program, processes=num_processes(stage, config), timeout_s=240)  # type: ignore[arg-type]
    assert outcome.code == (REQUEUE if asked_after else 0), outcome.output
    return outcome


def steps(folder: Path) -> list[tuple[object, ...]]:
    """The logged steps of both trainers."""
    paths = [metrics_path(folder, role="trainer", role_rank=rank) for rank in (0, 1)]
    return [tuple(row.get(name) for name in COMPARED) for path in paths for row in read_events(path, event="step")]


def forget_after(folder: Path, step: int, *, last: int) -> None:
    """A run as it was when it was killed after `step`, its vectors of an adopted version lost."""
    shutil.rmtree(folder / "checkpoints" / f"step-{last:08d}")
    shutil.rmtree(folder / "metrics")
    assert (folder / "checkpoints" / f"step-{step:08d}").is_dir()
    for part in (folder / "index" / "version-00001").glob("part-*"):
        part.unlink()


def check_weights(export: Path, checkpoint: Path) -> None:
    """Towers and encoder of the export hold what the ZeRO shards do, whatever their stage."""
    weights = consolidate(checkpoint)
    for name in ("query_tower", "passage_tower"):
        tower = Embedder.load(export / name).state_dict()
        expected = strip_prefix(weights, f"model.{name}")
        assert tower.keys() == expected.keys()
        assert all(torch.equal(tower[key], expected[key]) for key in tower)
    encoder = AutoModelForMaskedLM.from_pretrained(export / "encoder").state_dict()
    expected = strip_prefix(weights, "model.encoder.mlm")
    assert all(torch.equal(encoder[key], expected[key]) for key in expected)
