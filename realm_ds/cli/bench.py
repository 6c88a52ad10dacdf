"""`realm-ds bench`: how fast the parts are, as ratios to named references."""

from pathlib import Path
from typing import Annotated

import typer

from realm_ds.cli.common import group, verb
from realm_ds.errors import ConfigError

bench = group("Measure speed against a named reference, on this machine.")

Json = Annotated[
    bool, typer.Option("--json", help="A line for each measure: measure, value, reference, ratio, bar, ok.")
]
Only = Annotated[str | None, typer.Option("--only", help="Measure only what has this in its name.")]
Quick = Annotated[bool, typer.Option("--quick", help="Tiny sizes, to see that it runs: nothing is judged.")]


@bench.command("search")
@verb
def bench_search(as_json: Json = False, only: Only = None, quick: Quick = False) -> None:
    """Throughput, overhead and latency of the index, against FAISS in one process and faiss.contrib's servers.

    Takes about three minutes and 3 GB. Exit code 1 when a bar is missed.
    """
    from realm_ds.bench.run import run_groups
    from realm_ds.bench.search import search_groups

    raise SystemExit(run_groups(search_groups(is_quick=quick), only=only, as_json=as_json))


@bench.command("refresh")
@verb
def bench_refresh(
    as_json: Json = False, only: Only = None, quick: Quick = False,
    corpus: Annotated[
        Path | None, typer.Option(help="Tar shards to embed. Left out: the demo's, made anew.")
    ] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="The tokenizer that those were made with.")] = None,
    layers: Annotated[int, typer.Option(min=1, help="Of the passage tower.")] = 4,
    hidden: Annotated[int, typer.Option(min=64, help="Width of the passage tower; a multiple of 64.")] = 256,
) -> None:  # fmt: skip
    """How fast the index is rebuilt, what that takes, and what it does to searches meanwhile.

    Takes about seven minutes and 4 GB. Exit code 1 when a bar is missed.
    """
    from realm_ds.bench.refresh import TowerSize, refresh_groups
    from realm_ds.bench.run import run_groups

    tower = TowerSize(layers=layers, hidden=hidden)
    groups = refresh_groups(is_quick=quick, tower=tower, corpus=corpus, tokenizer=tokenizer)
    raise SystemExit(run_groups(groups, only=only, as_json=as_json))


@bench.command("scale")
@verb
def bench_scale(
    as_json: Json = False, only: Only = None, quick: Quick = False,
    out: Annotated[Path, typer.Option(help="Where scale.json and scale.png go.")] = Path("runs/bench-scale"),
) -> None:  # fmt: skip
    """What a search costs against passages, shards and clients; a table, a plot, and the cost model that fits.

    Takes about five minutes and 4 GB.
    """
    from realm_ds.bench.run import run_groups
    from realm_ds.bench.scale import scale_groups

    raise SystemExit(run_groups(scale_groups(is_quick=quick, out=out), only=only, as_json=as_json))


@bench.command("data")
@verb
def bench_data(
    as_json: Json = False, only: Only = None, quick: Quick = False,
    text: Annotated[
        Path | None, typer.Option(help="Documents to prepare, as JSON lines. Left out: the Factbook's, several times.")
    ] = None,
) -> None:  # fmt: skip
    """Preparing, reading and streaming text, against a bare tokenizer, Python's tarfile and the step of a run.

    Takes about seven minutes and 1 GB. Exit code 1 when a bar is missed.
    """
    from realm_ds.bench.data import data_groups
    from realm_ds.bench.run import run_groups

    raise SystemExit(run_groups(data_groups(is_quick=quick, text=text), only=only, as_json=as_json))


@bench.command("step")
@verb
def bench_step(as_json: Json = False, only: Only = None, quick: Quick = False) -> None:
    """What a whole training step costs, against a bare PyTorch loop and against transformers' own REALM.

    Takes about ten minutes and 3 GB; installs transformers 4.57.6 into ~/.cache/realm-ds, once. Exit code 1 when a bar
    is missed.
    """
    from realm_ds.bench.run import run_groups
    from realm_ds.bench.step import step_groups

    raise SystemExit(run_groups(step_groups(is_quick=quick), only=only, as_json=as_json))


@bench.command("resume")
@verb
def bench_resume(as_json: Json = False, only: Only = None, quick: Quick = False) -> None:
    """How long training stands still for a checkpoint and for a snapshot, and how soon it goes on after a restart.

    Takes about three minutes and 3 GB. Exit code 1 when a bar is missed.
    """
    from realm_ds.bench.resume import resume_groups
    from realm_ds.bench.run import run_groups

    raise SystemExit(run_groups(resume_groups(is_quick=quick), only=only, as_json=as_json))


@bench.command("memory")
@verb
def bench_memory(as_json: Json = False, only: Only = None, quick: Quick = False) -> None:
    """What each of four trainers holds of a model under ZeRO 1, 2 and 3, against ZeRO-0; the peak of an export.

    Takes about five minutes and 8 GB. Exit code 1 when a bar is missed.
    """
    from realm_ds.bench.memory import memory_groups
    from realm_ds.bench.run import run_groups

    raise SystemExit(run_groups(memory_groups(is_quick=quick), only=only, as_json=as_json))


@bench.command("qa")
@verb
def bench_qa(
    as_json: Json = False, only: Only = None, quick: Quick = False,
    model: Annotated[
        Path | None, typer.Option("--model", "-m", help="A fine-tuned export to answer with. Left out: weights that "
        "nobody has trained, over the Factbook.")
    ] = None,
    questions: Annotated[Path | None, typer.Option(help="What to ask it, as `realm-ds prepare qa` writes it.")] = None,
    layers: Annotated[int, typer.Option(min=1, help="Of tower and reader, where there is no --model.")] = 4,
    hidden: Annotated[int, typer.Option(min=64, help="Their width; a multiple of 64.")] = 256,
) -> None:  # fmt: skip
    """Questions a second of `qa eval` against transformers' RealmForOpenQA on the same weights, and whether they agree.

    Takes about four minutes and 2 GB; installs transformers 4.57.6 into ~/.cache/realm-ds, once. Exit code 1 when a bar
    is missed.
    """
    if (model is None) != (questions is None):
        raise ConfigError("--model and --questions go together: an export, and the questions that it is to answer")
    from realm_ds.bench.qa import qa_groups
    from realm_ds.bench.run import run_groups

    groups = qa_groups(is_quick=quick, layers=layers, hidden=hidden, model=model, questions=questions)
    raise SystemExit(run_groups(groups, only=only, as_json=as_json))


@bench.command("plan")
@verb
def bench_plan(as_json: Json = False, only: Only = None, quick: Quick = False) -> None:
    """What `realm-ds plan` foretells beside what is measured: step, rebuild and memory of three sizes of model.

    Takes about 17 minutes on a busy machine, and 2 GB. Exit code 1 when a number is more than 25% off.
    """
    from realm_ds.bench.plan import plan_groups
    from realm_ds.bench.run import run_groups

    raise SystemExit(run_groups(plan_groups(is_quick=quick), only=only, as_json=as_json))
