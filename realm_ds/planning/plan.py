"""The plan of a run: memory, pace, storage and hours of a config on a layout of nodes, and the index that keeps pace.

Pure arithmetic: what it says of trouble is advice.py's, what people see telling.py's business.
"""

import math
from dataclasses import dataclass, replace

from realm_ds.config.deepspeed import check_deepspeed
from realm_ds.config.hardware import HardwareProfile
from realm_ds.config.schema import RealmConfig
from realm_ds.models.sizes import EncoderSizes
from realm_ds.planning.layout import Layout
from realm_ds.planning.lengths import Lengths
from realm_ds.planning.memory import Held, Storage, builder_held, index_held, storage, trainer_held
from realm_ds.planning.pace import RefreshPace, SearchPace, StepPace, rank_device, refresh_pace, search_pace, step_pace
from realm_ds.planning.sharding import Sharding

ROUND_STEPS = 10
"""Recommended intervals are multiples of this."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """All that a plan is made from."""

    config: RealmConfig
    layout: Layout
    hardware: HardwareProfile
    sizes: EncoderSizes
    lengths: Lengths
    passages: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run will hold and take."""

    run: Run
    sharding: Sharding
    trainer: Held
    index: Held
    builder: Held | None
    step: StepPace
    search: SearchPace
    refresh: RefreshPace
    storage: Storage
    every_steps: int
    adopt_after_steps: int

    @property
    def global_batch(self) -> int:
        settings = self.run.config.pretrain
        return self.run.layout.trainers * settings.micro_batch_size * settings.gradient_accumulation_steps

    @property
    def search_wait_s(self) -> float:
        """In each step: what searching ahead does not hide, or what index ranks cannot answer in a step's time."""
        step_s, search = self.step.step_s, self.search
        ahead_s = self.run.config.pretrain.search_ahead * step_s
        return max(0.0, search.search_s - ahead_s, search.busy_s - step_s)

    @property
    def refresh_wait_s(self) -> float:
        """At each adoption, for a version that is late."""
        return max(0.0, self.refresh.refresh_s - self.adopt_after_steps * self._served_s)

    @property
    def mean_step_s(self) -> float:
        """All waits included."""
        return self._served_s + self.refresh_wait_s / self.every_steps

    @property
    def hours(self) -> float:
        """Of pretrain.steps."""
        return self.run.config.pretrain.steps * self.mean_step_s / 3600

    @property
    def node_hours(self) -> float:
        return self.hours * self.run.layout.nodes

    @property
    def host_bytes_per_node(self) -> float:
        """Of all ranks of a node; on a cpu node, that is all there is."""
        layout, is_cpu = self.run.layout, self.run.hardware.kind == "cpu"
        kinds = [(self.trainer, layout.trainers_per_node), (self.index, layout.index_per_node)]
        kinds += [(self.builder, layout.builders_per_node)] if self.builder else []
        return sum((held.host_bytes + (held.device_bytes if is_cpu else 0.0)) * number for held, number in kinds)

    @property
    def network_bytes(self) -> float:
        """Out of each node in a step: gradients and weights, which a ring takes through every node once; queries and
        answers between ranks of two nodes."""
        layout = self.run.layout
        if layout.nodes == 1:
            return 0.0
        pairs = layout.trainers_per_node * (layout.index_ranks - layout.index_per_node)
        return self.step.sent_bytes + pairs * (self.search.asked_bytes + self.search.answered_bytes)

    @property
    def keeping_pace_steps(self) -> int:
        """The least refresh.every_steps and adopt_after_steps with which nobody waits for these index ranks."""
        return max(ROUND_STEPS, ROUND_STEPS * math.ceil(self.refresh.refresh_s / self._served_s / ROUND_STEPS))

    @property
    def _served_s(self) -> float:
        return self.step.step_s + self.search_wait_s


def make_plan(run: Run) -> Plan:
    """Raises ConfigError for settings that contradict each other."""
    config, layout, sizes, lengths = run.config, run.layout, run.sizes, run.lengths
    sharding = Sharding.of(check_deepspeed(config), trainers=layout.trainers)
    device = rank_device(run.hardware, layout, threads=config.runtime.threads_per_rank)
    step = step_pace(config, sizes, lengths, sharding=sharding, device=device, layout=layout)
    search = search_pace(config, lengths, passages=run.passages, device=device, layout=layout)
    refresh = refresh_pace(
        config, sizes, lengths, passages=run.passages, device=device, layout=layout,
        busy_share=search.busy_s / max(step.step_s, search.busy_s),
    )  # fmt: skip
    builder = None
    if layout.builders:
        builder = builder_held(
            config, sizes, lengths, passages=run.passages, layout=layout, profile=run.hardware
        )  # fmt: skip
    return Plan(
        run=run, sharding=sharding, step=step, search=search, refresh=refresh,
        trainer=trainer_held(config, sizes, sharding=sharding, work=step.work, profile=run.hardware),
        index=index_held(config, sizes, lengths, passages=run.passages, layout=layout, profile=run.hardware),
        builder=builder,
        storage=storage(config, sizes, sharding=sharding, passages=run.passages),
        every_steps=config.refresh.first_interval, adopt_after_steps=config.refresh.adopt_after_steps,
    )  # fmt: skip


def layout_that_keeps_pace(plan: Plan) -> Layout | None:
    """With the fewest ranks that embed (builder ranks where there are any, else index ranks) with which a version is
    built when it is due, others as they are; None if not even one for each device that the others leave free is enough.
    On a cpu node every further rank takes cores from the others."""
    layout = plan.run.layout
    free = plan.run.hardware.devices - layout.trainers_per_node
    if layout.builders:
        tries = [replace(layout, builders_per_node=number) for number in range(1, free - layout.index_per_node + 1)]
    else:
        tries = [replace(layout, index_per_node=number) for number in range(1, free + 1)]
    for tried in tries:
        made = make_plan(replace(plan.run, layout=tried))
        if not made.refresh_wait_s and not made.search_wait_s:
            return tried
    return None


def not_modelled(plan: Plan) -> list[str]:
    """What the settings ask for and the plan reckons without."""
    sharding, run = plan.sharding, plan.run
    kept_on = {"optimizer states": sharding.optimizer_on, "weights": sharding.parameters_on}
    offloaded = [f"{what} on {device}" for what, device in kept_on.items() if device != "none"]
    said = [f"the time that offloading takes ({', '.join(offloaded)}): steps are longer"] if offloaded else []
    if plan.search.is_approximate:
        said.append(f"that index.factory={run.config.index.factory} looks at fewer passages: searches are shorter")
    if run.config.runtime.compile:
        said.append("runtime.compile: steps are shorter")
    return said
