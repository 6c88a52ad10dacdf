"""The demo: all of REALM on the CIA World Factbook, one stage after the other, each leaving its result on disk.

    RUN/{data/, ict/, pretrain/, qa/, stages.json, report.json, report.html, report.md, plots/}

What a stage does is written elsewhere; here is only their order and what they hand to one another.
"""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from realm_ds.config.base import StageName
from realm_ds.config.deepspeed import load_deepspeed, zero_stage
from realm_ds.config.load import load
from realm_ds.config.schema import RealmConfig
from realm_ds.data.question_files import load_questions
from realm_ds.data.records import Question
from realm_ds.errors import ConfigError, Preempted
from realm_ds.eval.retrieval import RECALL_AT
from realm_ds.factbook.prepare import QUICK_ENTITIES, prepare_demo
from realm_ds.files import write_durably
from realm_ds.launch.local import leaving_when_asked
from realm_ds.launch.memory import PeakMemory
from realm_ds.launch.stages import launch_stage
from realm_ds.observe.progress import Bar, Progress, follow_run
from realm_ds.reports.demo import DemoResults, build_report, write_report
from realm_ds.reports.history import read_history
from realm_ds.reports.runs import DEMO_STAGES
from realm_ds.reports.write import report_on
from realm_ds.train.manifest import saved_steps

EVALUATE_EVERY = {False: 100, True: 8}
"""Steps of pre-training between looks at what is held out, by whether the demo is a quick one. Not in the recipe: it
needs data that only the demo names."""
Result = dict[str, Any]


def run_demo(run_folder: Path, *, seed: int, quick: bool, overrides: Sequence[str] = (), resume: bool = False) -> Path:
    """Run or, with `resume`, finish the demo in `run_folder`; returns the report's path.

    Raises ConfigError if the folder holds a demo and `resume` was not asked for, Preempted if a signal asks it to end.
    """
    demo = _Demo(run_folder, seed=seed, quick=quick, overrides=overrides, resume=resume)
    try:
        with leaving_when_asked(run_folder), Progress() as progress, PeakMemory() as memory:
            demo.progress = progress
            demo.stage("data", "Preparing data", demo.data)
            demo.stage("random", "Measuring random towers", lambda bar: demo.measure(start_from=None))
            demo.stage("ict", "Warm start (inverse cloze)", demo.ict)
            demo.stage("pretrain", "REALM pre-training", demo.pretrain)
            demo.stage("qa", "Fine-tuning on questions", demo.qa)
            demo.results["peak_rss_gib"] = max(memory.peak_gib(), demo.results.get("peak_rss_gib", 0.0))
            report = demo.report()
            progress.say(f"report: {report}")
            return report
    except Preempted:
        # Whether in a world of ranks or between two: all that is done is kept, and the demo knows what that is.
        raise Preempted(f"asked to end: go on with realm-ds demo --run {run_folder} --resume") from None


def free_run_folder(parent: Path, name: str = "demo") -> Path:
    """`parent/demo`, or the first of demo-2, demo-3, ... that is not there yet: no run is overwritten."""
    number = 1
    while (folder := parent / (name if number == 1 else f"{name}-{number}")).exists():
        number += 1
    return folder


