"""`realm-ds bench memory`: what each of four trainers holds of a model under every ZeRO stage, against ZeRO-0, where it
holds all; and the peak of an export, against the model's size. What processes do for it is memory_jobs.py's business.
"""

import functools
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from realm_ds.bench.corpora import write_text
from realm_ds.bench.measure import Bar, Measure
from realm_ds.bench.processes import Result, run_alone, run_in_world
from realm_ds.bench.run import Group
from realm_ds.bench.train_ranks import MODULE
from realm_ds.config.deepspeed import packaged_deepspeed
from realm_ds.config.load import RUN_CONFIG, dump, load
from realm_ds.observe import progress

LIMIT, EXPORT_LIMIT = 0.30, 1.3
PASSAGE_WORDS = 200
EXPORTS: Mapping[str, Mapping[str, Any]] = {
    **{f"export_{layout}": {"layout": layout} for layout in ("realm", "hf-realm", "sentence-transformers")},
    **{f"export_{layout}_verify": {"layout": layout, "verify": True}
       for layout in ("realm", "hf-realm", "sentence-transformers")},
    "export_best_verify": {"step": "best", "verify": True},
}  # fmt: skip
"""Options of `realm-ds export`, by measure."""
ANSWERS: Mapping[str, Mapping[str, Any]] = {
    "export_answers": {"layout": "hf-realm"}, "export_answers_verify": {"layout": "hf-realm", "verify": True},
}  # fmt: skip
"""Likewise, of a run of question answering, with the passages that it answers from."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Of the model; parameters of under 10,000 numbers stay whole under ZeRO-3, so it must be large enough for weights
    to be what counts."""

    is_quick: bool
    trainers: int
    stages: tuple[int, ...]
    """Beside ZeRO-0."""
    settings: Mapping[str, Any]
    exported: Mapping[str, Any]
    """Of a model that is exported: wide, so that what else a process needs for that is small beside it."""
    exports: tuple[str, ...]
    """Of EXPORTS."""
    answers: tuple[str, ...]
    """Of ANSWERS."""
    passages: int
    """That are answered from: so many that it shows where their text is held."""
    vocabulary: int


FULL = Sizes(
    is_quick=False, trainers=4, stages=(3, 2, 1), vocabulary=30_000,
    settings={"model.num_layers": 4, "model.hidden_size": 512, "model.num_heads": 8, "model.intermediate_size": 2048,
              "model.projection_size": 128},
    exported={"model.num_layers": 6, "model.hidden_size": 768, "model.num_heads": 12, "model.intermediate_size": 3072,
              "model.projection_size": 128},
    exports=tuple(EXPORTS), answers=tuple(ANSWERS), passages=30_000,
)  # fmt: skip
QUICK = Sizes(
    is_quick=True,
    trainers=2,
    stages=(3,),
    settings={},
    exported={},
    exports=("export_hf-realm_verify",),
    answers=("export_answers",),
    passages=100,
    vocabulary=2_000,
)


def memory_groups(*, is_quick: bool) -> list[Group]:
    """What the verb can measure."""
    sizes = QUICK if is_quick else FULL
    names = tuple(f"zero{stage}_{what}" for stage in sizes.stages for what in ("state", "process"))
    return [
        Group(title="Memory of each trainer", names=names, run=functools.partial(state, sizes)),
        Group(title="Memory of an export", names=sizes.exports, run=functools.partial(export, sizes)),
        Group(title="Memory of an export with passages", names=sizes.answers, run=functools.partial(answers, sizes)),
    ]


def state(sizes: Sizes, bar: progress.Bar) -> Sequence[Measure]:
    """A world for every stage: what a process has once held shows in its memory for good."""
    held = {stage: _hold(sizes, stage, bar, part=part) for part, stage in enumerate((0, *sizes.stages))}
    whole = max(map(state_bytes, held[0]))
    measures = []
    for stage in sizes.stages:
        largest = max(held[stage], key=state_bytes)
        parts = ", ".join(f"{largest[name] / 2**20:.1f} of {name}" for name in ("weights", "optimizer", "gradients"))
        measures += [
            Measure(
                name=f"zero{stage}_state", value=state_bytes(largest) / 2**20, reference=whole / 2**20, unit="MiB",
                bar=Bar(limit=LIMIT, side="<=") if stage == 3 else None, is_judged=not sizes.is_quick,
                note=f"weights and optimizer state of the trainer of {sizes.trainers} that holds most, after two "
                f"steps; reference: ZeRO-0's; {largest['parameters'] / 1e6:.1f} M parameters in fp32; MiB: {parts}",
            ),
            Measure(
                name=f"zero{stage}_process", value=_process_mib(held[stage]), reference=_process_mib(held[0]),
                unit="MiB", is_judged=not sizes.is_quick,
                note="what the largest of the processes grew by: activations, buffers of ZeRO's collectives (4 bytes "
                "for each of the JSON's reduce_bucket_size under ZeRO-3) and what the allocator keeps are in it",
            ),
        ]  # fmt: skip
    return measures


