"""What a demo reached: report.json, and what report.html and report.md say of it above its stages.

Takes plain data: what the stages handed over, and the history of pre-training. What is said of each stage, as of any
run, is sections.py's business, running the stages launch/demo.py's.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from realm_ds.errors import DataError
from realm_ds.files import write_durably
from realm_ds.reports.document import Block, Column, Entry, Findings, Paragraph, Section, Table
from realm_ds.reports.history import Row, RunHistory
from realm_ds.reports.plots import draw_recall

REPORT_FILE = "report.json"
HELD_OUT_SHOWN = ("log_likelihood", "retrieval_utility", "null_share", "recall_at_5")
"""Of all that is measured on held-out data while pre-training goes on."""

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


def summarise_pretrain(run: RunHistory) -> dict[str, Any]:
    """The `pretrain` part of the report. First and last are means over the first and last tenth of the logged steps.

    Counts are those of the last world: a process that was killed has not told its own.
    """
    steps = run.steps
    if not steps:
        raise DataError("the metrics hold no step at all: pre-training did not reach its first logged step")
    tenth = max(1, len(steps) // 10)
    return {
        "steps": steps[-1]["step"],
        "loss_first": _mean(steps[:tenth], "loss"),
        "loss_last": _mean(steps[-tenth:], "loss"),
        "retrieval_utility_last": _utility(steps[-tenth:]),
        "versions_adopted": sum(bool(version.adopted_step) for version in run.versions),
        "mixed_version_replies": _counted(run.totals, "mixed_version_replies"),
        "trainer_wait_for_index_share": _wait_share(steps[1:]),
        "first_index_wait_s": steps[0]["wait_for_index_ms"] / 1e3,
        "searches": _counted(run.totals, "searches"),
        "is_finished": bool(run.totals),
    }


def _held_out(run: RunHistory) -> list[dict[str, Any]]:
    names = ("step", "version", *HELD_OUT_SHOWN)
    return [{name: row[name] for name in names if name in row} for row in run.held_out]


def _wait_share(steps: Sequence[Mapping[str, Any]]) -> float:
    """Share of the trainers' time spent waiting for the index, once there is one: the first step is left out."""
    return _mean(steps, "wait_for_index_ms") / max(_mean(steps, "step_ms"), 1e-9) if steps else 0.0


def build_report(results: DemoResults, run: RunHistory) -> dict[str, Any]:
    """report.json as a dict: plain numbers, JSON keys. The run is that of pre-training."""
    return {
        "passages": results.passages,
        "questions": dict(results.questions),
        "trainers": results.trainers,
        "index_ranks": results.index_ranks,
        "zero_stage": results.zero_stage,
        "ict": {"in_batch_accuracy": results.ict_in_batch_accuracy},
        "pretrain": summarise_pretrain(run),
        "held_out": _held_out(run),
        **_recall_keys("recall_at", results.recall),
        **_recall_keys("recall_unseen_passages_at", results.recall_unseen_passages),
        **_recall_keys("question_recall_at", results.question_recall),
        "qa": dict(results.qa),
        "seconds": dict(results.seconds),
        "peak_rss_gib": results.peak_rss_gib,
    }


def write_report(folder: Path, report: Mapping[str, Any]) -> None:
    """Write report.json into the folder."""
    write_durably(folder / REPORT_FILE, json.dumps(report, indent=2, ensure_ascii=False) + "\n")


def read_report(folder: Path) -> dict[str, Any] | None:
    """What was written; None of a demo that has not ended, or a pipeline. Raises DataError for what is damaged."""
    path = folder / REPORT_FILE
    try:
        report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise DataError(f"{path} is damaged ({error}): `realm-ds demo --resume` writes it again") from error
    return report


def demo_sections(folder: Path, report: Mapping[str, Any]) -> list[Section]:
    """The report for people: a table per stage, then a few questions with what was found and answered."""
    questions, examples = report["questions"], _examples(folder)
    sizes = (
        f"{report['passages']:,} passages; {', '.join(f'{count:,} {split}' for split, count in questions.items())} "
        f"questions; {report['trainers']} trainers (ZeRO-{report['zero_stage']}) and {report['index_ranks']} index "
        f"ranks; {sum(report['seconds'].values()) / 60:.1f} minutes, at most {report['peak_rss_gib']:.1f} GiB."
    )
    made: dict[str, Sequence[Block]] = {
        "The whole": [Paragraph(text=sizes), *_recall_plot(report)],
        "Finding the passage: held-out masked statements": [
            Paragraph(text="A statement with its answer masked, of an (entity, field) that no training saw; the whole "
                           "corpus is searched."),
            _recall_table(report, "recall_at"),
            Paragraph(text="Of these, the statements whose passages no training fact is taken from:"),
            _recall_table(report, "recall_unseen_passages_at"),
        ],
        "Finding the passage: test questions": [_recall_table(report, "question_recall_at")],
        "Answering test questions": [_answers(report["qa"])],
        "What pre-training did": [_pretrain_table(report["pretrain"], report["ict"])],
        "Held out, while pre-training went on": list(_held_out_blocks(report.get("held_out", []))),
        "Time": [
            Table(head=("stage", "seconds"),
                  rows=tuple((stage, f"{took_s:.0f}") for stage, took_s in report["seconds"].items())),
        ],
        "Examples of the test split": [_example(example) for example in choose_examples(examples)],
    }  # fmt: skip
    return [Section(title=title, blocks=tuple(blocks)) for title, blocks in made.items() if blocks]


