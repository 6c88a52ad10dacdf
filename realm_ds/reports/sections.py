"""What a report says of a run, or of two runs of one stage beside each other: each section for all runs that are named.

What happened is history.py's business, what runs answered differently comparison.py's.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from realm_ds.config.fields import field_names, field_of
from realm_ds.data.shards import open_shards
from realm_ds.errors import RealmError
from realm_ds.observe.progress import clock_text
from realm_ds.reports.comparison import compare_scores
from realm_ds.reports.document import Block, Column, Entry, Figures, Findings, Paragraph, Section, Table
from realm_ds.reports.history import Hit, IndexVersion, ProbeFinding, ProbeHistory, Row, RunHistory
from realm_ds.reports.plots import Runs, draw_curves, draw_time_split

MOST_ROWS = 40
"""Of a table that has one for each index version, rank or measurement: the first and the last of them."""
OF_STAGES = ("ict", "pretrain", "qa")
HELD_OUT_SHOWN = {
    "log_likelihood": "log p(y|x) a token", "retrieval_utility": "retrieval utility", "null_share": "p(null|x)",
    "recall_at_1": "recall@1", "recall_at_5": "recall@5", "recall_at_20": "recall@20",
}  # fmt: skip


def sections_of(runs: Runs) -> list[Section]:
    """All that there is to say; a section without anything is left out."""
    made: dict[str, Iterable[Block]] = {
        "At a glance": _glance(runs),
        "What is missing": _missing(runs),
        "Settings": _settings(runs),
        "Data": _data(runs),
        "Environment": _environment(runs),
        "Curves": draw_curves(runs),
        "Where the time goes": _time_split(runs),
        "Index versions": _versions(runs),
        "Ranks": _ranks(runs),
        "Held-out measurements": _held_out(runs),
        "Probe queries": _probes(runs),
        "Answered questions": compare_scores(runs),
    }
    sections = [Section(title=title, blocks=tuple(blocks)) for title, blocks in made.items()]
    return [section for section in sections if section.blocks]


def changed_settings(run: RunHistory) -> dict[str, tuple[Any, Any]]:
    """(default, value) of the settings that are not what they are by default, of the run's own stage and of all."""
    found = {}
    for name in field_names():
        section, _, _ = name.partition(".")
        if section in OF_STAGES and section != run.stage:
            continue
        value, info = setting_of(run, name), field_of(tuple(name.split(".")))
        assert info is not None
        default = None if info.is_required() else info.get_default(call_default_factory=True)
        if value != default:
            found[name] = (default, value)
    return found


def setting_of(run: RunHistory, name: str) -> Any:
    value: Any = run.settings
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _glance(runs: Runs) -> Iterator[Block]:
    told = {name: dict(_figures(run)) for name, run in runs.items()}
    if len(runs) == 1:
        (figures,) = told.values()
        yield Figures(items=tuple(figures.items()))
        return
    labels = list(dict.fromkeys(label for figures in told.values() for label in figures))
    rows = tuple((label, *(figures.get(label, "") for figures in told.values())) for label in labels)
    yield Table(head=("", *runs), rows=rows)


