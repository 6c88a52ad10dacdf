"""`realm-ds submit` and `realm-ds why`: a run as a job of a cluster, and the cause when it failed."""

from pathlib import Path
from time import time as clock
from typing import TYPE_CHECKING, Annotated

import typer

from realm_ds.cli.common import FAILED, Overrides, Source, verb
from realm_ds.errors import ConfigError

if TYPE_CHECKING:
    from realm_ds.cluster.request import Request
    from realm_ds.config.sizes import JobSizes


@verb
def submit(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="prepare, ict, pretrain, pretrain-hetjob, export, qa, eval, index, ablate: a script of slurm/. Or "
            "pipeline: all from ict to qa, each after the one before.",
        ),
    ],
    overrides: Overrides = None, config: Source = None,
    run: Annotated[
        Path | None,
        typer.Option("--run", "-r", help="The run folder. Left out: runs/NAME; export, eval and index need it."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run folder's newest checkpoint.")] = False,
    nodes: Annotated[int | None, typer.Option(min=1, help="Left out, as all sizes: as the script says.")] = None,
    tasks_per_node: Annotated[int | None, typer.Option(min=1, help="Ranks on a node, index ranks included.")] = None,
    index_per_node: Annotated[int | None, typer.Option(min=1, help="Of these, index ranks.")] = None,
    index_nodes: Annotated[int | None, typer.Option(min=1, help="Of pretrain-hetjob: nodes of index ranks.")] = None,
    index_tasks_per_node: Annotated[int | None, typer.Option(min=1, help="Index ranks on each of these.")] = None,
    gpus_per_node: Annotated[str | None, typer.Option(help="As Slurm takes it: 4, a100:4.")] = None,
    time: Annotated[str | None, typer.Option(help="Limit, as Slurm takes it: 12:00:00.")] = None,
    partition: Annotated[str | None, typer.Option(help="Of Slurm's.")] = None,
    account: Annotated[str | None, typer.Option(help="Who pays.")] = None,
    qos: Annotated[str | None, typer.Option(help="Quality of service.")] = None,
    sbatch: Annotated[
        list[str] | None, typer.Option(metavar="OPTION", help="One more option of its, in one word: --mem=0.")
    ] = None,
    index_sbatch: Annotated[
        list[str] | None, typer.Option(metavar="OPTION", help="The same for the index nodes of pretrain-hetjob.")
    ] = None,
    sizes: Annotated[
        Path | None, typer.Option(help="Of pipeline: YAML of these sizes below the names of jobs; they win.")
    ] = None,
    prepare: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Of prepare, pipeline: what to prepare, a line each, as after `prepare`."),
    ] = None,
    env: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A variable of the script's; its head lists them.")
    ] = None,
    site: Annotated[Path | None, typer.Option(help="Left out: $REALM_SITE, or site.sh beside the script.")] = None,
    after: Annotated[str, typer.Option(help="Start when these jobs have succeeded: 12 or 12:13.")] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check, print the line (of one job its settings too), submit nothing.")
    ] = False,
) -> None:  # fmt: skip
    """Submit a stage to Slurm: its settings are checked here, its run folder is made, and it resumes by itself.

    \b
        realm-ds submit pretrain --config my.yaml --run runs/pretrain --nodes 8 --tasks-per-node 5 --index-per-node 1
        realm-ds submit export --run runs/pretrain --after 1234
        realm-ds submit pipeline --config my.yaml --run runs/all --sizes sizes.yaml

    Scripts and site.sh are those in ./slurm, or else those that come with realm-ds.
    """
    from realm_ds.cluster.request import Request
    from realm_ds.cluster.submit import check_is_shared
    from realm_ds.config.sizes import JobSizes

    _refuse_strangers(name, sizes=sizes, prepare=prepare, resume=resume)
    given = {
        "nodes": nodes, "tasks_per_node": tasks_per_node, "index_per_node": index_per_node, "index_nodes": index_nodes,
        "index_tasks_per_node": index_tasks_per_node, "gpus_per_node": gpus_per_node, "time": time,
        "partition": partition, "account": account, "qos": qos, "sbatch": tuple(sbatch or ()) or None,
        "index_sbatch": tuple(index_sbatch or ()) or None,
    }  # fmt: skip
    request = Request(
        name=name, run=_run_folder(name, run), source=config, overrides=tuple(overrides or ()),
        sizes=JobSizes(**{key: value for key, value in given.items() if value is not None}), after=after, site=site,
        environment=_variables(env or []), resume=resume, data_may_be_late=bool(after),
    )  # fmt: skip
    check_is_shared(request.run)
    if name == "pipeline":
        _submit_pipeline(request, sizes, prepare, dry_run=dry_run)
    else:
        _submit_one(request, prepare, dry_run=dry_run)


