"""How far a study is, for people: cells done, what goes on now, and how long the rest takes. run.py calls it."""

from collections.abc import Sequence
from pathlib import Path

from realm_ds.ablate.parts import Part, qa_name
from realm_ds.ablate.run import Standing, facts_of
from realm_ds.ablate.scores import read_score
from realm_ds.ablate.variants import Cell
from realm_ds.config.base import StageName
from realm_ds.config.schema import RealmConfig
from realm_ds.errors import DataError
from realm_ds.observe.progress import Progress, clock_text
from realm_ds.observe.sinks import metrics_path, parse_event

TAIL_BYTES = 16_384
"""Of the metrics of a run, where its last step is looked for."""


class Display:
    """A bar for the whole study; a line for each cell that is done and each part that failed."""

    def __init__(
        self, out: Path, parts: Sequence[Part], *, cells: Sequence[Cell], base: RealmConfig, progress: Progress
    ) -> None:
        self._out, self._base = out, base
        self._parts = {part.name: part for part in parts}
        self._cells = {qa_name(cell): cell for cell in cells}
        self._bar = progress.stage(f"study in {out}", unit=f"of {len(parts)} parts")
        self._told: set[str] = set()
        self._took_s: dict[str, float] = {}

    def __call__(self, standing: Standing) -> None:
        """Tell what is new."""
        for name in standing.done:
            self._tell_done(name)
        for failure in standing.failures:
            if failure.part not in self._told:
                self._told.add(failure.part)
                self._bar.say(f"{failure.part} failed: {failure.why}")
        if standing.ending and standing.working:
            self._bar.say(f"asked to end: waiting for {' and '.join(standing.working)} to end")
        doing = [self._doing(name) for name in standing.working]
        doing += [f"waits for {name}, which {holder} makes" for name, holder in standing.elsewhere.items()]
        self._bar.update(len(standing.done), now=self._left(standing) + ", ".join(doing))

    def _tell_done(self, name: str) -> None:
        if name in self._told:
            return
        self._told.add(name)
        if (took_s := facts_of(self._out, name).get("took_s")) is not None:
            self._took_s[name] = took_s
        cell = self._cells.get(name)
        try:
            score = read_score(self._out, cell) if cell is not None else None
        except DataError as error:
            self._bar.say(f"{name} failed: {error}")
            return
        if score is not None:
            self._bar.say(f"{cell}: exact match {score.em:.1%}, recall@5 before fine-tuning {score.recall:.1%}")

    def _doing(self, name: str) -> str:
        step, steps = self._steps(name)
        return f"{name} {step}/{steps}" if steps else name

    def _left(self, standing: Standing) -> str:
        """By what parts of the same stage took, and how far those are that go on; '' before one of them is done."""
        known: dict[StageName | None, list[float]] = {}
        for name, took_s in self._took_s.items():
            known.setdefault(self._parts[name].stage, []).append(took_s)
        means = {stage: sum(found) / len(found) for stage, found in known.items()}
        left_s, is_whole = 0.0, True
        for name in (*(part.name for part in standing.waiting), *standing.working):
            stage = self._parts[name].stage
            step, steps = self._steps(name)
            left_s += means.get(stage, 0.0) * (1 - step / steps if steps else 1.0)
            is_whole &= stage in means
        if not left_s:
            return ""
        # Of a stage of which nothing is done yet, nobody knows.
        return f"{'about' if is_whole else 'more than'} {clock_text(left_s / max(1, len(standing.working)))} left; "

    def _steps(self, name: str) -> tuple[int, int]:
        """Steps done, and of how many, of a part that trains; 0 of 0 of another."""
        stage = self._parts[name].stage
        if stage is None:
            return 0, 0
        return _last_step(metrics_path(self._out / name, role="trainer", role_rank=0)), getattr(self._base, stage).steps


def _last_step(path: Path) -> int:
    """By the end of a file of metrics; 0 if it is not there yet."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            lines = file.read().decode("utf-8", "replace").split("\n")
    except OSError:
        return 0
    steps = [record["step"] for line in lines if (record := parse_event(line)) and record["event"] == "step"]
    return int(steps[-1]) if steps else 0
