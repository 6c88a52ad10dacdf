"""`realm-ds plan`: what a run will hold and take on so many nodes, before it is started."""

import json
from pathlib import Path
from typing import Annotated

import typer

from realm_ds.cli.common import Overrides, Source, refuse_without_effect, verb
from realm_ds.errors import ConfigError


@verb
def plan(
    context: typer.Context, overrides: Overrides = None, config: Source = None,
    nodes: Annotated[int, typer.Option(help="Of one kind.")] = 1,
    trainers_per_node: Annotated[int, typer.Option(help="Trainers on each.")] = 1,
    index_per_node: Annotated[
        int | None, typer.Option(help="Index ranks on each. Left out: index.num_shards over the nodes.")
    ] = None,
    builders_per_node: Annotated[
        int | None, typer.Option(help="Builder ranks on each; likewise index.builders.")
    ] = None,
    hardware: Annotated[str, typer.Option(help="A packaged profile, or the YAML file of one.")] = "h100",
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure this machine instead, in some seconds.")
    ] = False,
    write: Annotated[Path | None, typer.Option(help="With --measure: write the profile to this file.")] = None,
    passages: Annotated[int | None, typer.Option(min=1, help="Left out: those of data.corpus.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="All numbers as one JSON object.")] = False,
    study: Annotated[
        Path | None,
        typer.Option(help="Plan 8 to 512 GPUs with a batch of 512; write scaling.md and scaling.svg to this folder."),
    ] = None,
) -> None:  # fmt: skip
    """Memory, step time, rebuild time, network, disk and hours of pre-training, and whether the index keeps pace.

    Computed, not run: from the settings, the data where it is here, and a profile of the machine. Says what will not
    fit or will wait, and what to change. How near it is to measurements: realm-ds bench plan.
    """
    from realm_ds.config.hardware import dump_hardware, load_hardware
    from realm_ds.config.load import load_incomplete
    from realm_ds.files import write_durably
    from realm_ds.planning.inputs import inputs_of, layout_of
    from realm_ds.planning.plan import make_plan
    from realm_ds.planning.telling import as_json as plan_as_json
    from realm_ds.planning.telling import describe

    if write is not None and not measure:
        raise ConfigError(f"--write {write} needs --measure: there is no profile to write")
    if study is not None:
        from realm_ds.planning.study import write_study

        beside = set(context.params) - {"study", "hardware"}
        refuse_without_effect(context, *beside, because="--study has settings, sizes and a corpus of its own")
        print(write_study(study, hardware=hardware))
        return
    if config is None:
        raise ConfigError(
            "a plan needs settings and the size of a corpus: realm-ds plan --config realm-base --passages 13353718 (a "
            "recipe, a YAML file or a run folder; the data may be yet to come)"
        )
    settings, _ = load_incomplete(config, overrides or [])
    layout = layout_of(
        settings, nodes=nodes, trainers_per_node=trainers_per_node, index_per_node=index_per_node,
        builders_per_node=builders_per_node,
    )  # fmt: skip
    if measure:
        refuse_without_effect(context, "hardware", because="--measure takes the figures of this machine")
        from realm_ds.planning.measuring import measure_hardware

        profile, hardware = measure_hardware(Path.cwd()), "this machine"
        if write is not None:
            write_durably(write, dump_hardware(profile))
    else:
        profile = load_hardware(hardware)
    made = make_plan(inputs_of(settings, layout, profile, passages=passages))
    print(json.dumps(plan_as_json(made, name=hardware)) if as_json else describe(made, name=hardware))
