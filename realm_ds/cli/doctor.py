"""`realm-ds doctor`: can this launch work, and what is in its way."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from realm_ds.cli.common import FAILED, Overrides, Source, verb

if TYPE_CHECKING:
    from realm_ds.config.schema import RealmConfig


@verb
def doctor(
    overrides: Overrides = None, config: Source = None,
    run: Annotated[
        Path | None, typer.Option("--run", "-r", help="The run folder that is meant: do all hosts see its place?")
    ] = None,
    stage: Annotated[
        Literal["ict", "pretrain", "qa"], typer.Option(help="Whose roles: pretrain has index ranks, qa by qa.index.")
    ] = "pretrain",
    as_json: Annotated[bool, typer.Option("--json", help="All of it as one JSON object.")] = False,
) -> None:  # fmt: skip
    """Look at a launch before a big run. Start it as the run will be, or alone on one machine.

    \b
        srun -N 8 --ntasks-per-node=8 -K1 --mpi=pmi2 python -m mpi4py -m realm_ds doctor --config my.yaml --run runs/p1

    Looks at MPI, hosts and roles, code and libraries, network, cores and limits, memory, GPUs, disks, data and clocks.
    Says what to mend; exit code 1 if something must be mended first. Without --config roles and data are left out.
    """
    from dataclasses import asdict

    from realm_ds.cluster.doctor import examine
    from realm_ds.observe.checks import print_checks

    def load_config() -> "RealmConfig | None":
        from realm_ds.config.load import RUN_CONFIG, load

        here = str(run) if run is not None and (run / RUN_CONFIG).is_file() else None
        source = config or here
        return load(source, overrides or []) if source or overrides else None

    checks = examine(load_config=load_config, stage=stage, run=run and run.absolute())
    if checks is None:
        return
    has_failed = any(check.state == "fail" for check in checks)
    if as_json:
        print(json.dumps({"is_ok": not has_failed, "checks": [asdict(check) for check in checks]}), flush=True)
    else:
        print_checks(checks)
    if has_failed:
        raise SystemExit(FAILED)
