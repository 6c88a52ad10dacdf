"""What the verbs that start a stage of training share: their options, and the start itself or what it would be."""

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from realm_ds.errors import ConfigError

if TYPE_CHECKING:
    from realm_ds.config.schema import RealmConfig

RunFolder = Annotated[
    Path, typer.Option("--run", "-r", help="The run folder: settings, checkpoints, metrics, logs of this run.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the run folder's newest checkpoint.")]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Print the settings and the command line, check what would be read, and start nothing."
    ),
]


def start_stage(
    stage: Literal["ict", "pretrain", "qa"], overrides: list[str] | None, source: str | None, run: Path, resume: bool,
    dry_run: bool,
) -> None:  # fmt: skip
    """Run a stage of training, or print what would be run."""
    from realm_ds.config.load import load_for

    run = run.absolute()
    if resume and source is None and not (run / "config.yaml").is_file():
        raise ConfigError(f"{run} holds no run to resume: start it without --resume")
    load_config = functools.partial(load_for, run, source, overrides or [])
    if dry_run:
        _print_plan(stage, load_config(), run, resume)
        return
    from realm_ds.launch.stages import show_stage

    show_stage(stage, load_config=load_config, run_folder=run, resume=resume)


def _print_plan(stage: Any, config: "RealmConfig", run: Path, resume: bool) -> None:
    import shlex

    from realm_ds.config.load import dump
    from realm_ds.launch.stages import check_inputs, check_run_folder, stage_command

    command = stage_command(stage, config=config, run_folder=run, resume=resume)
    print(f"# {run}/config.yaml\n{dump(config)}\n# what would be started:\n# {shlex.join(command)}", flush=True)
    check_inputs(stage, config)
    check_run_folder(run, config, resume=resume)
