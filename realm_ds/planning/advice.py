"""What will not fit and what will wait in a plan, in sentences that say what to change. Each remedy named for memory
was tried by planning with it.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from realm_ds.config.schema import RealmConfig
from realm_ds.errors import ConfigError
from realm_ds.index.factory import AUTO, factory_of, is_exact
from realm_ds.planning.memory import GIB, Held
from realm_ds.planning.plan import Plan, layout_that_keeps_pace, make_plan, not_modelled

FULL = 0.92
"""Of a memory: what is beyond goes to fragments, libraries and other programs."""
LONG_SAVE = 0.5
"""Of the time between two checkpoints, for writing one."""


def warnings(plan: Plan) -> list[str]:
    """In the order in which they would be met; none for a plan that works."""
    return [*_devices(plan), *_precision(plan), *_memory(plan), *_waits(plan), *_saving(plan)]


def in_time(seconds: float) -> str:
    """In the unit that suits it."""
    if seconds < 1:
        return f"{1e3 * seconds:.{0 if seconds >= 0.01 else 2}f} ms"
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def _devices(plan: Plan) -> Iterator[str]:
    layout, hardware = plan.run.layout, plan.run.hardware
    if layout.ranks_per_node > hardware.devices:
        what = "GPUs" if hardware.kind == "gpu" else "cores"
        yield (
            f"{layout.ranks_per_node} ranks share the {hardware.devices} {what} of a node and take turns: start at "
            f"most {hardware.devices} on each"
        )
    if layout.index_ranks > plan.run.passages:
        yield f"{layout.index_ranks} index ranks for {plan.run.passages:,} passages: some would have none; start fewer"


def _precision(plan: Plan) -> Iterator[str]:
    hardware = plan.run.hardware
    gain = hardware.matmul_16bit.value / hardware.matmul_fp32.value
    if hardware.kind == "gpu" and not plan.sharding.is_16bit:
        yield (
            f"trainers compute in float32, of which these GPUs do {gain:.0f} times less than of bf16: "
            f"runtime.deepspeed=zero{max(1, plan.sharding.stage)}-bf16"
        )
    if hardware.kind == "gpu" and plan.run.config.index.embed_dtype == "fp32":
        yield f"passages are embedded in float32, likewise {gain:.0f} times slower than in bf16: index.embed_dtype=bf16"


def _memory(plan: Plan) -> Iterator[str]:
    hardware = plan.run.hardware
    if hardware.kind == "gpu":
        room = FULL * hardware.device_gib.value * GIB
        if plan.trainer.device_bytes > room:
            yield (
                f"a trainer needs {_gib(plan.trainer)} of a GPU's {hardware.device_gib.value:.0f} GiB: "
                + _remedy(plan, room)
            )
        for name, held in (("an index rank", plan.index), ("a builder rank", plan.builder)):
            if held and held.device_bytes > room:
                yield (
                    f"{name} needs {_gib(held)} of a GPU's {hardware.device_gib.value:.0f} GiB: start more of them, or "
                    "set index.vectors=fp16 or a lower index.embed_batch_tokens"
                )
    room = FULL * hardware.host_gib.value * GIB
    if plan.host_bytes_per_node > room:
        yield (
            f"the ranks of a node need {plan.host_bytes_per_node / GIB:.1f} GiB of its {hardware.host_gib.value:.0f} "
            "GiB: more nodes with fewer ranks on each, index.vectors=fp16, or a higher ZeRO stage"
        )


def _waits(plan: Plan) -> Iterator[str]:
    step_s = plan.step.step_s
    if plan.search.busy_s > step_s:
        said = f"index ranks work {in_time(plan.search.busy_s)} for the queries of a step of {in_time(step_s)}"
        if plan.search.is_approximate:
            yield (
                f"{said} if every passage is looked at, as the plan has it; index.factory="
                f"{plan.run.config.index.factory} looks at fewer: start more of them if trainers do wait for answers"
            )
        else:
            yield f"{said}: start more of them{_fewer_passages(plan)}"
    elif plan.search_wait_s:
        steps = -(-plan.search.search_s // step_s)
        yield (
            f"a search takes {in_time(plan.search.search_s)}, more than the steps that it is sent ahead: "
            f"pretrain.search_ahead={steps:.0f}"
        )
    if plan.refresh_wait_s:
        pace = plan.keeping_pace_steps
        yield (
            f"a rebuild takes {in_time(plan.refresh.refresh_s)} and is wanted {plan.adopt_after_steps} steps after its "
            f"launch: trainers wait {in_time(plan.refresh_wait_s)} for each. Set refresh.every_steps="
            f"{max(pace, plan.every_steps)} refresh.adopt_after_steps={pace}{_more_ranks(plan)}"
        )


def _fewer_passages(plan: Plan) -> str:
    """Of an exact index: the other remedy, if it is one for shards of this size."""
    run = plan.run
    index = run.config.index.model_copy(update={"factory": AUTO})
    own = -(-run.passages // run.layout.index_ranks)
    factory = factory_of(index, shard_passages=own, width=run.config.model.projection_size)
    return "" if is_exact(factory, index.vectors) else ", or index.factory=auto, which looks at fewer passages"


def _more_ranks(plan: Plan) -> str:
    layout, wanted = plan.run.layout, layout_that_keeps_pace(plan)
    if wanted is None:
        return ""
    if layout.builders:
        return f", or {wanted.builders_per_node} builder ranks a node instead of {layout.builders_per_node}"
    return f", or {wanted.index_per_node} index ranks a node instead of {layout.index_per_node}"


def _saving(plan: Plan) -> Iterator[str]:
    save_s = plan.storage.checkpoint / plan.run.hardware.disk.value
    between_s = plan.run.config.pretrain.save_every_steps * plan.mean_step_s
    if save_s > LONG_SAVE * between_s:
        yield (
            f"a checkpoint takes {in_time(save_s)} to write and is due every {in_time(between_s)}: raise "
            "pretrain.save_every_steps"
        )


def _remedy(plan: Plan, room: float) -> str:
    """The first change, from the cheapest on, with which a trainer fits."""
    run = plan.run
    for overrides in _lighter(run.config):
        config = run.config.model_copy(
            update={
                section: getattr(run.config, section).model_copy(update=changes)
                for section, changes in overrides.items()
            }
        )
        try:
            lighter = make_plan(replace(run, config=config))
        except ConfigError:  # two settings that do not go together
            continue
        if lighter.trainer.device_bytes <= room:
            settings = " ".join(
                f"{section}.{name}={value}" for section, changes in overrides.items() for name, value in changes.items()
            )
            left_out = [said for said in not_modelled(lighter) if said not in not_modelled(plan)]
            return f"{settings} (not modelled: {'; '.join(left_out)})" if left_out else settings
    return "no setting that was tried makes it fit; train a smaller model, or shorter sequences"


def _lighter(config: RealmConfig) -> Iterator[dict[str, dict[str, object]]]:
    settings = config.pretrain
    batches: list[dict[str, object]] = []
    micro = settings.micro_batch_size
    while micro > 1 and micro % 2 == 0:
        micro //= 2
        accumulated = settings.gradient_accumulation_steps * settings.micro_batch_size // micro
        batches.append({"micro_batch_size": micro, "gradient_accumulation_steps": accumulated})
    yield {"runtime": {"deepspeed": Path("zero2-bf16")}}
    for batch in batches:
        yield {"pretrain": batch}
    yield {"runtime": {"activation_checkpointing": True}}
    for shape in ("zero3-bf16", "zero3-bf16-offload"):
        yield {"runtime": {"deepspeed": Path(shape)}}
        yield {"runtime": {"deepspeed": Path(shape), "activation_checkpointing": True}}
        for batch in batches:
            yield {"runtime": {"deepspeed": Path(shape), "activation_checkpointing": True}, "pretrain": batch}


def _gib(held: Held) -> str:
    return f"{held.device_bytes / GIB:.1f} GiB"