def _figures(run: RunHistory) -> Iterator[tuple[str, str]]:
    yield "steps", f"{run.steps_done:,} of {run.num_steps:,}"
    yield "wall time", clock_text(sum(world.took_s for world in run.worlds))
    tenth = max(1, len(run.steps) // 10)
    labels = {"loss": "loss, last tenth", "retrieval_utility": "retrieval utility, last tenth",
              "in_batch_accuracy": "in-batch accuracy, last tenth"}  # fmt: skip
    for name, label in labels.items():
        points = run.curve(name)
        if points:
            yield label, _number(_mean([value for _, value in points[-tenth:]]))
    for name, label in {"recall_at_5": "held-out recall@5", "retrieval_utility": "held-out utility"}.items():
        points = run.held_out_curve(name)
        if points:
            yield label, _percent(points[-1][1]) if name == "recall_at_5" else _number(points[-1][1])
    split = run.time_split()
    if split:
        yield "a step", f"{sum(split.values()):,.0f} ms"
    if run.versions:
        yield "index versions adopted", str(sum(version.adopted_step is not None for version in run.versions))
        yield "waiting for the index", _percent(split.get("wait_for_index", 0.0) / max(sum(split.values()), 1e-9))
    if "test" in run.scores:
        yield "exact match, test", _percent(run.scores["test"]["em"])


def _missing(runs: Runs) -> Iterator[Block]:
    for name, run in runs.items():
        said = f"{name}: " if len(runs) > 1 else ""
        for text in (*run.absent, *dict.fromkeys(run.remarks)):
            yield Paragraph(text=f"{said}{text}")


def _settings(runs: Runs) -> Iterator[Block]:
    changed = {name: changed_settings(run) for name, run in runs.items()}
    names = [name for name in field_names() if any(name in settings for settings in changed.values())]
    every = list(runs.values())
    differ = [name for name in names if len({str(setting_of(run, name)) for run in every}) > 1]
    alike = [name for name in names if name not in differ]
    if len(runs) > 1:
        yield Paragraph(text=_count(len(differ), "setting differs", "settings differ") + " between the two:")
        yield from _setting_table(runs, differ)
        yield Paragraph(text="The same in both, but not the default:")
    yield from _setting_table(runs, alike, are_alike=True)
    yield Paragraph(text="All other settings have their defaults; config.yaml in the run's folder has all of them.")


def _setting_table(runs: Runs, names: Sequence[str], *, are_alike: bool = False) -> Iterator[Block]:
    shown = dict(list(runs.items())[:1]) if are_alike else runs
    rows = []
    for name in names:
        info = field_of(tuple(name.split(".")))
        assert info is not None
        default = "required" if info.is_required() else _word(info.get_default(call_default_factory=True))
        rows.append((name, *(_word(setting_of(run, name)) for run in shown.values()), default))
    if rows:
        head = ("setting", *(["value"] if len(shown) == 1 else shown), "default")
        yield Table(head=head, rows=tuple(rows), is_text=True)


def _data(runs: Runs) -> Iterator[Block]:
    places = {"corpus": "data.corpus", "sentences": "data.pretrain", "held out": "data.held_out",
              "questions": "qa.data", "tokenizer": "data.tokenizer"}  # fmt: skip
    rows = []
    for label, setting in places.items():
        values = [setting_of(run, setting) for run in runs.values()]
        if any(value is not None for value in values) and not (label == "questions" and _is_not(runs, "qa")):
            rows.append((label, *(_place(value) for value in values)))
    yield Table(head=("", *(runs if len(runs) > 1 else ["where"])), rows=tuple(rows), is_text=True)


def _is_not(runs: Runs, stage: str) -> bool:
    return all(run.stage != stage for run in runs.values())


def _place(place: Path | str | None) -> str:
    """With the number of its records, where they can be looked at."""
    if place is None:
        return ""
    if isinstance(place, Path) and (place / "manifest.json").is_file():
        for kind in ("corpus", "pretrain"):
            try:
                count = open_shards(place, kind=kind, fingerprint=None).count  # type: ignore[arg-type]
            except (RealmError, OSError):
                continue
            return f"{place}: {count:,} {'passages' if kind == 'corpus' else 'records'}"
    return str(place)


def _environment(runs: Runs) -> Iterator[Block]:
    told: list[dict[str, str]] = []
    for run in runs.values():
        made, first = run.environment, run.worlds[0] if run.worlds else None
        ranks = [f"{sum(rank.role == role for rank in run.ranks)} {role}" for role in _roles(run)]
        started = time.strftime("%Y-%m-%d %H:%M", time.localtime(first.started_at)) if first else ""
        told.append({
            "code": made.code + (", with changes" if made.is_modified else ""),
            "hosts": _listed(made.hosts), "ranks": ", ".join(ranks), "started": started,
            "starts": str(len(run.worlds)), **made.libraries,
        })  # fmt: skip
    labels = dict.fromkeys(label for one in told for label in one)
    rows = [(label, *(one.get(label, "") for one in told)) for label in labels]
    head = ("", *(runs if len(runs) > 1 else ["as recorded"]))
    yield Table(head=head, rows=tuple(row for row in rows if any(row[1:])), is_text=True)


def _roles(run: RunHistory) -> list[str]:
    return list(dict.fromkeys(rank.role for rank in run.ranks))


def _time_split(runs: Runs) -> Iterator[Block]:
    plot = draw_time_split(runs)
    if plot is None:
        return
    yield plot
    splits = [run.time_split() for run in runs.values()]
    phases = sorted({phase for split in splits for phase in split}, key=lambda phase: -splits[0].get(phase, 0.0))
    rows = [
        (phase.replace("_", " "), *(text for split in splits for text in _took(split, phase))) for phase in phases
    ]  # fmt: skip
    totals = ("all", *(text for split in splits for text in (f"{sum(split.values()):,.1f}", "")))
    heads = ("ms a step", "share") if len(runs) == 1 else tuple(
        head for name in runs for head in (f"{name}, ms a step", "share")
    )  # fmt: skip
    yield Table(head=("phase", *heads), rows=(*rows, totals))
    yield Paragraph(text="Means over steps and trainers, without the first step, which waits for the first index.")


def _took(split: dict[str, float], phase: str) -> tuple[str, str]:
    took_ms = split.get(phase, 0.0)
    return f"{took_ms:,.1f}", _percent(took_ms / max(sum(split.values()), 1e-9))


def _versions(runs: Runs) -> Iterator[Block]:
    head = ("version", "launched at step", "adopted at step", "age then, steps", "build, s", "hits changed")
    for name, run in runs.items():
        if run.versions:
            yield from _named(name, runs)
            yield from _table(head, [_version_row(version) for version in run.versions])


def _version_row(version: IndexVersion) -> tuple[str, ...]:
    share = version.changed_share
    return (
        str(version.number), _whole(version.launched_step), _whole(version.adopted_step),
        _whole(version.age_at_adoption), "" if version.build_s is None else f"{version.build_s:,.1f}",
        "" if share is None else _percent(share),
    )  # fmt: skip


def _ranks(runs: Runs) -> Iterator[Block]:
    head = ("rank", "host", "peak memory, GiB", "looks", "of them waiting", "longest wait, s", "for")
    for name, run in runs.items():
        if not run.ranks:
            continue
        yield from _named(name, runs)
        rows = [
            (
                rank.name, rank.host, f"{rank.peak_rss_gib:.2f}", str(rank.num_looks), _percent(rank.waiting_share),
                f"{rank.longest_wait_s:.1f}" if rank.longest_wait_for else "", rank.longest_wait_for,
            )
            for rank in run.ranks
        ]  # fmt: skip
        yield from _table(head, rows, is_text=True)
    yield Paragraph(text="Each rank writes every few seconds what it waits for: looks are how often it did.")


def _held_out(runs: Runs) -> Iterator[Block]:
    for name, run in runs.items():
        shown = {key: label for key, label in HELD_OUT_SHOWN.items() if run.held_out_curve(key)}
        if shown:
            yield from _named(name, runs)
            rows = [
                (str(row["step"]), str(row.get("version", "")), *(_measure(row, key) for key in shown))
                for row in run.held_out
            ]
            yield from _table(("after step", "index version", *shown.values()), rows)
    if len(runs) > 1 and all(run.held_out for run in runs.values()):
        yield Paragraph(
            text="No intervals for these: a run writes down means over all sentences and questions, not a row for each."
        )


def _measure(row: Row, key: str) -> str:
    value = row.get(key, "")
    if not isinstance(value, int | float):
        return str(value)
    return _percent(value) if key.startswith("recall") or key.endswith("share") else _number(value)


def _probes(runs: Runs) -> Iterator[Block]:
    """Of one run before and after; of two, what each found at last."""
    first = next(iter(runs.values()))
    if not first.probes:
        return
    if len(runs) == 1:
        yield Paragraph(
            text="Queries that are never trained on, put to every index version: what the first found, and the last. "
            "p is p(z|x) by the version's own weights."
            + (f" They took {_mean(first.probe_ms):.1f} ms of a step at each adoption." if first.probe_ms else "")
        )
        for probe in first.probes:
            found = dict.fromkeys((probe.findings[0], probe.findings[-1]))
            yield Findings(query=probe.query, notes=_notes(probe), columns=tuple(_column(one) for one in found))
        return
    named = {name: {probe.query: probe for probe in run.probes} for name, run in runs.items()}
    shared = [probe for probe in first.probes if all(probe.query in probes for probes in named.values())]
    if not shared:
        yield Paragraph(text="The runs had no probe query in common.")
    for probe in shared:
        columns = (_column(probes[probe.query].findings[-1], name=name) for name, probes in named.items())
        yield Findings(query=probe.query, notes=_answers(probe), columns=tuple(columns))


def _notes(probe: ProbeHistory) -> tuple[str, ...]:
    """The answers, and how the first place changed hands."""
    tops: list[str] = []
    for found in probe.findings:
        title = found.hits[0].title if found.hits else "nothing"
        if not tops or not tops[-1].endswith(f" {title}"):
            tops.append(f"version {found.version}: {title}")
    shown = tops if len(tops) <= 6 else [*tops[:3], "...", *tops[-2:]]
    return (*_answers(probe), "First: " + "; ".join(shown))


def _answers(probe: ProbeHistory) -> tuple[str, ...]:
    return (f"Answer: {' / '.join(probe.answers)}",) if probe.answers else ()


def _column(found: ProbeFinding, *, name: str = "") -> Column:
    null = "" if found.null_p is None else f", p(null) {_percent(found.null_p)}"
    title = f"version {found.version}, from step {found.step:,}{null}"
    return Column(title=f"{name}: {title}" if name else title, entries=tuple(_entry(hit) for hit in found.hits))


def _entry(hit: Hit) -> Entry:
    return Entry(title=hit.title, text=hit.text, note=f"p {_percent(hit.p)}", share=hit.p, is_right=hit.is_right)


def _named(name: str, runs: Runs) -> list[Block]:
    return [Paragraph(text=f"{name}:")] if len(runs) > 1 else []


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]], *, is_text: bool = False) -> Iterator[Block]:
    if len(rows) > MOST_ROWS:
        half = MOST_ROWS // 2
        yield Table(head=head, rows=(*rows[:half], ("...",) * len(head), *rows[-half:]), is_text=is_text)
        yield Paragraph(text=f"The first and last {half} of {len(rows):,}; --json has all.")
    elif rows:
        yield Table(head=head, rows=tuple(rows), is_text=is_text)


def _listed(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _word(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, tuple):
        return ", ".join(map(_word, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _count(count: int, one: str, more: str) -> str:
    return f"{count} {one if count == 1 else more}"


def _mean(values: Iterable[float]) -> float:
    known = list(values)
    return sum(known) / len(known)


def _whole(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


def _number(value: float) -> str:
    return f"{round(value, 3) + 0.0:.3f}"  # Adding nought makes -0 one.


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"