def _examples(folder: Path) -> list[Row]:
    path = folder / "qa" / "qa" / "test.jsonl"
    lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n") if path.is_file() else []
    return [json.loads(line) for line in lines if line]


def _answers(qa: Mapping[str, float]) -> Table:
    rows = (
        ("fine-tuned reader and retriever", _percent(qa["em"]), _percent(qa["f1"])),
        ("the same reader, given random passages", _percent(qa["em_no_retrieval"]), ""),
        ("the most common training answer of the field", _percent(qa["em_majority"]), ""),
    )
    return Table(head=("", "exact match", "F1"), rows=rows)


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


def _pretrain_table(pretrain: Mapping[str, Any], ict: Mapping[str, Any]) -> Table:
    rows = (
        ("in-batch accuracy of the warm start (ICT)", _percent(ict["in_batch_accuracy"])),
        ("steps", f"{pretrain['steps']:,}"),
        ("loss, first to last tenth", f"{pretrain['loss_first']:.3f} to {pretrain['loss_last']:.3f}"),
        ("retrieval utility, last tenth", _utility_word(pretrain["retrieval_utility_last"])),
        ("index versions adopted", str(pretrain["versions_adopted"])),
        ("searches", _count(pretrain["searches"])),
        ("replies of mixed versions", _count(pretrain["mixed_version_replies"])),
        ("trainers' time waiting for the index, once it is there", _percent(pretrain["trainer_wait_for_index_share"])),
        ("seconds until it was there", f"{pretrain['first_index_wait_s']:.1f}"),
    )
    return Table(head=("measure", "value"), rows=rows)


def _held_out_blocks(rows: Sequence[Mapping[str, Any]]) -> Iterator[Block]:
    if not rows:
        return
    yield Paragraph(
        text="Sentences and questions of the dev split, of facts that no training sentence tells, put to the index "
        "that was live at that step: what retrieval is worth (retrieval utility: nats a token over the null passage), "
        "and how often a question that pre-training never sees finds its passage (recall@5)."
    )
    yield Table(
        head=("after step", "index version", "log likelihood a token", "retrieval utility", "null share", "recall@5"),
        rows=tuple(
            (
                str(row["step"]), str(row["version"]), _number(row, "log_likelihood"),
                _number(row, "retrieval_utility"), _number(row, "null_share", _percent),
                _number(row, "recall_at_5", _percent),
            )
            for row in rows
        ),
    )  # fmt: skip


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


def _recall_table(report: Mapping[str, Any], prefix: str) -> Table:
    by_cut_off = recall_of(report, prefix)
    stages = next(iter(by_cut_off.values()), {})
    rows = tuple((stage, *(_percent(values[stage]) for values in by_cut_off.values())) for stage in stages)
    return Table(head=("after", *(f"recall@{k}" for k in by_cut_off)), rows=rows)


def _recall_plot(report: Mapping[str, Any]) -> list[Block]:
    titles = {"Held-out masked statements": "recall_at", "Test questions": "question_recall_at"}
    return [draw_recall({title: recall_of(report, prefix) for title, prefix in titles.items()})]


def _example(example: Mapping[str, Any]) -> Findings:
    verdict = "right" if example["is_exact"] else "wrong"
    found = tuple(
        Entry(title=hit["title"], text=_shorten(hit["text"]), is_right=hit.get("is_gold"))
        for hit in example.get("retrieved", [])[:3]
    )
    notes = (f"Answered: {example['prediction']} ({verdict})", f"Accepted: {' / '.join(example['answers'])}")
    return Findings(query=example["question"], notes=notes, columns=(Column(title="Found", entries=found),))


def _shorten(text: str, limit: int = 240) -> str:
    return text if len(text) <= limit else text[:limit].rsplit(" ", 1)[0] + " ..."


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


def _counted(totals: Row, name: str) -> int | None:
    """A total of the run; None, which is not 0, where nothing was counted."""
    return round(float(totals[name])) if name in totals else None


def _count(number: int | None) -> str:
    return "not counted" if number is None else f"{number:,}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"
