"""The command line `realm-ds`: each verb reads its options and calls one function. Starts without torch; keep it so.

Imports of anything but the standard library and typer stay inside the verbs: `--help` must not wait for libraries.
"""

import json
from pathlib import Path
from typing import Annotated

import typer

from realm_ds.cli.ablate import ablate
from realm_ds.cli.bench import bench
from realm_ds.cli.cluster import submit, why
from realm_ds.cli.common import FAILED, Overrides, Source, group, verb
from realm_ds.cli.doctor import doctor
from realm_ds.cli.explore import explore
from realm_ds.cli.export import export
from realm_ds.cli.importing import import_
from realm_ds.cli.index import index
from realm_ds.cli.plan import plan
from realm_ds.cli.prepare import prepare
from realm_ds.cli.qa import ask, qa
from realm_ds.cli.report import report
from realm_ds.cli.stage import DryRun, Resume, RunFolder, start_stage
from realm_ds.errors import ConfigError

_ABOUT = """\
REALM: retrieval-augmented pre-training, with an index that is rebuilt while training goes on.

First time here?

\b
    realm-ds demo                 all of it on real text, with a report, on two cores

A run of your own, step by step:

\b
    realm-ds prepare corpus       documents to passages; prepare --help has the other steps
    realm-ds ict                  warm up the two towers (inverse cloze)
    realm-ds pretrain             REALM: trainers and index ranks in one MPI world
    realm-ds watch RUN            how all its ranks do, from any host
    realm-ds report RUN           what happened in it, as a page; of two runs, what differs
    realm-ds export               a run's models as transformers folders
    realm-ds import               Google's REALM as an export of ours
    realm-ds qa train             fine-tune on questions, answer dev and test
    realm-ds ask "..."            ask what was trained
    realm-ds ablate               what each part of REALM is worth: the paper's Table 2
    realm-ds explore RUN          see on a page what it retrieves, and what that is worth
    realm-ds index search         ask the index by itself, without training
    realm-ds doctor               look at a launch before a big run
    realm-ds submit pretrain      a stage as a job of Slurm; resumes by itself
    realm-ds why RUN              why it failed

Every setting has help: realm-ds config explain. Any setting can be given at the end of a line: pretrain.steps=500

On a cluster start the same line once per rank: srun -K1 --mpi=pmi2 python -m mpi4py -m realm_ds pretrain ...
"""

app = typer.Typer(
    help=_ABOUT, no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False
)
config_app = group("Look at settings: all of them, or a run's.")
app.add_typer(prepare, name="prepare")
app.add_typer(qa, name="qa")
app.add_typer(index, name="index")
app.add_typer(config_app, name="config")
app.add_typer(bench, name="bench")
app.command("plan")(plan)


def main() -> None:
    """The console script, and `python -m realm_ds`."""
    app(prog_name="realm-ds")


@app.callback(help=_ABOUT)
def either_way(
    local_rank: Annotated[int | None, typer.Option("--local_rank", hidden=True)] = None,
) -> None:
    """DeepSpeed's own launcher puts --local_rank before the verb, which then says how to launch instead."""


@app.command()
@verb
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

    Reads nothing from the network. Ends with RUN/report.html, RUN/report.md and RUN/report.json.
    """
    from realm_ds.launch.demo import free_run_folder, run_demo

    if resume and run is None:
        raise ConfigError("--resume needs the folder of the demo to finish: --run runs/demo")
    folder = run.absolute() if run is not None else free_run_folder(Path("runs").absolute())
    run_demo(folder, seed=seed, quick=quick, overrides=overrides or [], resume=resume)


@app.command()
@verb
def ict(
    overrides: Overrides = None, config: Source = None, run: RunFolder = Path("runs/ict"), resume: Resume = False,
    dry_run: DryRun = False,
) -> None:  # fmt: skip
    """Warm up the towers: which passage was this sentence taken from? (section `ict` of the settings)"""
    start_stage("ict", overrides, config, run, resume, dry_run)


@app.command()
@verb
def pretrain(
    overrides: Overrides = None, config: Source = None, run: RunFolder = Path("runs/pretrain"), resume: Resume = False,
    dry_run: DryRun = False,
) -> None:  # fmt: skip
    """REALM pre-training: trainers and index ranks in one MPI world (sections `pretrain`, `refresh`, `index`).

    Start from an ICT run's export with model.start_from=runs/ict/export.
    """
    start_stage("pretrain", overrides, config, run, resume, dry_run)


@app.command()
@verb
def watch(
    run: Annotated[Path, typer.Argument(help="A run folder, or a demo's.")],
    once: Annotated[bool, typer.Option("--once", help="Look once and end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Look once, and all of it as one JSON object.")] = False,
    every_s: Annotated[float, typer.Option("--every", help="Seconds between two looks.")] = 2.0,
) -> None:
    """A live table of all ranks of a run: what each does and waits for, step times, the index and its rebuild.

    Reads the run folder, so it works from any host, and afterwards; of a run that has not started Slurm is asked, if it
    is here. Ends when the run does; exit code 1 if the run failed or is dead.
    """
    import dataclasses

    from realm_ds.cluster.why import looking_at_jobs
    from realm_ds.launch.watch import keep_looking
    from realm_ds.observe.table import print_once, show

    look = looking_at_jobs()
    if as_json or once:
        view = look(run.absolute())
        print(json.dumps(dataclasses.asdict(view), default=dict)) if as_json else print_once(view)
    else:
        view = show(keep_looking(run.absolute(), every_s=every_s, look=look))
    if view.state in ("failed", "dead"):
        raise SystemExit(FAILED)


app.command()(export)
app.command()(ablate)
app.command()(ask)
app.command()(explore)
app.command()(submit)
app.command()(why)
app.command()(report)
app.command()(doctor)
app.command("import")(import_)


@config_app.command("explain")
@verb
def config_explain(
    name: Annotated[str, typer.Argument(help="A section or setting: pretrain, index.num_shards. Left out: all.")] = "",
) -> None:
    """Every setting with its type, default and meaning."""
    from realm_ds.config.fields import explain

    print(explain(name), end="")


@config_app.command("show")
@verb
def config_show(
    config: Annotated[str, typer.Argument(help="A YAML file, a recipe or a run folder.")], overrides: Overrides = None
) -> None:
    """The resolved settings, as a run would write them to its config.yaml."""
    from realm_ds.config.load import show

    print(show(config, overrides or []), end="")
