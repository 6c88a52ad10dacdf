"""The command line `realm-ds`: each verb reads its options and calls one function. Starts without torch; keep it so.

Imports of anything but the standard library and typer stay inside the verbs: `--help` must not wait for libraries.
"""

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, ParamSpec, TypeVar

import typer

from realm_ds.errors import ConfigError, RealmError

if TYPE_CHECKING:
    from realm_ds.config.schema import RealmConfig

P = ParamSpec("P")
R = TypeVar("R")

FAILED, MISUSED, INTERRUPTED = 1, 2, 130
"""Exit codes: something went wrong; the settings are wrong; Ctrl-C."""

_ABOUT = """\
REALM: retrieval-augmented pre-training, with an index that is rebuilt while training goes on.

First time here?

\b
    realm-ds demo                 all of it on real text, with a report, on two cores

A run of your own, step by step:

\b
    realm-ds prepare demo DATA    text to tar shards (DATA/prepared.json)
    realm-ds ict                  warm up the two towers (inverse cloze)
    realm-ds pretrain             REALM: trainers and index ranks in one MPI world
    realm-ds export               a run's models as transformers folders
    realm-ds qa train             fine-tune on questions, answer dev and test
    realm-ds index search         ask the index by itself, without training

Every setting has help: realm-ds config explain. Any setting can be given at the end of a line: pretrain.steps=500

On a cluster start the same line once per rank: srun -K1 python -m mpi4py -m realm_ds pretrain ...
"""

