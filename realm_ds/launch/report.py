"""What a demo reached, as report.json and report.md. Plots are plots.py's business, running the stages demo's.

Takes plain data: what the stages handed over, and the metrics rows (JSONL) of trainer 0 during pre-training.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from realm_ds.errors import DataError
from realm_ds.files import write_durably
from realm_ds.observe.progress import HELD_OUT
from realm_ds.observe.sinks import last_of_each_step, metrics_path, read_events

HELD_OUT_SHOWN = ("log_likelihood", "retrieval_utility", "null_share", "recall_at_5")
"""Of all that is measured on held-out data while pre-training goes on."""
PRETRAIN = "pretrain"
"""The stage whose metrics the report draws."""

Recall = Mapping[int, float]
"""Recall by cut-off: {1: ..., 5: ..., 20: ...}."""


@dataclass(frozen=True, kw_only=True)
class DemoResults:
    """What the stages of a demo handed over. Shares are between 0 and 1."""

    passages: int
    questions: Mapping[str, int]
    """Questions of each split: train, dev, test."""
    trainers: int
    index_ranks: int
    zero_stage: int
    ict_in_batch_accuracy: float
    recall: Mapping[str, Recall]
    """Of held-out masked statements after each stage: random_init, ict, realm."""
    recall_unseen_passages: Mapping[str, Recall]
    """The same of those statements whose passages no training fact is taken from."""
    question_recall: Mapping[str, Recall]
    """Of test questions after each stage: random_init, ict, realm, qa."""
    qa: Mapping[str, float]
    """em, f1, em_no_retrieval, em_majority over the test questions."""
    seconds: Mapping[str, float]
    """Wall time of each stage."""
    peak_rss_gib: float
    """Of all processes together."""


def pretrain_rows(run_folder: Path) -> list[dict[str, Any]]:
    """What trainer 0 of a pre-training run wrote down, oldest first."""
    path = metrics_path(run_folder, role="trainer", role_rank=0)
    if not path.is_file():
        raise DataError(f"{path} is missing: the run that should have written its metrics there did not start")
    return [row for row in read_events(path) if row.get("stage", PRETRAIN) == PRETRAIN]


def step_rows(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The logged steps in order. A step that a resumed run did again counts once, as it was done last."""
    steps = last_of_each_step(dict(row) for row in rows if row.get("event") == "step")
    if not steps:
        raise DataError("the metrics hold no step at all: pre-training did not reach its first logged step")
    return steps


