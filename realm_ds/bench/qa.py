"""`realm-ds bench qa`: questions answered as `qa eval` does it, beside transformers' RealmForOpenQA on the same
weights, passages, questions and threads. The job that is timed is qa_jobs.py's.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from realm_ds.bench.measure import Bar, Measure, median, spread
from realm_ds.bench.peer import VERSION, peer_environment
from realm_ds.bench.processes import run_alone
from realm_ds.bench.run import Group
from realm_ds.errors import LaunchError
from realm_ds.observe import progress

TIMES = Bar(limit=5.0)
SAME = Bar(limit=99.0, of="value")
NAMES = (
    "qa_retrieve_transformers", "qa_read_transformers", "qa_same_answers", "qa_read_transformers_bf16",
    "qa_same_answers_bf16",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is measured."""

    is_quick: bool
    entities: int | None
    """Of the Factbook, whose text it is; None for all."""
    vocabulary: int
    rounds: int
    at_once: Mapping[str, int]
    """Questions of a round, others in each, by side: transformers gets the first of ours."""
    threads: int = 1


FULL = Sizes(
    is_quick=False, entities=None, vocabulary=8_000, rounds=4, at_once={"ours": 128, "retrieve": 8, "read": 64}
)
QUICK = Sizes(is_quick=True, entities=3, vocabulary=1_000, rounds=1, at_once={"ours": 6, "retrieve": 2, "read": 3})


def qa_groups(
    *, is_quick: bool, layers: int, hidden: int, model: Path | None = None, questions: Path | None = None
) -> list[Group]:
    """What the verb can measure, of a network of that size over the Factbook or of an export and its questions."""
    options = {
        "model": model and str(model.absolute()), "questions": questions and str(questions.absolute()), "width": 128,
        "network": {"layers": layers, "hidden": hidden, "intermediate": 4 * hidden},
    }  # fmt: skip
    run = functools.partial(beside_transformers, QUICK if is_quick else FULL, options)
    return [Group(title="Answers beside transformers' REALM", names=NAMES, run=run)]


def beside_transformers(sizes: Sizes, options: dict[str, Any], bar: progress.Bar) -> Sequence[Measure]:
    """Questions a second of both, and whether they say the same."""
    bar.update(now=f"making an environment with transformers {VERSION}")
    try:
        python = peer_environment()
    except LaunchError as error:
        nothing: dict[str, Any] = {"value": float("nan"), "note": f"not measured: {error}"}
        return _measures(sizes, *[nothing] * len(NAMES))
    options = {
        **options, "python": str(python), "entities": sizes.entities, "vocabulary": sizes.vocabulary,
        "rounds": sizes.rounds, "at_once": dict(sizes.at_once), "threads": sizes.threads,
    }  # fmt: skip
    found = run_alone("qa_answer", options, threads=sizes.threads, bar=bar)
    what = (
        f"reference: RealmForOpenQA of transformers {VERSION}, {sizes.threads} thread; {found['passages']:,} passages "
        f"of {found['wordpieces']:.0f} wordpieces, {found['num_read']} read"
    )
    retrieves = min(5000, found["passages"])
    notes = {
        "retrieve": f"{what}; searcher_beam_size {retrieves}, as REALM retrieves and transformers does in training: it "
        "tokenises all of these anew for every question",
        "read": f"{what}; it retrieves only what it reads, as its eval() does",
    }

    def speed(dtype: str, mode: str) -> dict[str, Any]:
        return {
            "value": median(found[dtype]), "reference": median(found[mode]),
            "note": f"{notes[mode]}; {spread(found[dtype], found[mode])}",
        }  # fmt: skip

    def same(dtype: str) -> dict[str, Any]:
        return {
            "value": 100 * found["num_same"][dtype] / found["num_told"],
            "note": f"of {found['num_told']} answers in both settings, normalised, as wordpieces say them",
        }

    return _measures(
        sizes, speed("fp32", "retrieve"), speed("fp32", "read"), same("fp32"), speed("bf16", "read"), same("bf16")
    )


def _measures(sizes: Sizes, *found: dict[str, Any]) -> list[Measure]:
    speed, share = ("questions/s", TIMES), ("% of answers", SAME)
    return [
        Measure(name=name, unit=unit, bar=bar, is_judged=not sizes.is_quick, **each)
        for name, (unit, bar), each in zip(NAMES, (speed, speed, share, speed, share), found, strict=True)
    ]
