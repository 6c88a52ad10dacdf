"""The scale study: REALM's corpus and batch from 8 to 512 GPUs, planned, as a table and a plot. What of it is measured
is said where it is shown.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from realm_ds.config.hardware import HardwareProfile, load_hardware
from realm_ds.config.load import load_incomplete
from realm_ds.errors import ConfigError
from realm_ds.files import write_durably
from realm_ds.models.sizes import encoder_sizes
from realm_ds.planning.advice import in_time
from realm_ds.planning.inputs import VOCABULARY
from realm_ds.planning.layout import Layout
from realm_ds.planning.lengths import Lengths
from realm_ds.planning.memory import GIB
from realm_ds.planning.plan import ROUND_STEPS, Plan, Run, make_plan

PASSAGES = 13_353_718
"""Of REALM's Wikipedia."""
BATCH = 512
LARGEST_MICRO_BATCH = 16
"""Queries of a trainer at a time."""
NUM_GPUS = (8, 16, 32, 64, 128, 256, 512)
GPUS_PER_NODE = 8
TRAINERS_PER_NODE = 4
INDEX_PER_NODE = (1, 2, 3, 4)
EVERY_STEPS = 500
"""The paper's interval, which the index must keep."""
SETTINGS = ("runtime.deepspeed=zero2-bf16", "index.embed_dtype=bf16")
MARK_BEGIN, MARK_END = "<!-- realm-ds plan --study: begin -->", "<!-- realm-ds plan --study: end -->"
TABLE_FILE, PLOT_FILE = "scaling.md", "scaling.svg"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One size of machine."""

    num_gpus: int
    """Of the nodes: those that no rank uses count too."""
    plan: Plan
    least_every_steps: int
    """The shortest interval that these index ranks keep."""


def study(hardware: str = "h100") -> list[Row]:
    """Of each size the split with the fewest index ranks that keep the paper's interval, or as many as there are."""
    profile = load_hardware(hardware)
    if profile.kind != "gpu" or profile.devices != GPUS_PER_NODE:
        raise ConfigError(
            f"--hardware {hardware} has {profile.devices} {'GPUs' if profile.kind == 'gpu' else 'cores'} a node, but "
            f"the study is of nodes of {GPUS_PER_NODE} GPUs: name such a profile, as h100 or a100-80gb"
        )
    return [_row(num_gpus, profile) for num_gpus in NUM_GPUS]


def write_study(folder: Path, *, hardware: str) -> str:
    """Put the table between the marks of the folder's scaling.md, which is made if it is not there, and the plot beside
    it; returns the table."""
    from realm_ds.planning.plots import draw_study

    rows = study(hardware)
    text = table(rows)
    path = folder / TABLE_FILE
    before, after = "", "\n"
    if path.is_file():
        before, _, rest = path.read_text(encoding="utf-8").partition(MARK_BEGIN)
        after = rest.partition(MARK_END)[2]
    folder.mkdir(parents=True, exist_ok=True)
    draw_study(folder / PLOT_FILE, rows, every_steps=EVERY_STEPS)
    write_durably(path, f"{before}{MARK_BEGIN}\n{text}\n{MARK_END}{after}")
    return text


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    header = (
        "GPUs", "trainers + index ranks", "step", "of it exchange", "rebuild", "least `every_steps`", "a trainer holds",
        "an index rank holds", "hours", "node-hours", "speed-up",
    )  # fmt: skip
    lines = [header, ("---:",) * len(header), *(_cells(row, rows[0]) for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _row(num_gpus: int, hardware: HardwareProfile) -> Row:
    tried = [_plan(num_gpus, hardware, index_per_node) for index_per_node in INDEX_PER_NODE]
    best = next((plan for plan in tried if not plan.refresh_wait_s and not plan.search_wait_s), tried[-1])
    least = best.keeping_pace_steps
    if best.refresh_wait_s:  # as often as it can be
        refresh = best.run.config.refresh.model_copy(update={"every_steps": least, "adopt_after_steps": least})
        config = best.run.config.model_copy(update={"refresh": refresh})
        best = make_plan(replace(best.run, config=config))
    return Row(num_gpus=num_gpus, plan=best, least_every_steps=least)


def _plan(num_gpus: int, hardware: HardwareProfile, index_per_node: int) -> Plan:
    nodes = num_gpus // GPUS_PER_NODE
    trainers = nodes * TRAINERS_PER_NODE
    own = BATCH // trainers
    micro_batch = min(own, LARGEST_MICRO_BATCH)
    config, _ = load_incomplete(
        "realm-base",
        [
            *SETTINGS, f"pretrain.micro_batch_size={micro_batch}",
            f"pretrain.gradient_accumulation_steps={own // micro_batch}", f"refresh.every_steps={EVERY_STEPS}",
            f"refresh.adopt_after_steps={EVERY_STEPS - ROUND_STEPS}", f"index.num_shards={nodes * index_per_node}",
        ],
    )  # fmt: skip
    layout = Layout(nodes=nodes, trainers_per_node=TRAINERS_PER_NODE, index_per_node=index_per_node)
    sizes = encoder_sizes(config.model, vocabulary=VOCABULARY, max_tokens=config.data.joint_tokens)
    lengths = Lengths.longest(config.data)
    return make_plan(
        Run(config=config, layout=layout, hardware=hardware, sizes=sizes, lengths=lengths, passages=PASSAGES)
    )


def _cells(row: Row, first: Row) -> tuple[str, ...]:
    plan, layout = row.plan, row.plan.run.layout
    speed_up = first.plan.mean_step_s / plan.mean_step_s
    return (
        f"{row.num_gpus}", f"{layout.trainers} + {layout.index_ranks}", in_time(plan.mean_step_s),
        f"{plan.step.exchange_s / plan.mean_step_s:.0%}", in_time(plan.refresh.refresh_s), f"{row.least_every_steps:,}",
        f"{plan.trainer.device_bytes / GIB:.1f} GiB", f"{plan.index.device_bytes / GIB:.1f} GiB", f"{plan.hours:,.1f}",
        f"{plan.node_hours:,.0f}", f"{speed_up:.1f} of {row.num_gpus // first.num_gpus}",
    )  # fmt: skip
