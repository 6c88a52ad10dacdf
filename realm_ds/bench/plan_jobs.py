"""What a plan foretells, measured: steps and memory of a trainer, and rebuilds; beside them the figures of the core
that they ran on, before and after. What the plan must reach is plan.py's business.
"""

import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realm_ds.bench.processes import Result, write_progress
from realm_ds.bench.refresh_jobs import corpus_of
from realm_ds.bench.resident import peak_bytes, reset_peak
from realm_ds.planning.measuring import measure_device

if TYPE_CHECKING:
    from realm_ds.models.objectives import MarginalBatch
    from realm_ds.train.stage import Stage

Options = Mapping[str, Any]


def trained(stage: "Stage", options: Options, *, folder: Path) -> Result:
    """A run as in production. Of a busy machine the processor's time tells more than the clock."""
    from realm_ds.bench.train_jobs import observed

    num_passages: list[int] = []

    def count(module: object, inputs: "tuple[MarginalBatch]") -> None:
        num_passages.append(sum(len(bucket.ids_NL) for bucket in inputs[0].passages))

    before = measure_device()
    reset_peak()  # what measuring held
    found = observed(
        stage, options, folder=folder,
        before=lambda training: training.engine.module.register_forward_pre_hook(count),
    )  # fmt: skip
    held_bytes = peak_bytes()
    return {
        "cpu_s": [row["cpu_s"] for row in found["steps"]],
        "wall_s": [row["drawn_s"] + row["after_s"] for row in found["steps"]],
        "held_bytes": held_bytes,
        "num_passages": num_passages,
        "figures": mean_figures(before, measure_device()),
    }


def embedded(options: Options, *, folder: Path) -> Result:
    """The demo's passages by a tower of that size, as an index rank embeds them for one version."""
    import numpy as np

    from realm_ds.bench.towers import embed, new_tower
    from realm_ds.data.records import NUM_SPECIAL
    from realm_ds.index.embedding import ShardEmbedder

    passages, special, vocabulary = corpus_of(options)
    tower = new_tower({**options["tower"], "vocabulary": vocabulary}, width=options["width"])
    embedder = ShardEmbedder(
        passages, special=special, passage_tokens=int(passages.lengths_N.max()) + NUM_SPECIAL,
        batch_tokens=options["tower"]["batch_tokens"], width=options["width"],
    )  # fmt: skip
    vectors_NP = np.empty((len(passages), options["width"]), dtype=np.float32)
    run, took_s = embed(tower), []
    before = measure_device()
    for block in range(options["blocks"]):
        write_progress(folder, done=block, total=options["blocks"], now="embedding")
        started_at = time.process_time()
        for _ in embedder.run(run, vectors_NP):
            pass
        took_s.append(time.process_time() - started_at)
    return {
        "cpu_s": took_s, "passages": len(passages), "mean_tokens": float(passages.lengths_N.mean()) + NUM_SPECIAL,
        "figures": mean_figures(before, measure_device()),
    }  # fmt: skip


def mean_figures(*measured: Mapping[str, float]) -> dict[str, float]:
    """Of the same machine at several times."""
    return {name: statistics.mean(figures[name] for figures in measured) for name in measured[0]}