def held_out_rows(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What was held out, at each step where it was measured, the names without their prefix; none where it was not."""
    evaluated = last_of_each_step(dict(row) for row in rows if row.get("event") == "evaluated")
    names = ("step", "version", *(f"{HELD_OUT}{name}" for name in HELD_OUT_SHOWN))
    return [{name.removeprefix(HELD_OUT): row[name] for name in names if name in row} for row in evaluated]


def adoptions(steps: Sequence[Mapping[str, Any]]) -> dict[int, int]:
    """The first logged step with each index version after version 0, where every run begins."""
    first: dict[int, int] = {}
    for row in steps:
        version = int(row.get("version", 0))
        if version > 0:
            first.setdefault(version, int(row["step"]))
    return first


def summarise_pretrain(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The `pretrain` part of the report. First and last are means over the first and last tenth of the logged steps.

    Counts come from `done` rows: those of a process that was killed are lost, and after a resume only the rest counts.
    """
    steps = step_rows(rows)
    tenth = max(1, len(steps) // 10)
    done = [row for row in rows if row.get("event") == "done"]
    return {
        "steps": steps[-1]["step"],
        "loss_first": _mean(steps[:tenth], "loss"),
        "loss_last": _mean(steps[-tenth:], "loss"),
        "retrieval_utility_last": _utility(steps[-tenth:]),
        "versions_adopted": len(adoptions(steps)),
        "mixed_version_replies": _counted(done, "mixed_version_replies"),
        "trainer_wait_for_index_share": _wait_share(steps[1:]),
        "first_index_wait_s": steps[0]["wait_for_index_ms"] / 1e3,
        "searches": _counted(done, "searches"),
        "is_finished": bool(done),
    }


def _wait_share(steps: Sequence[Mapping[str, Any]]) -> float:
    """Share of the trainers' time spent waiting for the index, once there is one: the first step is left out."""
    return _mean(steps, "wait_for_index_ms") / max(_mean(steps, "step_ms"), 1e-9) if steps else 0.0


def build_report(results: DemoResults, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """report.json as a dict: plain numbers, JSON keys."""
    return {
        "passages": results.passages,
        "questions": dict(results.questions),
        "trainers": results.trainers,
        "index_ranks": results.index_ranks,
        "zero_stage": results.zero_stage,
        "ict": {"in_batch_accuracy": results.ict_in_batch_accuracy},
        "pretrain": summarise_pretrain(rows),
        "held_out": held_out_rows(rows),
        **_recall_keys("recall_at", results.recall),
        **_recall_keys("recall_unseen_passages_at", results.recall_unseen_passages),
        **_recall_keys("question_recall_at", results.question_recall),
        "qa": dict(results.qa),
        "seconds": dict(results.seconds),
        "peak_rss_gib": results.peak_rss_gib,
    }


def write_report(folder: Path, report: Mapping[str, Any], *, examples: Sequence[Mapping[str, Any]]) -> None:
    """Write report.json and report.md into the folder; examples are rows of the test predictions (choose_examples)."""
    write_durably(folder / "report.json", json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    write_durably(folder / "report.md", report_markdown(report, examples=examples))


def report_markdown(report: Mapping[str, Any], *, examples: Sequence[Mapping[str, Any]] = ()) -> str:
    """The report for people: a table per stage, then a few questions with what was found and answered."""
    pretrain, qa, questions = report["pretrain"], report["qa"], report["questions"]
    parts = [
        "# What this run reached",
        f"{report['passages']:,} passages; {', '.join(f'{count:,} {split}' for split, count in questions.items())} "
        f"questions; {report['trainers']} trainers (ZeRO-{report['zero_stage']}) and {report['index_ranks']} index "
        f"ranks; {sum(report['seconds'].values()) / 60:.1f} minutes, at most {report['peak_rss_gib']:.1f} GiB.",
        "## Finding the passage: held-out masked statements",
        "A statement with its answer masked, of an (entity, field) that no training saw; the whole corpus is searched.",
        _recall_table(report, "recall_at"),
        "Of these, the statements whose passages no training fact is taken from:",
        _recall_table(report, "recall_unseen_passages_at"),
        "## Finding the passage: test questions",
        _recall_table(report, "question_recall_at"),
        "## Answering test questions",
        _table(
            ["", "exact match", "F1"],
            [
                ["fine-tuned reader and retriever", _percent(qa["em"]), _percent(qa["f1"])],
                ["the same reader, given random passages", _percent(qa["em_no_retrieval"]), ""],
                ["the most common training answer of the field", _percent(qa["em_majority"]), ""],
            ],
        ),
        "## Pre-training",
        _table(["measure", "value"], _pretrain_lines(pretrain, report["ict"])),
        *_held_out_parts(report.get("held_out", [])),
        "## Time",
        _table(["stage", "seconds"], [[stage, f"{took_s:.0f}"] for stage, took_s in report["seconds"].items()]),
        *_example_parts(examples),
    ]
    return "\n\n".join(parts) + "\n"


def choose_examples(rows: Sequence[Mapping[str, Any]], *, right: int = 4, wrong: int = 2) -> list[Mapping[str, Any]]:
    """A few predictions to show: right ones of different fields first, then wrong ones of different fields."""
    return _of_different_fields(rows, is_exact=True, count=right) + _of_different_fields(
        rows, is_exact=False, count=wrong
    )


def _of_different_fields(rows: Sequence[Mapping[str, Any]], *, is_exact: bool, count: int) -> list[Mapping[str, Any]]:
    by_field: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        if bool(row["is_exact"]) == is_exact:
            by_field.setdefault(row.get("field", row["question"]), row)
    return list(by_field.values())[:count]


def _pretrain_lines(pretrain: Mapping[str, Any], ict: Mapping[str, Any]) -> list[list[str]]:
    return [
        ["in-batch accuracy of the warm start (ICT)", _percent(ict["in_batch_accuracy"])],
        ["steps", f"{pretrain['steps']:,}"],
        ["loss, first to last tenth", f"{pretrain['loss_first']:.3f} to {pretrain['loss_last']:.3f}"],
        ["retrieval utility, last tenth", _utility_word(pretrain["retrieval_utility_last"])],
        ["index versions adopted", str(pretrain["versions_adopted"])],
        ["searches", _count(pretrain["searches"])],
        ["replies of mixed versions", _count(pretrain["mixed_version_replies"])],
        ["trainers' time waiting for the index, once it is there", _percent(pretrain["trainer_wait_for_index_share"])],
        ["seconds until it was there", f"{pretrain['first_index_wait_s']:.1f}"],
    ]


def _held_out_parts(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    if not rows:
        return []
    head = ["after step", "index version", "log likelihood a token", "retrieval utility", "null share", "recall@5"]
    lines = [
        [
            str(row["step"]), str(row["version"]), _number(row, "log_likelihood"), _number(row, "retrieval_utility"),
            _number(row, "null_share", _percent), _number(row, "recall_at_5", _percent),
        ]
        for row in rows
    ]  # fmt: skip
    return [
        "## Held out, while pre-training went on",
        "Sentences and questions of the dev split, of facts that no training sentence tells, put to the index that was "
        "live at that step: what retrieval is worth (retrieval utility: nats a token over the null passage), and how "
        "often a question that pre-training never sees finds its passage (recall@5).",
        _table(head, lines),
    ]


def _number(row: Mapping[str, Any], name: str, text: Callable[[float], str] = "{:.3f}".format) -> str:
    """Nothing where it was not measured; a word where it is not finite."""
    value = row.get(name, "")
    return text(value) if isinstance(value, int | float) else str(value)


def _recall_keys(prefix: str, stages: Mapping[str, Recall]) -> dict[str, dict[str, float]]:
    """{"recall_at_5": {"ict": ...}, ...}: by cut-off, then by stage."""
    cut_offs = sorted({k for recall in stages.values() for k in recall})
    return {f"{prefix}_{k}": {stage: recall[k] for stage, recall in stages.items()} for k in cut_offs}


def recall_of(report: Mapping[str, Any], prefix: str) -> dict[int, dict[str, float]]:
    """The recalls of a report back by cut-off: {5: {"ict": ...}}."""
    keys = [key for key in report if key.startswith(f"{prefix}_") and key.removeprefix(f"{prefix}_").isdigit()]
    return {k: report[f"{prefix}_{k}"] for k in sorted(int(key.removeprefix(f"{prefix}_")) for key in keys)}


def _recall_table(report: Mapping[str, Any], prefix: str) -> str:
    by_cut_off = recall_of(report, prefix)
    stages = next(iter(by_cut_off.values()), {})
    rows = [[stage, *(_percent(values[stage]) for values in by_cut_off.values())] for stage in stages]
    return _table(["after", *(f"recall@{k}" for k in by_cut_off)], rows)


def _example_parts(examples: Sequence[Mapping[str, Any]]) -> list[str]:
    if not examples:
        return []
    return ["## Examples of the test split", *(_example(example) for example in examples)]


def _example(example: Mapping[str, Any]) -> str:
    verdict = "right" if example["is_exact"] else "wrong"
    lines = [
        f"**{example['question']}**",
        "",
        f"- answered: {example['prediction']} ({verdict})",
        f"- accepted: {' / '.join(example['answers'])}",
    ]
    for place, hit in enumerate(example.get("retrieved", [])[:3], start=1):
        mark = ", holds the answer" if hit.get("is_gold") else ""
        lines.append(f"- found {place}: *{hit['title']}*{mark}: {_shorten(hit['text'])}")
    return "\n".join(lines)


def _shorten(text: str, limit: int = 240) -> str:
    return text if len(text) <= limit else text[:limit].rsplit(" ", 1)[0] + " ..."


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _mean(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    lacking = [row["step"] for row in rows if name not in row]
    if lacking:
        raise DataError(f"the metrics of step {lacking[0]} hold no {name}; they were written by another version")
    return sum(float(row[name]) for row in rows) / len(rows)


def _utility(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """None, which is not 0, in a run without a null passage to measure against."""
    return _mean(rows, "retrieval_utility") if any("retrieval_utility" in row for row in rows) else None


def _utility_word(utility: float | None) -> str:
    return "none: no null passage" if utility is None else f"{utility:.3f}"


def _counted(done: Sequence[Mapping[str, Any]], name: str) -> int | None:
    """A total of the run's `done` rows; None, which is not 0, where nothing was counted."""
    counts = [row[name] for row in done if name in row]
    return round(sum(float(count) for count in counts)) if counts else None


def _count(number: int | None) -> str:
    return "not counted" if number is None else f"{number:,}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"
