"""A plan as people read it, and as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from realm_ds.config.hardware import HardwareProfile
from realm_ds.planning.advice import in_time, warnings
from realm_ds.planning.memory import GIB
from realm_ds.planning.plan import Plan, not_modelled

WIDTH = 15
SMALL_GIB = 0.05


def describe(plan: Plan, *, name: str) -> str:
    """All of it, in some twenty lines; `name` is the hardware's."""
    run, layout = plan.run, plan.run.layout
    lengths = "sampled lengths" if run.lengths.are_sampled else "longest lengths"
    kinds = [f"{layout.trainers} trainers", f"{layout.index_ranks} index ranks"]
    kinds += [f"{layout.builders} builder ranks"] if layout.builders else []
    lines = [
        _line("machine", f"{layout.nodes} nodes, {name}: {run.hardware.about}; {_trust(run.hardware)}"),
        _line("ranks", f"{', '.join(kinds)}; batch {plan.global_batch}, {run.passages:,} passages, {lengths}"),
        "",
        *_memory(plan),
        "",
        _line("step", f"{in_time(plan.mean_step_s)}: {_parts(plan)}"),
        _line("search", f"{in_time(plan.search.search_s)} behind training; each index rank works "
                        f"{in_time(plan.search.busy_s)} of a step for it"),
        _line("refresh", f"{in_time(plan.refresh.refresh_s)}; wanted {plan.adopt_after_steps} steps after its launch, "
                         f"launched every {plan.every_steps}"),
        _line("in pace", f"refresh.every_steps={max(plan.every_steps, plan.keeping_pace_steps)} "
                         f"refresh.adopt_after_steps={plan.keeping_pace_steps} with these index ranks"),
        _line("network", f"{_network(plan)}, {_size(plan.refresh.snapshot_bytes)} for a snapshot"),
        _line("disk", f"{_size(plan.storage.checkpoint)} a checkpoint, {_size(plan.storage.version)} an index version, "
                      f"{_size(plan.storage.kept)} at most"),
        _line("time", f"{plan.hours:,.1f} hours for {run.config.pretrain.steps:,} steps: {plan.node_hours:,.0f} "
                      "node-hours"),
        *(_line("not modelled", said) for said in not_modelled(plan)),
    ]  # fmt: skip
    return "\n".join([*lines, *_warned(warnings(plan))])


def as_json(plan: Plan, *, name: str) -> dict[str, Any]:
    """Every number of it. Times are seconds, sizes bytes."""
    held = {"trainer": plan.trainer, "index": plan.index, "builder": plan.builder}
    return {
        "hardware": name,
        "layout": {**asdict(plan.run.layout), "global_batch": plan.global_batch, "passages": plan.run.passages},
        "memory": {kind: asdict(parts) for kind, parts in held.items() if parts is not None},
        "host_bytes_per_node": plan.host_bytes_per_node,
        "step_s": plan.mean_step_s,
        "step_parts_s": _step_parts(plan),
        "search_s": plan.search.search_s,
        "search_busy_s": plan.search.busy_s,
        "replies": plan.search.replies,
        "refresh_s": plan.refresh.refresh_s,
        "every_steps_in_pace": plan.keeping_pace_steps,
        "network_bytes_per_step": plan.network_bytes,
        "snapshot_bytes": plan.refresh.snapshot_bytes,
        "storage_bytes": asdict(plan.storage),
        "hours": plan.hours,
        "node_hours": plan.node_hours,
        "not_modelled": not_modelled(plan),
        "warnings": warnings(plan),
    }


def _memory(plan: Plan) -> list[str]:
    hardware = plan.run.hardware
    is_gpu = hardware.kind == "gpu"
    lines = []
    for name, held in (("trainer", plan.trainer), ("index rank", plan.index), ("builder rank", plan.builder)):
        if held is None:
            continue
        if is_gpu:
            lines.append(
                _line(name, f"{_gib(held.device_bytes)} of a GPU's {hardware.device_gib.value:.0f}{_of(held.device)}")
            )
            lines.append(_line("", f"{_gib(held.host_bytes)} of the node's memory{_of(held.host)}"))
        else:
            lines.append(_line(name, f"{_gib(held.device_bytes + held.host_bytes)}{_of({**held.host, **held.device})}"))
    lines.append(
        _line("node", f"{_gib(plan.host_bytes_per_node)} of its {hardware.host_gib.value:.0f} for all its ranks")
    )
    return lines


def _of(parts: Mapping[str, float]) -> str:
    largest = sorted(((size, name) for name, size in parts.items() if size > SMALL_GIB * GIB), reverse=True)
    said = ", ".join(f"{name} {size / GIB:.1f}" for size, name in largest)
    return f": {said}" if said else ""


def _parts(plan: Plan) -> str:
    return ", ".join(f"{name} {in_time(seconds)}" for name, seconds in _step_parts(plan).items() if seconds)


def _step_parts(plan: Plan) -> dict[str, float]:
    return {
        "forward and backward": plan.step.network_s, "update": plan.step.update_s, "exchange": plan.step.exchange_s,
        "waiting for answers": plan.search_wait_s, "waiting for rebuilds": plan.refresh_wait_s / plan.every_steps,
    }  # fmt: skip


def _network(plan: Plan) -> str:
    if plan.run.layout.nodes == 1:
        return f"{_size(plan.step.sent_bytes)} by each trainer in a step, all within the node"
    return f"{_size(plan.network_bytes)} out of each node in a step"


def _trust(hardware: HardwareProfile) -> str:
    """How many of its figures are of which kind."""
    bases = [value["basis"] for value in hardware.model_dump().values() if isinstance(value, dict)]
    words = {"measured": "measured", "vendor": "of data sheets", "assumed": "assumed"}
    counted = [f"{bases.count(basis)} {word}" for basis, word in words.items() if basis in bases]
    return f"figures: {', '.join(counted)}"


def _warned(sentences: Sequence[str]) -> list[str]:
    return ["", *(f"! {sentence}" for sentence in sentences)] if sentences else []


def _line(name: str, text: str) -> str:
    return f"{name:{WIDTH}}{text}"


def _gib(num_bytes: float) -> str:
    return f"{num_bytes / GIB:.1f} GiB"


def _size(num_bytes: float) -> str:
    return f"{num_bytes / GIB:.1f} GiB" if num_bytes >= GIB else f"{num_bytes / 2**20:.1f} MiB"