def export(sizes: Sizes, bar: progress.Bar) -> Sequence[Measure]:
    """A process for every kind of export, of one checkpoint that two trainers saved."""
    with tempfile.TemporaryDirectory(prefix="realm-bench-") as made:
        data, run = Path(made) / "data", Path(made) / "run"
        write_text(data, vocabulary=sizes.vocabulary)
        config = _config(run, data=data, zero=2, settings=sizes.exported)
        options = {"config": str(config), "run": str(run)}
        saved = run_in_world("saved", options, clients=2, shards=0, bar=bar, module=MODULE)[0]
        peaks = {name: _export_peak(run, EXPORTS[name], bar) for name in sizes.exports}
        return [
            Measure(
                name=name, value=peak / 2**20, reference=4 * saved["parameters"] / 2**20, unit="MiB",
                bar=Bar(limit=EXPORT_LIMIT, side="<="), is_judged=not sizes.is_quick,
                note="most resident memory of a process that exports, above what it holds with its libraries loaded; "
                f"reference: the model in fp32, {saved['parameters'] / 1e6:.1f} M parameters; ZeRO-2, 2 trainers",
            )
            for name, peak in peaks.items()
        ]  # fmt: skip


def answers(sizes: Sizes, bar: progress.Bar) -> Sequence[Measure]:
    """A process for every kind of export, of one run of question answering."""
    with tempfile.TemporaryDirectory(prefix="realm-bench-") as made:
        data, run = Path(made) / "data", Path(made) / "run"
        write_text(data, vocabulary=sizes.vocabulary, num_passages=sizes.passages, words=PASSAGE_WORDS)
        options = {"config": str(_config(run, data=data, zero=2, settings=sizes.exported)), "run": str(run)}
        saved = run_alone("export_answering", options, threads=1, bar=bar)
        return [
            Measure(
                name=name, value=_export_peak(run, ANSWERS[name], bar) / 2**20, reference=saved["held"] / 2**20,
                unit="MiB", is_judged=not sizes.is_quick,
                # To verify, the whole file that was written is read beside the networks made of it.
                bar=None if ANSWERS[name].get("verify") else Bar(limit=EXPORT_LIMIT, side="<="),
                note="most resident memory of a process that exports, above what it holds with its libraries loaded; "
                f"reference: query tower and reader in fp32, vectors and wordpieces of {sizes.passages:,} passages, "
                f"without their {saved['text'] / 2**20:.0f} MiB of text",
            )
            for name in sizes.answers
        ]  # fmt: skip


def state_bytes(found: Mapping[str, int]) -> int:
    """What the bar is about: gradients come and go."""
    return found["weights"] + found["optimizer"]


def _export_peak(run: Path, options: Mapping[str, Any], bar: progress.Bar) -> int:
    return int(run_alone("export", {"run": str(run), "export": options}, threads=1, bar=bar)["peak"])


def _process_mib(held: Sequence[Mapping[str, int]]) -> float:
    return max(found["process"] for found in held) / 2**20


def _hold(sizes: Sizes, stage: int, bar: progress.Bar, *, part: int) -> list[Result]:
    with tempfile.TemporaryDirectory(prefix="realm-bench-") as made:
        config = _config(Path(made), data=Path(made) / "no-data", zero=stage, settings=sizes.settings)
        options = {"config": str(config), "run": made, "vocabulary": sizes.vocabulary}
        return run_in_world(
            "resident",
            options,
            clients=sizes.trainers,
            shards=0,
            bar=bar,
            part=part,
            parts=1 + len(sizes.stages),
            module=MODULE,
        )


def _config(run: Path, *, data: Path, zero: int, settings: Mapping[str, Any]) -> Path:
    """Of the demo's recipe, with the smallest batches."""
    changed = {
        "data.corpus": data / "corpus", "data.tokenizer": data / "tokenizer", "pretrain.micro_batch_size": 2,
        "pretrain.candidates": 2, "runtime.deepspeed": packaged_deepspeed(f"zero{zero}"), **settings,
    }  # fmt: skip
    run.mkdir(exist_ok=True)
    config = run / RUN_CONFIG
    config.write_text(dump(load("demo", [f"{name}={value}" for name, value in changed.items()])), encoding="utf-8")
    return config