app = typer.Typer(
    help=_ABOUT, no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False
)
prepare = typer.Typer(
    help="Make tar shards, vocabulary and question files.", no_args_is_help=True, rich_markup_mode=None
)
qa = typer.Typer(help="Fine-tune on questions, and score the answers.", no_args_is_help=True, rich_markup_mode=None)
index_app = typer.Typer(help="The index alone: build, ask, check it.", no_args_is_help=True, rich_markup_mode=None)
config_app = typer.Typer(help="Look at settings: all of them, or a run's.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(prepare, name="prepare")
app.add_typer(qa, name="qa")
app.add_typer(index_app, name="index")
app.add_typer(config_app, name="config")
bench = typer.Typer(
    help="Measure speed against a named reference, on this machine.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(bench, name="bench")

Source = Annotated[
    str | None,
    typer.Option(
        "--config", "-c",
        help="A YAML file, a recipe (realm-base, demo, demo-quick) or a run folder. Left out: the run folder's own.",
    ),
]  # fmt: skip
RunFolder = Annotated[
    Path, typer.Option("--run", "-r", help="The run folder: settings, checkpoints, metrics, logs of this run.")
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[SETTING=VALUE]...", help="Settings that win over the config's.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the run folder's newest checkpoint.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the settings and the command line, and start nothing.")]
Store = Annotated[Path, typer.Argument(help="A folder of `realm-ds index build`; or a run folder, for the run's own.")]
Version = Annotated[int | None, typer.Option(help="Which index version of a run.")]
Split = Annotated[Literal["dev", "test"], typer.Option(help="Whose questions.")]

Json = Annotated[
    bool, typer.Option("--json", help="A line for each measure: measure, value, reference, ratio, bar, ok.")
]
Only = Annotated[str | None, typer.Option("--only", help="Measure only what has this in its name.")]
Quick = Annotated[bool, typer.Option("--quick", help="Tiny sizes, in seconds: does it run? Nothing is judged.")]


def main() -> None:
    """The console script, and `python -m realm_ds`."""
    app(prog_name="realm-ds")


def _verb(function: Callable[P, R]) -> Callable[P, R]:
    """A verb whose errors, where a person can mend them, are one line on stderr and an exit code."""

    @functools.wraps(function)
    def run(*arguments: P.args, **options: P.kwargs) -> R:
        try:
            return function(*arguments, **options)
        except RealmError as error:
            print(f"realm-ds: {error}", file=sys.stderr, flush=True)
            raise SystemExit(MISUSED if isinstance(error, ConfigError) else FAILED) from None
        except OSError as error:
            if error.filename is None:  # of no file or folder that a person could look at: our mistake
                raise
            print(
                f"realm-ds: cannot use {error.filename}: {error.strerror}; mend that or name another", file=sys.stderr
            )
            raise SystemExit(FAILED) from None
        except KeyboardInterrupt:
            print("realm-ds: interrupted", file=sys.stderr, flush=True)
            raise SystemExit(INTERRUPTED) from None

    return run


@app.command()
@_verb
def demo(
    overrides: Overrides = None,
    run: Annotated[
        Path | None, typer.Option("--run", "-r", help="The run folder. Left out: runs/demo, or the next that is free.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of data, weights and order; the same seed gives the same losses.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="Every step, under two minutes; too short to learn.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Finish a demo that was stopped; needs --run.")] = False,
) -> None:
    """The whole of REALM on the CIA World Factbook: shards, ICT, pre-training, export, questions, report.

    Reads nothing from the network. Ends with RUN/report.md, RUN/report.json and RUN/plots.
    """
    from realm_ds.launch.demo import free_run_folder, run_demo

    if resume and run is None:
        raise ConfigError("--resume needs the folder of the demo to finish: --run runs/demo")
    folder = run.absolute() if run is not None else free_run_folder(Path("runs").absolute())
    run_demo(folder, seed=seed, quick=quick, overrides=overrides or [], resume=resume)


@prepare.command("demo")
@_verb
def prepare_demo_data(
    folder: Annotated[Path, typer.Argument(help="Where to write tokenizer/, corpus/, pretrain/ and qa/.")],
    seed: Annotated[int, typer.Option(help="Of the split into train, dev and test.")] = 0,
) -> None:
    """The CIA World Factbook as passages, statements and questions."""
    from realm_ds.data.prepare import prepare_demo

    prepare_demo(folder.absolute(), seed=seed, on_progress=lambda doing: print(f"{doing} ...", flush=True))
    print(f"{folder}/prepared.json says what is there")


@app.command()
@_verb
def ict(
    overrides: Overrides = None, config: Source = None, run: RunFolder = Path("runs/ict"), resume: Resume = False,
    dry_run: DryRun = False,
) -> None:  # fmt: skip
    """Warm up the towers: which passage was this sentence taken from? (section `ict` of the settings)"""
    _stage("ict", overrides, config, run, resume, dry_run)


@app.command()
@_verb
def pretrain(
    overrides: Overrides = None, config: Source = None, run: RunFolder = Path("runs/pretrain"), resume: Resume = False,
    dry_run: DryRun = False,
) -> None:  # fmt: skip
    """REALM pre-training: trainers and index ranks in one MPI world (sections `pretrain`, `refresh`, `index`).

    Start from an ICT run's export with model.start_from=runs/ict/export.
    """
    _stage("pretrain", overrides, config, run, resume, dry_run)


@qa.command("train")
@_verb
def qa_train(
    overrides: Overrides = None, config: Source = None, run: RunFolder = Path("runs/qa"), resume: Resume = False,
    dry_run: DryRun = False,
) -> None:  # fmt: skip
    """Fine-tune query tower and span reader on questions, then answer dev and test (section `qa`)."""
    _stage("qa", overrides, config, run, resume, dry_run)


@qa.command("eval")
@_verb
def qa_eval(
    run: RunFolder = Path("runs/qa"), split: Split = "test",
    as_json: Annotated[bool, typer.Option("--json", help="All of it as one JSON object.")] = False,
) -> None:  # fmt: skip
    """What `qa train` scored on dev or test: exact match, F1, recall, the baselines beside them, and every field."""
    from realm_ds.launch.scores import describe, read_scores

    scores = read_scores(run.absolute(), split=split)
    print(json.dumps(scores) if as_json else describe(scores))


@app.command()
@_verb
def export(
    run: RunFolder = Path("runs/pretrain"),
    step: Annotated[int | None, typer.Option(help="Which checkpoint; left out: the newest.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write; left out: RUN/export.")] = None,
) -> None:
    """A run's towers and encoder as transformers folders, with index, passages and a model card."""
    from realm_ds.train.export import export_run

    folder = export_run(run.absolute(), step=step, out=out and out.absolute(), say=print)
    print(f"exported to {folder}")


@index_app.command("build")
@_verb
def index_build(
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to write the index.")],
    overrides: Overrides = None, config: Source = None,
    run: Annotated[Path | None, typer.Option("--run", "-r", help="A run: its settings, its newest snapshot.")] = None,
    tower: Annotated[Path | None, typer.Option(help="An export folder; left out: model.start_from.")] = None,
    processes: Annotated[int, typer.Option("--processes", "-n", min=1, help="Ranks to embed with, here.")] = 1,
    part_passages: Annotated[int, typer.Option(min=1, help="Passages of a file: what a kill can cost.")] = 65_536,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would take, and do nothing.")] = False,
) -> None:  # fmt: skip
    """Embed a corpus with the passage tower of an export, and write the vectors as an index to search.

    \b
        realm-ds index build --config my.yaml --tower runs/pretrain/export --out indexes/mine --processes 4
        realm-ds index build --run runs/pretrain --out indexes/mine index.vectors=fp16
        mpiexec -n 4 python -m mpi4py -m realm_ds index build --config my.yaml --out indexes/mine

    Run it again after a kill: what is whole is kept.
    """
    from realm_ds.launch.index_build import build_verb

    build_verb(
        source=config, run=run and run.absolute(), out=out.absolute(), tower=tower and tower.absolute(),
        overrides=overrides or [], processes=processes, part_passages=part_passages, dry_run=dry_run,
    )  # fmt: skip


@index_app.command("search")
@_verb
def index_search(
    store: Store,
    queries: Annotated[list[str] | None, typer.Argument(metavar="[TEXT]...", help="- reads texts, one a line.")] = None,
    hits: Annotated[int, typer.Option("--hits", "-k", min=1, help="Passages for each text.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object a line for each text.")] = False,
    file: Annotated[Path | None, typer.Option(help="Read texts from this file, one a line.")] = None,
    processes: Annotated[int, typer.Option("--processes", "-n", min=0, help="Index ranks; 0: in this process.")] = 0,
    factory: Annotated[str | None, typer.Option(help="FAISS factory; left out: the index's own.")] = None,
    version: Version = None, scratch: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:  # fmt: skip
    """Find the passages that answer a text, by the query tower that belongs to the index.

    \b
        realm-ds index search indexes/mine "What is the capital of Algeria?" -k 3
        realm-ds index search runs/pretrain --file questions.txt --json --processes 4
        mpiexec -n 5 python -m mpi4py -m realm_ds index search indexes/mine "capital of Algeria"
    """
    from realm_ds.launch.index_search import search_verb

    search_verb(
        store, queries=queries or [], file=file, num_hits=hits, version=version, factory=factory, processes=processes,
        scratch=scratch, as_json=as_json,
    )  # fmt: skip


@index_app.command("info")
@_verb
def index_info(
    store: Store, as_json: Annotated[bool, typer.Option("--json", help="All of it as one JSON object.")] = False
) -> None:
    """What an index is of, and which passages each version covers, vectors unread: realm-ds index info runs/pretrain"""
    from realm_ds.launch.index_check import describe_index, info_text

    info = describe_index(store)
    print(json.dumps(info) if as_json else info_text(info))


@index_app.command("verify")
@_verb
def index_verify(store: Store, version: Version = None) -> None:
    """Read every vector, name what is damaged or missing; exit code 1 if anything is: realm-ds index verify runs/a"""
    from realm_ds.launch.index_check import verify_index

    if verify_index(store, version=version):
        raise SystemExit(FAILED)


@config_app.command("explain")
@_verb
def config_explain(
    name: Annotated[str, typer.Argument(help="A section or setting: pretrain, index.num_shards. Left out: all.")] = "",
) -> None:
    """Every setting with its type, default and meaning."""
    from realm_ds.config.fields import explain

    print(explain(name), end="")


@config_app.command("show")
@_verb
def config_show(
    config: Annotated[str, typer.Argument(help="A YAML file, a recipe or a run folder.")], overrides: Overrides = None
) -> None:
    """The resolved settings, as a run would write them to its config.yaml."""
    from realm_ds.config.load import dump, load

    print(dump(load(config, overrides or [])), end="")


@bench.command("search")
@_verb
def bench_search(as_json: Json = False, only: Only = None, quick: Quick = False) -> None:
    """Throughput, overhead and latency of the index, against FAISS in one process and faiss.contrib's servers.

    Takes about four minutes and 3 GB. Exit code 1 when a bar is missed.
    """
    from realm_ds.bench.run import run_groups
    from realm_ds.bench.search import search_groups

    raise SystemExit(run_groups(search_groups(is_quick=quick), only=only, as_json=as_json))


@bench.command("refresh")
@_verb
def bench_refresh(
    as_json: Json = False, only: Only = None, quick: Quick = False,
    corpus: Annotated[
        Path | None, typer.Option(help="Tar shards to embed. Left out: the demo's, made anew.")
    ] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="The tokenizer that those were made with.")] = None,
    layers: Annotated[int, typer.Option(help="Of the passage tower.")] = 4,
    hidden: Annotated[int, typer.Option(help="Width of the passage tower.")] = 256,
) -> None:  # fmt: skip
    """How fast the index is rebuilt, what that takes, and what it does to searches meanwhile.

    Takes about six minutes and 4 GB. Exit code 1 when a bar is missed.
    """
    from realm_ds.bench.refresh import TowerSize, refresh_groups
    from realm_ds.bench.run import run_groups

    tower = TowerSize(layers=layers, hidden=hidden)
    groups = refresh_groups(is_quick=quick, tower=tower, corpus=corpus, tokenizer=tokenizer)
    raise SystemExit(run_groups(groups, only=only, as_json=as_json))


@bench.command("scale")
@_verb
def bench_scale(
    as_json: Json = False, only: Only = None, quick: Quick = False,
    out: Annotated[Path, typer.Option(help="Where scale.json and scale.png go.")] = Path("runs/bench-scale"),
) -> None:  # fmt: skip
    """What a search costs against passages, shards and clients; a table, a plot, and the cost model that fits.

    Takes about ten minutes and 4 GB.
    """
    from realm_ds.bench.run import run_groups
    from realm_ds.bench.scale import scale_groups

    raise SystemExit(run_groups(scale_groups(is_quick=quick, out=out), only=only, as_json=as_json))


def _stage(
    stage: Literal["ict", "pretrain", "qa"], overrides: list[str] | None, source: str | None, run: Path, resume: bool,
    dry_run: bool,
) -> None:  # fmt: skip
    """Run a stage of training, or print what would be run."""
    run = run.absolute()
    load_config = functools.partial(_settings, source, overrides or [], run)
    if dry_run:
        _print_plan(stage, load_config(), run, resume)
        return
    from realm_ds.launch.stages import show_stage

    show_stage(stage, load_config=load_config, run_folder=run, resume=resume)


def _settings(source: str | None, overrides: list[str], run: Path) -> "RealmConfig":
    """The config as asked for; without one, that of a run folder that has one already."""
    from realm_ds.config.load import RUN_CONFIG, load

    if source is None and (run / RUN_CONFIG).is_file():
        source = str(run)
    return load(source, overrides)


def _print_plan(stage: Any, config: "RealmConfig", run: Path, resume: bool) -> None:
    import shlex

    from realm_ds.config.load import dump
    from realm_ds.launch.stages import stage_command

    command = stage_command(stage, config=config, run_folder=run, resume=resume)
    print(f"# {run}/config.yaml\n{dump(config)}\n# what would be started:\n# {shlex.join(command)}")