@verb
def why(
    run: Annotated[Path, typer.Argument(help="A run folder, or that of a demo or pipeline.")],
    log: Annotated[Path | None, typer.Option(help="The job's log; left out: the newest in RUN/job.")] = None,
    code: Annotated[
        int | None, typer.Option(help="For batch scripts: the exit code that a step of the job has ended with.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="All of it as one JSON object.")] = False,
) -> None:
    """Why a run failed: what, which rank on which host, when, and what to do. Exit code 1 if it failed, 0 if not.

    Reads the run folder and the job's log, so it works from any host that sees them, and afterwards.
    """
    from realm_ds.cluster.why import as_json as to_json
    from realm_ds.cluster.why import describe, explain

    answer = explain(run.absolute(), log=log and log.absolute(), code=code)
    now = clock() if code is None else None  # a script keeps what it is told: "2 min ago" would soon be wrong
    print(to_json(answer) if as_json else describe(answer, now=now))
    if answer.has_failed:
        raise SystemExit(FAILED)


def _submit_one(request: "Request", prepare: Path | None, *, dry_run: bool) -> None:
    from realm_ds.cluster.request import preparing
    from realm_ds.cluster.submit import describe, is_done, plan_job, show_plan, submit_job

    job = plan_job(request if prepare is None else preparing(request, prepare))
    if dry_run:
        print(show_plan(job))
    elif request.resume and is_done(job):
        print(f"nothing is left to do: {request.run} is done")
    else:
        print(describe(job, submit_job(job)))


def _submit_pipeline(request: "Request", sizes: Path | None, prepare: Path | None, *, dry_run: bool) -> None:
    from realm_ds.cluster.pipeline import SIZED, plan_pipeline, submit_pipeline
    from realm_ds.cluster.submit import show_line, summary
    from realm_ds.config.sizes import load_sizes

    own: dict[str, JobSizes] = load_sizes(sizes, names=SIZED) if sizes is not None else {}
    steps = plan_pipeline(request, sizes=own, prepare=prepare)
    for step in steps:
        if step.is_done:
            print(f"{step.name}: done before")
        elif dry_run:
            print(f"\n{step.name}:\n{show_line(step.job)}")
    if dry_run:
        print("\n# --dry-run of one job, such as `realm-ds submit pretrain`, shows its settings")
        return
    submitted = submit_pipeline(steps, run=request.run)
    for step, number in submitted:
        print(f"job {number}: {summary(step.job)}")
    if submitted:
        numbers = " ".join(number for _, number in submitted)
        print(f"  watch       realm-ds watch {request.run}\n  if it fails realm-ds why {request.run}")
        print(f"  cancel      scancel {numbers}\n  go on       the same line again")
    else:
        print("nothing is left to do")


def _run_folder(name: str, given: Path | None) -> Path:
    from realm_ds.cluster.scripts import EVAL, EXPORT, INDEX, STAGES

    of_others = {
        EXPORT: "the run to export", EVAL: "the folder of the runs that qa has made", INDEX: "where to write the index",
    }  # fmt: skip
    if given is None and name in of_others:
        raise ConfigError(f"submit {name} needs --run: {of_others[name]}")
    return (given or Path("runs") / STAGES.get(name, name)).absolute()


def _variables(words: list[str]) -> dict[str, str]:
    pairs = [word.partition("=") for word in words]
    for name, equals, _ in pairs:
        if not equals or not name.isidentifier():
            raise ConfigError(f"--env {name}{equals}: write NAME=VALUE, a variable that the script's head lists")
    return {name: value for name, _, value in pairs}


def _refuse_strangers(name: str, *, sizes: Path | None, prepare: Path | None, resume: bool) -> None:
    from difflib import get_close_matches

    from realm_ds.cluster.pipeline import PIPELINE
    from realm_ds.cluster.scripts import NAMES, PREPARE, STAGES

    if name not in (*NAMES, PIPELINE):
        close = get_close_matches(name, (*NAMES, PIPELINE), n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join((*NAMES, PIPELINE))}"
        raise ConfigError(f"{name} is no job: {hint}")
    if name != PIPELINE and sizes is not None:
        raise ConfigError(f"--sizes is for submit {PIPELINE}: give {name} its own, --nodes and the like")
    if name not in (PIPELINE, PREPARE) and prepare is not None:
        raise ConfigError(f"--prepare is for submit {PREPARE} and submit {PIPELINE}: {name} prepares nothing")
    if name not in STAGES and resume:
        raise ConfigError(f"--resume is for submit {', '.join(STAGES)}: {name} goes on by itself where it can")
