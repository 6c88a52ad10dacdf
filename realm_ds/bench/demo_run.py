"""Runs to measure: the demo's recipe on the demo's text, which is prepared when it is first needed, in a folder that
goes when the benchmark ends. What is measured of them is step.py's and resume.py's business.
"""

import shutil
import tempfile
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from realm_ds.bench.processes import Result, run_in_world
from realm_ds.bench.train_ranks import MODULE
from realm_ds.config.deepspeed import packaged_deepspeed
from realm_ds.config.load import RUN_CONFIG, dump, load
from realm_ds.config.schema import RealmConfig
from realm_ds.observe import progress

NEVER = 10**6
"""Steps."""
QUICK = {"model.num_layers": 1, "model.hidden_size": 32, "model.num_heads": 2, "model.intermediate_size": 64,
         "model.projection_size": 16, "pretrain.micro_batch_size": 4, "pretrain.candidates": 4}  # fmt: skip


class DemoRuns:
    """One trainer and one index rank, each on a core of its own, in whatever runs a benchmark makes."""

    def __init__(self, *, is_quick: bool, num_entities: int | None = None) -> None:
        """The text is of so many entities of the Factbook; None takes all."""
        self._is_quick, self._num_entities = is_quick, num_entities
        self._made = tempfile.TemporaryDirectory(prefix="realm-bench-")

    @cached_property
    def num_passages(self) -> int:
        from realm_ds.factbook.prepare import prepare_demo

        num_entities, vocab_size = (4, 2_000) if self._is_quick else (self._num_entities, 8_000)
        prepared = prepare_demo(
            self._data, num_entities=num_entities, vocab_size=vocab_size,
            on_progress=lambda doing: self._bar.update(now=doing),
        )  # fmt: skip
        return int(prepared["passages"])

    @property
    def _data(self) -> Path:
        return Path(self._made.name) / "data"

    def run(
        self, job: str, settings: Mapping[str, Any], *, bar: progress.Bar, name: str = "run", zero: int = 0,
        **options: Any,
    ) -> Result:  # fmt: skip
        """What the trainer found in the job of that name. A run of a name that was there before goes on if resumed."""
        self._bar = bar
        options = {"resume": False, "passages": self.num_passages, **options}
        folder = Path(self._made.name) / name
        if not options["resume"]:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(exist_ok=True)
        config = self.config(settings, bar=bar, zero=zero)
        (folder / RUN_CONFIG).write_text(dump(config), encoding="utf-8")
        options |= {"config": str(folder / RUN_CONFIG), "run": str(folder)}
        return run_in_world(job, options, clients=1, shards=1, bar=bar, module=MODULE)[0]

    def config(self, settings: Mapping[str, Any], *, bar: progress.Bar, zero: int = 0) -> RealmConfig:
        """The settings of such a run, and its data prepared."""
        self._bar = bar
        assert self.num_passages > 0
        changed = {
            "data.corpus": self._data / "corpus", "data.pretrain": self._data / "pretrain",
            "data.tokenizer": self._data / "tokenizer", "index.num_shards": 1, "runtime.trainers": 1,
            "runtime.deepspeed": packaged_deepspeed(f"zero{zero}"), "pretrain.save_every_steps": NEVER,
            **(QUICK if self._is_quick else {}), **settings,
        }  # fmt: skip
        return load("demo", [f"{setting}={value}" for setting, value in changed.items()])
