"""The plan of a run: its arithmetic against numbers worked out by hand and against what torch does, what more of
anything makes of it, and every warning."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from typer.testing import CliRunner

from realm_ds.cli import main as cli
from realm_ds.config.hardware import dump_hardware, hardware_names, load_hardware
from realm_ds.config.load import load
from realm_ds.config.schema import ModelConfig, RealmConfig
from realm_ds.errors import ConfigError
from realm_ds.models.flops import cost_of
from realm_ds.models.realm import RealmModel
from realm_ds.models.sizes import EncoderSizes, encoder_sizes
from realm_ds.models.towers import TokenBatch
from realm_ds.planning.advice import warnings
from realm_ds.planning.inputs import inputs_of, layout_of
from realm_ds.planning.layout import Layout
from realm_ds.planning.lengths import Lengths, in_buckets
from realm_ds.planning.measuring import with_figures
from realm_ds.planning.memory import HIDDEN_KEPT, INTERMEDIATE_KEPT
from realm_ds.planning.pace import Device
from realm_ds.planning.plan import Plan, layout_that_keeps_pace, make_plan, not_modelled
from realm_ds.planning.sharding import Sharding, Trained
from realm_ds.planning.study import MARK_BEGIN, MARK_END, study, table
from realm_ds.planning.telling import as_json, describe
from realm_ds.planning.work import HIDDEN_MOVED, INTERMEDIATE_MOVED, OPERATIONS_OF_A_LAYER, Work
from tests.support.tiny import make_data

REPOSITORY = Path(__file__).parents[2]
WIKIPEDIA = 13_353_718
NOWHERE = ("data.corpus=/none", "data.tokenizer=/none")
GOOD = (
    "runtime.deepspeed=zero2-bf16",
    "index.embed_dtype=bf16",
    "refresh.adopt_after_steps=490",
    "pretrain.micro_batch_size=16",
)


@cache
def config_of(overrides: tuple[str, ...]) -> RealmConfig:
    return load("realm-base", [*NOWHERE, *overrides])


def plan(*overrides: str, layout: Layout | None = None, hardware: str = "h100", passages: int = WIKIPEDIA) -> Plan:
    config = config_of(overrides)
    layout = layout or Layout(nodes=8, trainers_per_node=4, index_per_node=4)
    return make_plan(inputs_of(config, layout, load_hardware(hardware), passages=passages))


def realm(layers: int = 2) -> tuple[RealmModel, EncoderSizes]:
    model = ModelConfig(
        num_layers=layers, hidden_size=64, num_heads=2, intermediate_size=256, projection_size=16, dropout=0
    )
    return RealmModel(model, vocab_size=300, max_tokens=64), encoder_sizes(model, vocabulary=300, max_tokens=64)


def tokens(rows: int = 4, length: int = 32) -> TokenBatch:
    ids_NL = torch.full((rows, length), 7)
    return TokenBatch(ids_NL, torch.ones_like(ids_NL), torch.zeros_like(ids_NL))


def test_sizes_are_those_of_the_modules() -> None:
    module, sizes = realm()
    assert sizes.tower_parameters(16) == sum(weight.numel() for weight in module.query_tower.parameters())
    assert sizes.encoder_parameters == sum(weight.numel() for weight in module.encoder.parameters())
    assert sizes.tower_cost(16) == cost_of(module.query_tower)
    assert sizes.encoder_cost == cost_of(module.encoder)


def test_bert_base_has_its_known_size() -> None:
    sizes = encoder_sizes(ModelConfig(), vocabulary=30_522, max_tokens=384)
    assert sizes.body_parameters == 109_482_240 - (768 * 768 + 768)  # BertModel, less its pooler


def test_sizes_of_an_encoder_come_from_its_folder(tmp_path: Path) -> None:
    bert = {"hidden_size": 32, "num_hidden_layers": 3, "intermediate_size": 64, "vocab_size": 99,
            "max_position_embeddings": 40, "type_vocab_size": 2}  # fmt: skip
    distilbert = {"dim": 32, "n_layers": 3, "hidden_dim": 64, "vocab_size": 99, "max_position_embeddings": 40}
    expected = EncoderSizes(layers=3, hidden=32, intermediate=64, vocabulary=99, positions=40)
    for said, segments in ((bert, 2), (distilbert, 0)):
        (tmp_path / "config.json").write_text(json.dumps(said))
        found = encoder_sizes(ModelConfig(encoder=tmp_path), vocabulary=5, max_tokens=5)
        assert found == replace(expected, segments=segments)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="does not tell the encoder's sizes"):
        encoder_sizes(ModelConfig(encoder=tmp_path), vocabulary=5, max_tokens=5)


class Counting(TorchDispatchMode):
    """Operations, and numbers that those which touch memory read and write."""

    VIEWS = ("view", "transpose", "aten.t.", "expand", "permute", "unsqueeze", "detach", "select", "slice", "alias")

    def __init__(self) -> None:
        super().__init__()
        self.operations = self.numbers = 0

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):  # type: ignore[no-untyped-def]
        result = operation(*arguments, **(options or {}))
        self.operations += 1
        if not any(word in str(operation) for word in self.VIEWS):
            touched = [*arguments, *(result if isinstance(result, tuple | list) else [result])]
            self.numbers += sum(each.numel() for each in touched if isinstance(each, torch.Tensor))
        return result


def of_a_layer(count: Callable[[RealmModel], float]) -> float:
    """What a network of three layers has more than one of two."""
    return count(realm(3)[0]) - count(realm(2)[0])


def test_what_a_layer_moves_and_starts_is_counted() -> None:
    def counted(what: str) -> Callable[[RealmModel], float]:
        def count(model: RealmModel) -> float:
            with Counting() as counting:
                model.query_tower(tokens())
            return float(getattr(counting, what))

        return count

    weights = 4 * 64 * 64 + 2 * 64 * 256  # read once, however many tokens
    moved = (of_a_layer(counted("numbers")) - weights) / (4 * 32)
    assert moved == pytest.approx(HIDDEN_MOVED * 64 + INTERMEDIATE_MOVED * 256, rel=0.1)
    assert of_a_layer(counted("operations")) == pytest.approx(OPERATIONS_OF_A_LAYER, rel=0.1)


def test_what_a_layer_keeps_for_its_backward_pass_is_counted() -> None:
    def kept(model: RealmModel) -> float:
        own = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
        seen: dict[int, torch.Tensor] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            seen.setdefault(tensor.untyped_storage().data_ptr(), tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model.query_tower(tokens())
        return sum(tensor.untyped_storage().nbytes() for place, tensor in seen.items() if place not in own) / 4

    expected = 4 * 32 * (HIDDEN_KEPT * 64 + INTERMEDIATE_KEPT * 256)
    assert of_a_layer(kept) == pytest.approx(expected, rel=0.1)


def test_realm_at_the_size_of_the_paper() -> None:
    """The sizes to design for, by hand: 13.35 M passages of 288 wordpieces, 128 numbers each, 8 index ranks."""
    made = plan("index.vectors=fp16", layout=Layout(nodes=8, trainers_per_node=4, index_per_node=1))
    assert made.index.host["vectors"] / 2 * 8 == pytest.approx(3.42e9, rel=0.01)
    assert made.index.host["tokens"] * 8 == pytest.approx(7.6e9, rel=0.01)  # 285 without special tokens
    assert made.refresh.snapshot_bytes == pytest.approx(220e6, rel=0.01)
    assert made.storage.version == pytest.approx(3.42e9 + 220e6, rel=0.01)


def test_what_travels_for_a_step_by_hand() -> None:
    """16 queries of 128 float32 numbers out, their 8 hits of 288 wordpieces back."""
    made = plan(
        "pretrain.micro_batch_size=16", "pretrain.candidates=9", "data.passage_tokens=291", "index.replies=whole"
    )
    assert made.search.asked_bytes == 16 * 128 * 4
    assert made.search.answered_bytes == 16 * 8 * (2 * 288 + 24)


def test_operations_of_a_step_by_hand() -> None:
    made = plan("pretrain.micro_batch_size=1", "pretrain.candidates=2", "runtime.deepspeed=zero2-bf16")
    layer = 4 * 768**2 + 2 * 768 * 3072
    per_token, per_square = 12 * 2 * layer, 12 * 4 * 768

    def forward(*lengths: int) -> float:
        return sum(per_token * length + per_square * length**2 for length in lengths)

    towers = forward(96, 288) + 2 * 2 * 768 * (768 + 128)
    encoder = forward(96 + 286 + 1, 96 + 1) + 2 * 4 * 2 * 768 * (768 + 30_522)
    assert made.step.work.network.flops_16bit == pytest.approx(3 * (towers + encoder))
    # The snapshot's tower, over the query.
    assert made.step.work.network.flops_fp32 == pytest.approx(forward(96) + 2 * 768 * (768 + 128))


@pytest.mark.parametrize(
    ("shape", "expected"),
    [("zero0", 12), ("zero1", 7), ("zero2", 7), ("zero3", 3), ("zero2-bf16", 2 + 12 / 4), ("zero3-bf16", 14 / 4)],
)
def test_bytes_of_a_parameter_with_four_trainers(shape: str, expected: float) -> None:
    """Weights and states: those in float32 are what bench memory measured, 653, 381 and 164 MiB of 57 M parameters."""
    from realm_ds.config.deepspeed import load_deepspeed

    sharding = Sharding.of(load_deepspeed(Path(shape)), trainers=4)
    assert sharding.weight_bytes + sharding.state_bytes == expected


def test_what_trainers_exchange() -> None:
    """Of 40 parameters and two micro-batches, in rounds of all of them: what DeepSpeed was counted to start."""
    trained = Trained(towers=10, encoder=30, micro_batches=2, tower_passes=3, encoder_passes=4)
    for stage, rounds in ((0, 2), (1, 2 + 1), (2, 2 * 2 + 1), (3, 2 + 2)):
        sharding = Sharding.of({"zero_optimization": {"stage": stage, "reduce_bucket_size": 20}}, trainers=4)
        assert sharding.sent_bytes(trained) == rounds * 40 * 4 * 3 / 4
        assert sharding.messages(trained) == (2 * 2 + 2 * (1 + 2) if stage == 3 else 2 * rounds)
        half = replace(sharding, is_16bit=True)
        assert half.sent_bytes(trained) == sharding.sent_bytes(trained) / 2
        alone = replace(sharding, trainers=1)
        assert alone.sent_bytes(trained) == alone.messages(trained) == 0


def test_weights_are_gathered_again_where_they_are_needed_late() -> None:
    trained = Trained(towers=10, encoder=30, micro_batches=2, tower_passes=3, encoder_passes=4)
    again, always = 2 * 10 + 2 * 4 * 30, 2 * 3 * 10 + 2 * 4 * 30
    for live, reuse, rounds in ((40, 0, 40), (0, 300, 40), (39, 299, 2 * 40), (0, 29, again), (0, 9, always)):
        zero = {"stage": 3, "stage3_max_live_parameters": live, "stage3_max_reuse_distance": reuse}
        sharding = Sharding.of({"zero_optimization": zero}, trainers=4)
        assert sharding.sent_bytes(trained) == 2 * (40 + rounds) * 4 * 3 / 4
        assert sharding.gathered_bytes(40) == min(max(live, reuse), 40) * 4 * 3 / 4
    assert replace(sharding, stage=2).gathered_bytes(40) == 0


def test_gradients_are_combined_meanwhile_where_the_json_or_deepspeed_says_so() -> None:
    for zero, overlaps in (
        ({"stage": 2}, False), ({"stage": 3}, True), ({"stage": 3, "overlap_comm": False}, False),
        ({"stage": 1, "overlap_comm": True}, True),
    ):  # fmt: skip
        assert Sharding.of({"zero_optimization": zero}, trainers=2).overlaps is overlaps


def test_activations_computed_again_take_a_third_more() -> None:
    kept, again = (
        plan(*GOOD, f"runtime.activation_checkpointing={is_on}").step.work.network for is_on in ("false", "true")
    )
    layers = 4 / 3 * (kept.flops_16bit - _heads(plan(*GOOD)))
    assert again.flops_16bit == pytest.approx(layers + _heads(plan(*GOOD)))
    assert again.flops_fp32 == kept.flops_fp32
    steps = [plan(*GOOD, f"runtime.activation_checkpointing={is_on}").step.network_s for is_on in ("false", "true")]
    assert steps[1] / steps[0] == pytest.approx(4 / 3, rel=0.05)


def _heads(made: Plan) -> float:
    """Operations of what stands on the layers, forward and backward."""
    work, sizes = made.step.work, made.run.sizes
    tower, encoder = sizes.tower_cost(made.run.config.model.projection_size), sizes.encoder_cost
    return 3 * (tower.per_sequence * (work.queries.rows + work.passages.rows) + encoder.per_mask * work.joint.masks)


def test_what_leaves_a_node() -> None:
    """Gradients once, and three fourths of the queries and answers of its two trainers and eight index ranks."""
    made = plan(*GOOD, layout=Layout(nodes=4, trainers_per_node=2, index_per_node=2))
    of_a_pair = made.search.asked_bytes + made.search.answered_bytes
    assert made.network_bytes == made.step.sent_bytes + 2 * 8 * 3 / 4 * of_a_pair
    alone = plan(*GOOD, layout=Layout(nodes=1, trainers_per_node=2, index_per_node=2))
    assert alone.network_bytes == 0
    assert "all within the node" in describe(alone, name="h100")


def test_an_approximate_index_holds_codes() -> None:
    """13,353,718 passages on 8 shards: too many for auto to look at all of them, few enough for whole vectors."""
    layout = Layout(nodes=8, trainers_per_node=4, index_per_node=1)
    own = -(-WIKIPEDIA // 8)
    for overrides, code, vectors in (
        (("index.factory=Flat",), 512, 2 * 512),
        (("index.factory=auto",), 512 + 8, 2 * 512),
        (("index.factory=PQ32",), 32, 2 * 512),
        (("index.factory=PQ32", "index.rerank=0", "index.audit_every=0"), 32, 512),
    ):
        index = plan(*GOOD, *overrides, layout=layout).index
        assert index.device["index"] == 2 * own * code
        assert index.host["vectors"] == own * vectors
        assert index.host.get("codes", 0) == (2 * own * code if code != 512 else 0)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ((), ()),
        (("runtime.deepspeed=zero3-bf16-offload",), ("offloading takes (optimizer states on cpu, weights on cpu)",)),
        (("index.factory=SQ8", "runtime.compile=true"), ("index.factory=SQ8 looks at fewer", "runtime.compile")),
        (("index.factory=auto",), ()),
    ],
)
def test_what_the_plan_reckons_without_is_said(overrides: tuple[str, ...], said: tuple[str, ...]) -> None:
    made = plan(*GOOD, *overrides)
    found = not_modelled(made)
    assert len(found) == len(said)
    for words, sentence in zip(said, found, strict=True):
        assert words in sentence
    text = describe(made, name="h100")
    assert text.count("not modelled") == len(said)
    assert as_json(made, name="h100")["not_modelled"] == found


def test_padding_by_hand() -> None:
    import numpy as np

    padded = in_buckets(np.array([[5, 1, 3, 2], [4, 4, 4, 4]]), buckets=2, masks=3.0)
    assert padded.tokens == ((2 * 2 + 2 * 5) + 4 * 4) / 2
    assert padded.squares == ((2 * 4 + 2 * 25) + 4 * 16) / 2
    assert (padded.rows, padded.masks, padded.passes) == (4, 12.0, 2)


def test_passages_that_queries_share_are_embedded_once() -> None:
    made = plan(*GOOD)
    shared = make_plan(replace(made.run, lengths=replace(made.run.lengths, distinct_share=0.5)))
    assert made.step.work.passages.rows == 16 * 7
    assert shared.step.work.passages.rows == 16 * 7 / 2
    assert shared.step.work.joint == made.step.work.joint


def test_a_gpu_hides_what_its_host_starts_a_core_does_not() -> None:
    work = Work(flops_fp32=1e12, operations=1e4)
    for name in ("h100", "cpu-2-core"):
        figures = load_hardware(name)
        computed_s = 1e12 / (figures.matmul_fp32.value * figures.product_share.value)
        started_s = 1e4 * figures.launch_s.value
        expected = max(computed_s, started_s) if figures.kind == "gpu" else computed_s + started_s
        assert Device(profile=figures).seconds(work) == pytest.approx(expected)


def test_waits_are_in_the_hours() -> None:
    late = plan(*GOOD, "refresh.adopt_after_steps=250", "pretrain.micro_batch_size=16")
    wait_s = late.refresh.refresh_s - 250 * late.step.step_s
    assert late.refresh_wait_s == pytest.approx(wait_s)
    assert late.hours == pytest.approx(200_000 * (late.step.step_s + wait_s / 500) / 3600)
    assert late.node_hours == 8 * late.hours
    in_time = plan(*GOOD, f"refresh.every_steps={late.keeping_pace_steps}",
                   f"refresh.adopt_after_steps={late.keeping_pace_steps}", "pretrain.micro_batch_size=16")  # fmt: skip
    assert in_time.refresh_wait_s == 0
    assert in_time.mean_step_s == in_time.step.step_s


def test_index_ranks_that_keep_pace() -> None:
    def made(number: int, adopt_after_steps: int, trainers: int = 4) -> Plan:
        layout = Layout(nodes=8, trainers_per_node=trainers, index_per_node=number)
        later = f"refresh.adopt_after_steps={adopt_after_steps}"
        return plan(*GOOD, later, "pretrain.micro_batch_size=16", layout=layout)

    late = made(1, 500)
    layout = layout_that_keeps_pace(late)
    assert layout is not None
    wanted = layout.index_per_node
    assert late.refresh_wait_s > 0
    for number, keeps in ((wanted, True), (wanted - 1, False)):
        assert (made(number, 500).refresh_wait_s == 0) is keeps
    # A node has eight devices, and ranks that share one take turns.
    assert layout_that_keeps_pace(made(1, 500, trainers=8 - wanted + 1)) is None
    assert layout_that_keeps_pace(made(4, 250)) is None


def test_builder_ranks_that_keep_pace() -> None:
    def made(number: int) -> Plan:
        layout = Layout(nodes=8, trainers_per_node=2, index_per_node=2, builders_per_node=number)
        return plan(*GOOD, "refresh.adopt_after_steps=500", layout=layout)

    late = made(1)
    layout = layout_that_keeps_pace(late)
    assert layout is not None
    assert layout.index_per_node == 2
    assert late.refresh_wait_s > made(layout.builders_per_node).refresh_wait_s == 0
    said = f", or {layout.builders_per_node} builder ranks a node instead of 1"
    assert any(sentence.endswith(said) for sentence in warnings(late)), warnings(late)


def test_builder_ranks_embed_instead_of_shards() -> None:
    own = plan(*GOOD, layout=Layout(nodes=8, trainers_per_node=4, index_per_node=2))
    others = plan(*GOOD, layout=Layout(nodes=8, trainers_per_node=4, index_per_node=2, builders_per_node=2))
    assert others.refresh.embed_s < own.refresh.embed_s  # not interrupted by searches
    assert others.refresh.vectors_s > 0
    assert "tower" in own.index.device
    assert "tower" not in others.index.device
    assert others.builder is not None
    assert "tower" in others.builder.device


numbers = st.integers(1, 4)


@settings(max_examples=25, deadline=None)
@given(nodes=numbers, trainers=numbers, index=numbers, passages=st.integers(1_000, 10**7))
def test_more_of_anything(nodes: int, trainers: int, index: int, passages: int) -> None:
    def made(nodes: int = nodes, trainers: int = trainers, index: int = index, passages: int = passages) -> Plan:
        layout = Layout(nodes=nodes, trainers_per_node=trainers, index_per_node=index)
        return plan(*GOOD, layout=layout, passages=passages)

    base = made()
    assert made(index=2 * index).refresh.refresh_s <= base.refresh.refresh_s
    assert made(index=2 * index).index.host_bytes <= base.index.host_bytes
    more = made(passages=2 * passages)
    assert more.refresh.refresh_s > base.refresh.refresh_s
    assert more.search.search_s > base.search.search_s
    assert more.index.host_bytes > base.index.host_bytes
    assert more.storage.kept > base.storage.kept
    assert made(trainers=2 * trainers).trainer.device_bytes <= base.trainer.device_bytes
    assert made(trainers=2 * trainers).search.busy_s > base.search.busy_s
    assert all(value >= 0 for value in (*base.trainer.device.values(), *base.index.host.values(), base.search_wait_s))


def test_a_plan_that_works_has_no_warning() -> None:
    assert warnings(plan(*GOOD)) == []


SMALL = Layout(nodes=1, trainers_per_node=1, index_per_node=1)
TINY = ("model.num_layers=1", "model.hidden_size=16", "model.num_heads=1", "model.intermediate_size=16",
        "data.query_tokens=16", "data.passage_tokens=16", "pretrain.candidates=2")  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "options", "said"),
    [
        ((), {}, r"float32, of which these GPUs do 15 times less than of bf16: runtime.deepspeed=zero2-bf16"),
        (("index.embed_dtype=fp32",), {}, r"embedded in float32, likewise 15 times slower.*index.embed_dtype=bf16"),
        ((), {"layout": Layout(nodes=1, trainers_per_node=6, index_per_node=4)}, r"10 ranks share the 8 GPUs"),
        ((), {"hardware": "cpu-2-core", "layout": Layout(nodes=1, trainers_per_node=2, index_per_node=1)}, "2 cores"),
        ((), {"passages": 10}, r"32 index ranks for 10 passages.* start fewer"),
        (("pretrain.micro_batch_size=64",), {},
         r"a trainer needs \d+.\d GiB of a GPU's 79 GiB: pretrain.micro_batch_size=32 .*accumulation_steps=2"),
        (("index.embed_batch_tokens=9000000",), {}, r"an index rank needs .* lower index.embed_batch_tokens"),
        ((), {"passages": 4 * 10**9, "layout": SMALL}, r"ranks of a node need .* of its 1900 GiB: more nodes"),
        ((), {"layout": SMALL}, r"a rebuild takes .* trainers wait .* Set refresh.every_steps=\d+"),
        (("pretrain.micro_batch_size=1",), {"passages": 10**11},
         r"index ranks work .* start more of them, or index.factory=auto, which looks at fewer passages$"),
        (("pretrain.micro_batch_size=64", *TINY),
         {"hardware": "cpu-2-core", "layout": SMALL, "passages": 900_000}, r"index ranks work .* start more of them$"),
        (("pretrain.micro_batch_size=1", "index.factory=auto"), {"passages": 10**11},
         r"if every passage is looked at, as the plan has it; index.factory=auto looks at fewer: start more"),
        (("pretrain.search_ahead=0",), {}, r"more than the steps that it is sent ahead: pretrain.search_ahead=1$"),
        (("pretrain.save_every_steps=1",), {}, r"a checkpoint takes .* raise pretrain.save_every_steps"),
    ],
)  # fmt: skip
def test_every_warning_says_what_to_change(overrides: tuple[str, ...], options: dict, said: str) -> None:
    given_shape = () if "15 times less" in said else GOOD
    found = warnings(plan(*given_shape, *overrides, **options))
    assert any(re.search(said, sentence) for sentence in found), found


def test_the_remedy_for_memory_fits_when_taken() -> None:
    full = plan(*GOOD, "pretrain.micro_batch_size=64")
    (sentence,) = [each for each in warnings(full) if "a trainer needs" in each]
    remedy = sentence.rpartition(": ")[2].split()
    assert not any("a trainer needs" in each for each in warnings(plan(*GOOD, "pretrain.micro_batch_size=64", *remedy)))


def test_a_remedy_that_takes_time_which_is_not_planned_says_so() -> None:
    found = warnings(plan(*GOOD, "model.num_layers=400", "pretrain.micro_batch_size=1", layout=SMALL))
    (sentence,) = [each for each in found if "a trainer needs" in each]
    assert re.search(r"deepspeed=zero3-bf16-offload .*\(not modelled: the time that offloading takes", sentence)


def test_nothing_helps_a_model_that_is_too_large() -> None:
    found = warnings(plan(*GOOD, "model.num_layers=4000", "model.hidden_size=12288", layout=SMALL))
    assert any("no setting that was tried makes it fit" in sentence for sentence in found)


def test_a_plan_as_people_and_programs_read_it() -> None:
    made = plan(*GOOD, layout=Layout(nodes=8, trainers_per_node=4, index_per_node=3, builders_per_node=1))
    text = describe(made, name="h100")
    for word in (
        "32 trainers, 24 index ranks, 8 builder ranks",
        "builder rank",
        "node-hours",
        "longest lengths",
        "batch 512",
    ):
        assert word in text
    found = json.loads(json.dumps(as_json(made, name="h100")))
    assert found["layout"]["global_batch"] == 512
    assert found["step_s"] == pytest.approx(sum(found["step_parts_s"].values()))
    assert set(found["memory"]) == {"trainer", "index", "builder"}


@pytest.mark.parametrize("name", hardware_names())
def test_packaged_profiles_say_where_each_number_comes_from(name: str, tmp_path: Path) -> None:
    profile = load_hardware(name)
    path = tmp_path / "mine.yaml"
    path.write_text(dump_hardware(profile))
    assert load_hardware(path) == profile
    assert all(figure["source"] for figure in profile.model_dump().values() if isinstance(figure, dict))


def test_measured_figures_take_the_place_of_others() -> None:
    profile = with_figures(load_hardware("cpu-2-core"), {"bandwidth": 123456.0})
    assert (profile.bandwidth.value, profile.bandwidth.basis) == (123000.0, "measured")
    assert profile.disk == load_hardware("cpu-2-core").disk


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "did you mean h100"), ("about: [", "cannot read"), ("about: mine", "no hardware profile: .*kind: ")],
)
def test_a_profile_that_is_none(content: str | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=said):
        load_hardware("h10" if content is None else path)


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(cli.app, ["plan", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.output


def test_passages_and_lengths_come_from_shards_that_are_here(tmp_path: Path) -> None:
    make_data(tmp_path)
    places = [f"data.{name}={tmp_path / name}" for name in ("corpus", "pretrain", "tokenizer")]
    out = run("--config", "demo", "--hardware", "cpu-2-core", "--index-per-node", 1, "--json", *places)
    assert json.loads(out)["layout"]["passages"] == 72
    lengths = Lengths.sample(load("demo", places).data)
    assert lengths.are_sampled
    assert 5 < lengths.passages_N.mean() < 64
    assert "sampled lengths" in run("--config", "demo", "--hardware", "cpu-2-core", "--index-per-node", 1, *places)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--nodes", 8), "data.corpus=/none is not here .* --passages 13353718"),
        (("--measure", "--hardware", "h100"), "--hardware would be ignored: --measure takes"),
        (("--study", "x", "--nodes", 2), r"\[SETTING=VALUE\]..., --config, --nodes would be ignored: --study has"),
        (
            ("--passages", 9, "--nodes", 3),
            "index.num_shards=16 cannot be shared evenly by 3 nodes.*--index-per-node.*=18",
        ),
        (("--passages", 9, "--nodes", 0), "--nodes 0: a run needs at least 1"),
        (("--passages", 9, "--trainers-per-node", 0), "--trainers-per-node 0: a run needs"),
        (("--passages", 9, "--builders-per-node", -1), "--builders-per-node -1: 0 lets index ranks embed"),
        (("--write", "x.yaml"), "--write x.yaml needs --measure"),
        (("--passages", 9, "optimizer.clip=local"), "optimizer.clip=local needs each trainer's whole gradient"),
    ],
)
def test_what_cannot_be_planned(options: tuple[object, ...], said: str) -> None:
    assert re.search(said, run("--config", "realm-base", *NOWHERE, *options, code=2))


def test_a_plan_needs_no_data() -> None:
    assert "9,000 passages, longest lengths" in run("--config", "realm-base", "--index-per-node", 1, "--passages", 9000)
    assert "there is no data.corpus to count its passages" in run("--config", "realm-base", code=2)
    assert "needs settings and the size of a corpus: realm-ds plan --config" in run(code=2)


def test_a_study_is_of_nodes_of_eight_gpus(tmp_path: Path) -> None:
    said = run("--study", tmp_path, "--hardware", "cpu-2-core", code=2)
    assert "--hardware cpu-2-core has 2 cores a node, but the study is of nodes of 8 GPUs" in said
    assert not list(tmp_path.iterdir())


def test_layouts_share_the_settings_ranks() -> None:
    config = load("realm-base", [*NOWHERE, "index.builders=8"])
    layout = layout_of(config, nodes=8, trainers_per_node=4, index_per_node=None, builders_per_node=None)
    assert (layout.trainers, layout.index_ranks, layout.builders, layout.ranks_per_node) == (32, 16, 8, 7)


def test_a_plan_needs_no_torch() -> None:
    program = (
        "import sys; from realm_ds.cli.main import app; "
        "app(['plan', '--config', 'realm-base', 'data.corpus=/n', 'data.tokenizer=/n', '--passages', '9000'], "
        "standalone_mode=False); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True).returncode == 0


def test_the_scale_study_in_the_docs_is_what_the_command_says() -> None:
    text = (REPOSITORY / "docs" / "scaling.md").read_text(encoding="utf-8")
    assert text.partition(MARK_BEGIN)[2].partition(MARK_END)[0].strip() == table(study())


def test_the_study_is_of_the_papers_batch() -> None:
    for row in study():
        assert row.plan.global_batch == 512
        assert row.num_gpus == 8 * row.plan.run.layout.nodes
        assert not warnings(row.plan), (row.num_gpus, warnings(row.plan))
