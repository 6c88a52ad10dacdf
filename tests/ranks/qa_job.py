"""What each rank of tests/ranks/test_qa.py does: fine-tune on the tiny corpus, as the environment says."""

import json
import os
from pathlib import Path

from realm_ds.comm.world import join_world
from realm_ds.config.deepspeed import load_deepspeed, packaged_deepspeed
from realm_ds.observe.notice import Notice
from realm_ds.observe.pulse import Pulse
from realm_ds.observe.sinks import Sinks
from tests.support.tiny import tiny_config
from tests.support.tiny_qa import qa_changes

STEPS = 12
SAVED_AT = 6
ARGUMENTS = "QA_JOB"
"""Environment variable: JSON of data, folder, zero_stage, resume and asked (one trainer to end, before it trains)."""


def main(data: Path, folder: Path, *, zero_stage: int, resume: bool, asked: bool) -> None:
    world = join_world(num_shards=0, placement="tail", timeout_s=60)
    # After MPI is loaded: an error on import must end the other rank too.
    from realm_ds.train.qa import train_qa
    from realm_ds.train.stage import open_stage

    config = tiny_config(data, **qa_changes(data, **{"qa.steps": STEPS, "qa.save_every_steps": SAVED_AT}))
    with Sinks(folder, role="trainer", role_rank=world.trainer_rank or 0, stage="qa") as sinks:
        pulse = Pulse(sinks, folder / "log", stacks_after_s=600.0)
        notice = Notice()
        if asked:  # one trainer of two, while it embeds its part of the corpus
            notice.name = "SIGTERM" if world.trainer_rank == 1 else ""
        stage = open_stage(world, config, folder=folder, sinks=sinks, notice=notice, pulse=pulse)
        ending = train_qa(
            stage, None, deepspeed_json=load_deepspeed(packaged_deepspeed(f"zero{zero_stage}")), resume=resume
        )
        assert ending.is_early == asked
        stage.trainers.close()
    world.barrier(timeout_s=60, waiting_for="all ranks to finish")


if __name__ == "__main__":
    given = json.loads(os.environ[ARGUMENTS])
    main(Path(given.pop("data")), Path(given.pop("folder")), **given)