class _Demo:
    """The folders, settings and results that the stages of one demo share."""

    progress: Progress

    def __init__(self, run_folder: Path, *, seed: int, quick: bool, overrides: Sequence[str], resume: bool) -> None:
        self._folder, self._seed, self._quick, self._resume = run_folder.resolve(), seed, quick, resume
        data = self._folder / "data"
        named = [f"data.{name}={data / name}" for name in ("corpus", "pretrain", "held_out", "tokenizer")]
        named += [f"qa.data={data / 'qa'}", f"evaluate.questions={data / 'qa' / 'dev.jsonl'}"]
        own = [*named, f"evaluate.every_steps={EVALUATE_EVERY[quick]}", f"runtime.seed={seed}"]
        self._base = load("demo-quick" if quick else "demo", [*own, *overrides])
        path = self._folder / DEMO_STAGES
        if path.exists() and not resume:
            raise ConfigError(f"{run_folder} holds a demo already: add --resume to finish it, or name another --run")
        self._folder.mkdir(parents=True, exist_ok=True)
        self.results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"stages": {}, "seconds": {}}

    def stage(self, name: str, title: str, work: Callable[[Bar], Result]) -> None:
        """Do a stage unless an earlier run of this demo did; keep its result and its seconds."""
        if name in self.results["stages"]:
            self.progress.say(f"{title}: done before")
            return
        started_at = time.monotonic()
        bar = self.progress.stage(title)
        result = work(bar)
        self.results["stages"][name] = result
        self.results["seconds"][name] = round(time.monotonic() - started_at, 1)
        self._keep()
        bar.finish(result["summary"])

    def data(self, bar: Bar) -> Result:
        """Passages, pre-training sentences, questions and a vocabulary, from the Factbook."""
        prepared = prepare_demo(
            self._folder / "data",
            seed=self._seed,
            passage_tokens=self._config().data.passage_tokens,
            num_entities=QUICK_ENTITIES if self._quick else None,
            on_progress=lambda doing: bar.update(now=doing),
        )
        questions = prepared["questions"]
        summary = (
            f"{prepared['passages']} passages, {prepared['examples']} sentences, {sum(questions.values())} questions"
        )
        return {"passages": prepared["passages"], "questions": questions, "summary": summary}

    def ict(self, bar: Bar) -> Result:
        """Inverse cloze, then what it is worth."""
        self._train("ict", self._config(), bar)
        export = self._export("ict", bar)
        accuracy = read_history(self._folder / "ict").steps[-1]["in_batch_accuracy"]
        measured = self.measure(start_from=export)
        return {**measured, "in_batch_accuracy": accuracy, "summary": f"in-batch {accuracy:.0%}, {measured['summary']}"}

    def pretrain(self, bar: Bar) -> Result:
        """REALM from the warm start, with index ranks; then what it is worth."""
        self._train("pretrain", self._config(start_from=self._folder / "ict" / "export"), bar)
        return self.measure(start_from=self._export("pretrain", bar))

    def qa(self, bar: Bar) -> Result:
        """Fine-tune on questions and answer the test questions."""
        self._train("qa", self._config(start_from=self._folder / "pretrain" / "export"), bar)
        scores: Result = json.loads((self._folder / "qa" / "qa" / "test.json").read_text())
        summary = (
            f"exact match {scores['em']:.1%} (majority {scores['em_majority']:.1%}, "
            f"no retrieval {scores['em_no_retrieval']:.1%}), recall@5 {scores['recall']['5']:.1%}"
        )
        return {"scores": scores, "summary": summary}

    def measure(self, *, start_from: Path | None) -> Result:
        """Recall of held-out statements and questions over the whole corpus, by the towers of an export."""
        from realm_ds.train.recall import recall_of

        recall = recall_of(self._config(start_from=start_from), self._held_out())
        summary = f"recall@5 {recall['statements'][5]:.1%} of statements, {recall['questions'][5]:.1%} of questions"
        return {**recall, "summary": summary}

    def _held_out(self) -> dict[str, list[Question]]:
        """Test questions and statements; apart from these, statements whose passages no training fact is taken from."""
        folder = self._folder / "data" / "qa"
        statements = load_questions(folder / "statements.test.jsonl")
        seen = {uid for question in load_questions(folder / "train.jsonl") for uid in question.gold_uids}
        unseen = [statement for statement in statements if seen.isdisjoint(statement.gold_uids)]
        return {
            "statements": statements,
            "statements_of_unseen_passages": unseen,
            "questions": load_questions(folder / "test.jsonl"),
        }

    def report(self) -> Path:
        """report.json, then report.html and report.md, which `realm-ds report` writes too."""
        stages, config = self.results["stages"], self._config()
        scores = stages["qa"]["scores"]
        measured = {"random_init": stages["random"], "ict": stages["ict"], "realm": stages["pretrain"]}
        recall = {name: _by_cutoff(stage["statements"]) for name, stage in measured.items()}
        unseen = {name: _by_cutoff(stage["statements_of_unseen_passages"]) for name, stage in measured.items()}
        question_recall = {name: _by_cutoff(stage["questions"]) for name, stage in measured.items()}
        results = DemoResults(
            passages=stages["data"]["passages"],
            questions=stages["data"]["questions"],
            trainers=config.runtime.trainers or 1,
            index_ranks=config.index.num_shards,
            zero_stage=zero_stage(load_deepspeed(config.runtime.deepspeed)),
            ict_in_batch_accuracy=stages["ict"]["in_batch_accuracy"],
            recall=recall,
            recall_unseen_passages=unseen,
            question_recall={**question_recall, "qa": _by_cutoff(scores["recall"])},
            qa={name: scores[name] for name in ("em", "f1", "em_no_retrieval", "em_majority")},
            seconds=self.results["seconds"],
            peak_rss_gib=round(self.results["peak_rss_gib"], 2),
        )
        write_report(self._folder, build_report(results, read_history(self._folder / "pretrain")))
        _, markdown = report_on(self._folder, None)
        self._keep()
        return markdown

    def _config(self, *, start_from: Path | None = None) -> RealmConfig:
        model = self._base.model.model_copy(update={"start_from": start_from})
        return self._base.model_copy(update={"model": model})

    def _train(self, stage: StageName, config: RealmConfig, bar: Bar) -> None:
        folder = self._folder / stage
        poll = follow_run(folder, stage=stage, bar=bar)
        bar.update(now="starting processes")
        resume = self._resume and bool(saved_steps(folder))
        launch_stage(stage, load_config=lambda: config, run_folder=folder, resume=resume, on_poll=poll)

    def _export(self, stage: str, bar: Bar) -> Path:
        from realm_ds.train.export import export_run

        return export_run(self._folder / stage, say=lambda doing: bar.update(now=doing))

    def _keep(self) -> None:
        write_durably(self._folder / DEMO_STAGES, json.dumps(self.results, indent=1) + "\n")


def _by_cutoff(recall: dict[Any, float]) -> dict[int, float]:
    """At the cut-offs that all stages report; JSON has no whole numbers as keys."""
    by_k = {int(k): value for k, value in recall.items()}
    return {k: by_k[k] for k in RECALL_AT}
